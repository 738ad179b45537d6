package file

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sort"

	"snap/hv"
	"snap/input"
)

// Layout of makedumpfile's flattened format, which lets a file that is written in
// any order go through a pipe (makedumpfile's IMPLEMENTATION, and its
// makedumpfile.h): a header, and records of an offset, a length and so many bytes,
// until one with -1 for both. Numbers are big-endian. QEMU before 8.2 writes kdump
// in no other way.
const (
	flattenedMagic   = "makedumpfile\x00\x00\x00\x00"
	flattenedHeader  = 4096
	flattenedRecord  = 16
	flattenedType    = 1
	flattenedVersion = 1
)

// Caps on the records: QEMU writes 16 KiB in each, so that the first is of 16 TiB,
// and those that follow each other in both files count as one stretch.
const (
	maxFlatRecords   = 1 << 30
	maxFlatStretches = 1 << 22
)

// flattened is another format, flattened. What is in it is opened as itself.
func flattened() format {
	return format{
		name:  "flattened core",
		takes: func(head []byte, _ Options) bool { return bytes.HasPrefix(head, []byte(flattenedMagic)) },
		open: func(ctx context.Context, b body, o Options) (hv.Source, error) {
			f, err := openFlattened(ctx, b)
			if err != nil {
				return nil, err
			}
			head := make([]byte, headSize)
			n, err := f.ReadAt(head, 0)
			if err != nil && n < headSize {
				return nil, fmt.Errorf("what is flattened ends within %d bytes: %w", headSize, hv.ErrFormat)
			}
			for _, k := range []format{elfCore(), kdump()} {
				if k.takes(head, o) {
					return k.open(ctx, &unfolded{body: b, ReaderAt: f, size: f.size}, o)
				}
			}
			return nil, fmt.Errorf("what is flattened begins with % x: %w", head, ErrUnknown)
		},
	}
}

// stretch is records of one length that follow each other in both files.
type stretch struct {
	to   int64 // offset in the file that was flattened
	at   int64 // offset in this file of the first record's bytes
	each int64 // bytes of a record
	n    int64 // records
}

func (s *stretch) end() int64 { return s.to + s.each*s.n }

// flatFile reads the file that was flattened. What nothing was written to is zero.
type flatFile struct {
	r         io.ReaderAt
	stretches []stretch // ascending, disjoint
	size      int64
}

// openFlattened reads the records' headers.
func openFlattened(ctx context.Context, b body) (*flatFile, error) {
	head := make([]byte, 32)
	if err := readAt(b, head, 0); err != nil {
		return nil, err
	}
	be := binary.BigEndian
	if kind, version := be.Uint64(head[16:]), be.Uint64(head[24:]); kind != flattenedType || version != flattenedVersion {
		return nil, fmt.Errorf("flattened in form %d, version %d; want %d and %d: %w", kind, version, flattenedType, flattenedVersion, hv.ErrFormat)
	}
	f := &flatFile{r: b}
	record := make([]byte, flattenedRecord)
	for i, at := 0, int64(flattenedHeader); ; i++ {
		if i%4096 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err := readAt(b, record, uint64(at)); err != nil {
			return nil, fmt.Errorf("record %d of what is flattened: %w", i, err)
		}
		to, n := int64(be.Uint64(record)), int64(be.Uint64(record[8:]))
		if to == -1 && n == -1 {
			break
		}
		at += flattenedRecord
		if to < 0 || n <= 0 || n > b.Size()-at || to > maxFileOffset-n || i >= maxFlatRecords {
			return nil, fmt.Errorf("record %d of what is flattened, of %d bytes for offset %d, at %#x: it is cut short or damaged: %w", i, n, to, at, hv.ErrFormat)
		}
		if err := f.add(to, at, n); err != nil {
			return nil, err
		}
		at += n
	}
	return f, f.sort()
}

// add takes a record's bytes, at that offset of this file.
func (f *flatFile) add(to, at, n int64) error {
	if k := len(f.stretches); k > 0 {
		s := &f.stretches[k-1]
		if s.end() == to && s.each == n && s.at+s.n*(s.each+flattenedRecord) == at {
			s.n++
			return nil
		}
	}
	if len(f.stretches) == maxFlatStretches {
		return fmt.Errorf("more than %d stretches in what is flattened: %w", maxFlatStretches, hv.ErrFormat)
	}
	f.stretches = append(f.stretches, stretch{to, at, n, 1})
	return nil
}

func (f *flatFile) sort() error {
	slices.SortStableFunc(f.stretches, func(a, b stretch) int { return cmp.Compare(a.to, b.to) })
	for i := range f.stretches {
		if s := &f.stretches[i]; s.to < f.size {
			return &input.Refusal{
				What: "a flattened core some of which was written twice", Why: "snap reads one that was written once",
				Next: "put it in order first: makedumpfile -R OUT < FILE",
			}
		}
		f.size = f.stretches[i].end()
	}
	return nil
}

// ReadAt implements io.ReaderAt.
func (f *flatFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= f.size {
			return done, io.EOF
		}
		rest := p[done:]
		i := sort.Search(len(f.stretches), func(i int) bool { return f.stretches[i].end() > at })
		s := &f.stretches[i]
		if at < s.to { // nothing was written there
			n := min(int64(len(rest)), s.to-at)
			clear(rest[:n])
			done += int(n)
			continue
		}
		record, skip := (at-s.to)/s.each, (at-s.to)%s.each
		rest = rest[:min(int64(len(rest)), s.each-skip)]
		n, err := f.r.ReadAt(rest, s.at+record*(s.each+flattenedRecord)+skip)
		done += n
		if n < len(rest) {
			return done, err
		}
	}
	return done, nil
}
