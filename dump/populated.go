package dump

import (
	"context"
	"errors"

	"snap/phys"
)

var _ phys.Sparse = (*File)(nil)

// maxPopulated bounds the runs that Populated returns; where there would be more, the
// smallest stretches of zeros count as populated.
const maxPopulated = 1 << 22

// Populated implements phys.Sparse: frames of zeros, and holes of a plain file, are
// found without expanding or reading them. It is not known of a container without
// random access.
func (f *File) Populated(ctx context.Context) (set phys.Runs, known bool, err error) {
	if f.headerErr != nil {
		return nil, false, f.headerErr
	}
	finder, ok := f.body.(dataFinder)
	if !ok {
		return f.RAM(), false, nil
	}
	out := phys.RunBuilder{Most: maxPopulated}
	add := func(off, n int64) {
		lo, hi := max(uint64(off), f.layout.start), min(uint64(off+n), f.layout.size())
		if lo >= hi {
			return
		}
		// The pages, by number, that the bytes touch.
		lo, hi = (lo-f.layout.start)/phys.PageSize, (hi-f.layout.start+phys.PageSize-1)/phys.PageSize
		for _, r := range f.layout.pages.Span(lo, hi) {
			out.Add(r)
		}
	}
	if err := finder.data(ctx, add); err != nil {
		return nil, false, err
	}
	if behind := int64(f.layout.size()) - f.Size(); behind > 0 {
		add(f.Size(), behind) // it is cut short: nobody knows what was there
	}
	return out.Runs(), true, nil
}

// dataFinder is a body that knows of zeros without expanding them.
type dataFinder interface {
	// data calls use, in ascending order, with the parts of the expanded bytes that may
	// hold anything but zeros.
	data(ctx context.Context, use func(off, n int64)) error
}

func (b plainBody) data(ctx context.Context, use func(off, n int64)) error {
	for next := b.pieces(); ; {
		p, more, err := next()
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !more:
			return nil
		case !p.hole:
			use(p.off, p.size)
		}
	}
}

// data expands no frame but those that are short enough to hold nothing but zeros.
func (b *framedBody) data(ctx context.Context, use func(off, n int64)) error {
	buf := make([]byte, b.table.largest)
	for next := b.table.stretches(mayBeZeros); ; {
		s, more, err := next()
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !more:
			return nil
		case !mayBeZeros(s.frames[0]):
			use(s.frames[0].expandedAt, int64(s.frames[0].expanded))
			continue
		}
		var full []part
		err = b.expand(buf, s, func(p part) error {
			if p.data != nil {
				full = append(full, p)
			}
			return nil
		})
		if errors.Is(err, ErrFormat) {
			// Whoever reads them will see what is wrong.
			last := s.frames[len(s.frames)-1]
			full = []part{{off: s.frames[0].expandedAt, size: last.expandedAt + int64(last.expanded) - s.frames[0].expandedAt}}
		} else if err != nil {
			return err
		}
		for _, p := range full {
			use(p.off, p.size)
		}
	}
}
