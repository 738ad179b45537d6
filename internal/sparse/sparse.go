// Package sparse finds the parts of a file that hold data, so that holes need
// not be read. It is for whoever reads files: guests in files and memory that a
// file backs, dumps, and places that give back what was written to them.
package sparse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Finder is bytes that know where they may hold anything but zeros. It is safe for
// concurrent use.
type Finder interface {
	// NextData returns the first part of [off, end) that may hold anything but
	// zeros; lo is end where there is none.
	NextData(off, end int64) (lo, hi int64, err error)
}

// Extent is a range of bytes of a file.
type Extent struct{ Off, Size int64 }

// NextData is Finder.NextData of a file. On a file system without holes all of it is
// data. It moves the file's offset, and needs none: several may ask at a time.
func NextData(f *os.File, off, end int64) (lo, hi int64, err error) {
	if off >= end {
		return end, end, nil
	}
	lo, err = f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO), err == nil && lo >= end:
		return end, end, nil // nothing but a hole follows
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ESPIPE):
		return off, end, nil
	case err != nil:
		return 0, 0, fmt.Errorf("find data in %s from %#x: %w", f.Name(), off, err)
	}
	hi, err = f.Seek(lo, unix.SEEK_HOLE)
	if err == nil && (lo < off || hi <= lo) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find the hole in %s after %#x: %w", f.Name(), lo, err)
	}
	return lo, min(hi, end), nil
}

// File is a file of the operating system as a Finder.
type File struct{ *os.File }

// NextData implements Finder.
func (f File) NextData(off, end int64) (lo, hi int64, err error) { return NextData(f.File, off, end) }

// maxExtents bounds what one call of Data returns.
const maxExtents = 1 << 20

// Data returns the parts of [off, off+size) of f that may hold anything but
// zeros, ascending. Holes are left out, but the smallest where there are more than
// a million parts.
func Data(ctx context.Context, f Finder, off, size int64) ([]Extent, error) {
	out := Merger{Most: maxExtents}
	for at, end := off, off+size; at < end; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		lo, hi, err := f.NextData(at, end)
		if err != nil {
			return nil, err
		}
		if lo < hi {
			out.Add(Extent{lo, hi - lo})
		}
		at = hi
	}
	return out.Parts(), nil
}

// Merger keeps so many parts at most, however many it is given: when there would be
// more, those become one that have the least between them.
type Merger struct {
	Most  int
	gap   int64 // parts with no more between them are one
	parts []Extent
}

// Add takes a part that ends behind all others, and begins behind where the last one
// does.
func (m *Merger) Add(e Extent) {
	for {
		if n := len(m.parts); n > 0 && m.joins(m.parts[n-1], e) {
			m.parts[n-1].Size = e.Off + e.Size - m.parts[n-1].Off
			return
		}
		if len(m.parts) < m.Most {
			m.parts = append(m.parts, e)
			return
		}
		m.widen()
	}
}

// Parts returns what is kept: ascending, with something between any two.
func (m *Merger) Parts() []Extent { return m.parts }

func (m *Merger) joins(last, e Extent) bool { return e.Off-(last.Off+last.Size) <= m.gap }

// widen makes one of parts that have less between them than any that were joined
// before.
func (m *Merger) widen() {
	m.gap = max(2*m.gap, 1)
	kept := m.parts[:1]
	for _, p := range m.parts[1:] {
		if last := &kept[len(kept)-1]; m.joins(*last, p) {
			last.Size = p.Off + p.Size - last.Off
		} else {
			kept = append(kept, p)
		}
	}
	m.parts = kept
}
