package dump

import (
	"context"
	"fmt"
	"io"
)

// ExpandStats says what Expand wrote.
type ExpandStats struct {
	Bytes uint64 // length of the expanded dump
	Holes uint64 // of those, bytes left as holes
}

// Expand writes the plain dump to w. Stretches of zeros become holes if w is a
// HoleWriter, and every checksum is verified on the way, that of a frame before
// any of it is written. It refuses a dump that is shorter than its header says.
// progress may be nil.
func Expand(ctx context.Context, f *File, w io.Writer, progress *Progress) (*ExpandStats, error) {
	if err := f.Complete(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = new(Progress)
	}
	progress.Total.Store(uint64(f.Size()))
	out := newOutlet(w, true)
	holes := func() uint64 {
		if h, ok := out.(*holeOutlet); ok {
			return h.n
		}
		return 0
	}
	var order queue
	err := f.body.each(ctx, func(ctx context.Context, p []byte, off int64) error {
		if err := order.wait(ctx, off); err != nil {
			return err
		}
		if _, err := out.Write(p); err != nil {
			return fmt.Errorf("write expanded dump at offset %#x: %w", off, err)
		}
		end := off + int64(len(p))
		progress.Done.Store(uint64(end))
		progress.Written.Store(uint64(end) - holes())
		order.done(end)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := out.Flush(); err != nil {
		return nil, fmt.Errorf("write expanded dump: %w", err)
	}
	return &ExpandStats{Bytes: uint64(f.Size()), Holes: holes()}, nil
}
