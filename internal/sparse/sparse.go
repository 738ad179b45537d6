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

// Each calls use, in ascending order, with the parts of [off, end) of f that may hold
// anything but zeros. It ends early when ctx does.
func Each(ctx context.Context, f Finder, off, end int64, use func(lo, hi int64)) error {
	for off < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		lo, hi, err := f.NextData(off, end)
		if err != nil {
			return err
		}
		if lo < hi {
			use(lo, hi)
		}
		off = hi
	}
	return nil
}
