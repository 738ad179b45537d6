package dump

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
)

// ExpandStats says what Expand wrote.
type ExpandStats struct {
	Bytes uint64 // length of the expanded dump
	Holes uint64 // of those, bytes left as holes
}

// Expand writes the plain dump to out, which must be an empty regular file.
// Stretches of zeros become holes, and every checksum is verified on the way.
// It refuses a dump that is shorter than its header says. It does not sync or
// close out. progress may be nil.
func Expand(ctx context.Context, f *File, out *os.File, progress *Progress) (*ExpandStats, error) {
	if err := f.Complete(); err != nil {
		return nil, err
	}
	fi, err := out.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at the destination: %w", err)
	}
	if !fi.Mode().IsRegular() || fi.Size() != 0 {
		return nil, fmt.Errorf("expand to %s: not an empty regular file", out.Name())
	}
	if progress == nil {
		progress = new(Progress)
	}
	progress.Total.Store(uint64(f.Size()))
	var holes atomic.Uint64
	err = f.body.each(ctx, func(p []byte, off int64) error {
		n, err := writeSparse(out, p, off)
		if err != nil {
			return fmt.Errorf("write expanded dump: %w", err)
		}
		holes.Add(n)
		progress.Done.Add(uint64(len(p)))
		progress.Written.Add(uint64(len(p)) - n)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := out.Truncate(f.Size()); err != nil {
		return nil, fmt.Errorf("write expanded dump: %w", err)
	}
	return &ExpandStats{Bytes: uint64(f.Size()), Holes: holes.Load()}, nil
}
