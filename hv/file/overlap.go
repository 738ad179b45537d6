package file

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"snap/hv"
	"snap/phys"
)

// compareChunk is how much is compared at a time where ranges overlap.
const compareChunk = 1 << 20

// flatten returns ranges without overlaps that hold the same memory as segs, which
// may overlap, as in cores that dump-guest-memory wrote with paging: one range for
// each stretch of virtual addresses. Where two ranges have the same memory at
// different places of the file, the bytes must agree; the error, hv.ErrFormat, says
// at which address they don't. No more bytes are compared than the file has.
func flatten(ctx context.Context, b body, segs []Segment) ([]Segment, error) {
	segs = slices.Clone(segs)
	slices.SortStableFunc(segs, func(x, y Segment) int { return cmp.Compare(x.GPA, y.GPA) })
	f := flattener{body: b, budget: b.Size()}
	for _, g := range segs {
		if err := g.check(b.Size()); err != nil {
			return nil, err
		}
		if err := f.add(ctx, g); err != nil {
			return nil, err
		}
	}
	return f.out, nil
}

type flattener struct {
	body
	out    []Segment // ascending, disjoint
	budget int64     // bytes that may still be compared
}

func (g Segment) end() phys.Addr { return g.GPA + phys.Addr(g.Size) }

// from returns the part of g from at on, which lies in it.
func (g Segment) from(at phys.Addr) Segment {
	skip := uint64(at - g.GPA)
	return Segment{GPA: at, Size: g.Size - skip, FileOffset: g.FileOffset + int64(skip)}
}

// add takes a range that begins no earlier than any before it.
func (f *flattener) add(ctx context.Context, g Segment) error {
	for i := len(f.out) - 1; i >= 0 && f.out[i].end() > g.GPA; i-- {
		at := max(f.out[i].GPA, g.GPA)
		n := uint64(min(f.out[i].end(), g.end()) - at)
		if g.end() <= at {
			continue // it begins behind g
		}
		if err := f.same(ctx, f.out[i].from(at), g.from(at), n); err != nil {
			return err
		}
	}
	if len(f.out) == 0 {
		f.out = append(f.out, g)
		return nil
	}
	last := &f.out[len(f.out)-1]
	if g.end() <= last.end() {
		return nil
	}
	if g.GPA < last.end() {
		g = g.from(last.end())
	}
	if g.GPA == last.end() && g.FileOffset == last.FileOffset+int64(last.Size) {
		last.Size += g.Size
		return nil
	}
	f.out = append(f.out, g)
	return nil
}

// same demands that the first n bytes of two ranges agree.
func (f *flattener) same(ctx context.Context, x, y Segment, n uint64) error {
	if x.FileOffset == y.FileOffset {
		return nil // it is the same place of the file
	}
	if n > uint64(f.budget) {
		return fmt.Errorf("memory at %#x+%#x overlaps more than the file is long: %w", uint64(y.GPA), n, hv.ErrFormat)
	}
	f.budget -= int64(n)
	bufX, bufY := make([]byte, min(n, compareChunk)), make([]byte, min(n, compareChunk))
	for off := uint64(0); off < n; off += compareChunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, q := bufX[:min(n-off, compareChunk)], bufY[:min(n-off, compareChunk)]
		if err := readAt(f.body, p, uint64(x.FileOffset)+off); err != nil {
			return err
		}
		if err := readAt(f.body, q, uint64(y.FileOffset)+off); err != nil {
			return err
		}
		if i := firstDifference(p, q); i >= 0 {
			return fmt.Errorf("memory at %#x is in the file twice, at %#x and %#x, and differs: %w",
				uint64(x.GPA)+off+uint64(i), uint64(x.FileOffset)+off+uint64(i), uint64(y.FileOffset)+off+uint64(i), hv.ErrFormat)
		}
	}
	return nil
}

func firstDifference(p, q []byte) int {
	if bytes.Equal(p, q) {
		return -1
	}
	for i := range p {
		if p[i] != q[i] {
			return i
		}
	}
	return -1
}
