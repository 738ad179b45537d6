package dump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// ExpandStats says what Expand wrote.
type ExpandStats struct {
	Bytes uint64 // length of the expanded dump
	Holes uint64 // of those, bytes left as holes
}

// Expand writes the plain dump to w, and verifies every checksum on the way, that of a
// frame before any of it is written. Stretches of zeros become holes if w is a
// HoleWriter or a ScatterWriter, to which several processors write at a time. It
// refuses a dump that is shorter than its header says. progress may be nil.
func Expand(ctx context.Context, f *File, w io.Writer, progress *Progress) (*ExpandStats, error) {
	if err := f.Complete(); err != nil {
		return nil, err
	}
	if progress == nil {
		progress = new(Progress)
	}
	progress.Total.Store(uint64(f.Size()))
	x := expansion{f: f, progress: progress}
	if err := x.write(ctx, w); err != nil {
		return nil, err
	}
	return &ExpandStats{Bytes: uint64(f.Size()), Holes: x.holes.Load()}, nil
}

// expansion is one Expand.
type expansion struct {
	f        *File
	progress *Progress
	holes    atomic.Uint64 // bytes
}

// done counts n bytes, of which so many became holes.
func (x *expansion) done(n, holes int64) {
	x.holes.Add(uint64(holes))
	x.progress.Done.Add(uint64(n))
	x.progress.Written.Add(uint64(n - holes))
}

// write writes to w in the best way that it knows.
func (x *expansion) write(ctx context.Context, w io.Writer) error {
	s, ok := w.(ScatterWriter)
	if !ok {
		return x.inOrder(ctx, w)
	}
	out, err := s.Scatter(x.f.Size())
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return x.inOrder(ctx, w)
	case err != nil:
		return fmt.Errorf("write expanded dump: %w", err)
	}
	return x.scattered(ctx, out)
}

// scattered writes what isn't zeros where it belongs.
func (x *expansion) scattered(ctx context.Context, out io.WriterAt) error {
	return x.f.body.each(ctx, func(_ context.Context, p part) error {
		holes := int64(0)
		for q := range divided(p) {
			if q.data == nil {
				holes += q.size
				continue
			}
			if _, err := out.WriteAt(q.data, q.off); err != nil {
				return fmt.Errorf("write expanded dump at offset %#x: %w", q.off, err)
			}
		}
		x.done(p.size, holes)
		return nil
	})
}

// inOrder writes from the start to the end.
func (x *expansion) inOrder(ctx context.Context, w io.Writer) error {
	out := newOutlet(w, true)
	var order queue
	err := x.f.body.each(ctx, func(ctx context.Context, p part) error {
		if err := order.wait(ctx, p.off); err != nil {
			return err
		}
		holes, err := out.part(p)
		if err != nil {
			return fmt.Errorf("write expanded dump at offset %#x: %w", p.off, err)
		}
		x.done(p.size, holes)
		order.done(p.off + p.size)
		return nil
	})
	if err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write expanded dump: %w", err)
	}
	return nil
}
