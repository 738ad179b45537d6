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

// maxExtents bounds what one call of Data returns.
const maxExtents = 1 << 20

// Data returns the parts of [off, off+size) of f that may hold anything but
// zeros, ascending. Holes are left out, but the smallest where there are more than
// maxExtents parts.
func Data(ctx context.Context, f *os.File, off, size int64) ([]Extent, error) {
	out := merger{most: maxExtents}
	for at, end := off, off+size; at < end; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		lo, hi, err := NextData(f, at, end)
		if err != nil {
			return nil, err
		}
		if lo < hi {
			out.add(Extent{lo, hi - lo})
		}
		at = hi
	}
	return out.parts, nil
}

// merger keeps so many parts at most: when there would be more, those become one that
// have the least between them.
type merger struct {
	most  int
	gap   int64 // parts with no more between them are one
	parts []Extent
}

// add takes a part behind all others.
func (m *merger) add(e Extent) {
	if m.join(m.parts, e) {
		return
	}
	for len(m.parts) == m.most {
		m.gap = max(2*m.gap, 1<<12)
		kept := m.parts[:1]
		for _, p := range m.parts[1:] {
			if !m.join(kept, p) {
				kept = append(kept, p)
			}
		}
		m.parts = kept
		if m.join(m.parts, e) {
			return
		}
	}
	m.parts = append(m.parts, e)
}

// join makes e a part of the last of parts, if it is near enough.
func (m *merger) join(parts []Extent, e Extent) bool {
	if len(parts) == 0 {
		return false
	}
	last := &parts[len(parts)-1]
	if e.Off-(last.Off+last.Size) > m.gap {
		return false
	}
	last.Size = e.Off + e.Size - last.Off
	return true
}
