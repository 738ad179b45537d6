// Package sparse finds the parts of a file that hold data, so that holes need
// not be read.
package sparse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Extent is a range of bytes of a file.
type Extent struct{ Off, Size int64 }

// maxExtents bounds what one call returns; a file of smaller pieces is taken to
// hold data everywhere.
const maxExtents = 1 << 20

// Data returns the parts of [off, off+size) of f that may hold anything but
// zeros, ascending. On a file system without holes that is all of it. It moves
// the file's offset, so f must not be read through that meanwhile.
func Data(ctx context.Context, f *os.File, off, size int64) ([]Extent, error) {
	all := []Extent{{off, size}}
	var out []Extent
	for at, end := off, off+size; at < end; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		data, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || (err == nil && data >= end) {
			return out, nil // nothing but a hole follows
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || len(out) == maxExtents {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("find data in %s from %#x: %w", f.Name(), at, err)
		}
		hole, err := f.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find the hole in %s after %#x: %w", f.Name(), data, err)
		}
		if hole <= data {
			return nil, fmt.Errorf("find the hole in %s after %#x: %w", f.Name(), data, io.ErrUnexpectedEOF)
		}
		hole = min(hole, end)
		out = append(out, Extent{data, hole - data})
		at = hole
	}
	return out, nil
}
