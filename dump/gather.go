package dump

import (
	"bytes"
	"context"
	"fmt"
	"runtime/trace"
	"sort"

	"snap/phys"
)

var zeroPage [phys.PageSize]byte

// gatherer fills frames with the header and the guest's pages. It holds no
// state of its own and is shared by the workers.
type gatherer struct {
	*layout
	mem       phys.Reader
	frameSize int
}

// frames returns how many frames the dump has: the header's, then the pages'.
func (g *gatherer) frames() uint64 { return g.headerFrames() + g.pageFrames() }

func (g *gatherer) headerFrames() uint64 {
	return ceilDiv(uint64(len(g.header)), uint64(g.frameSize))
}

func (g *gatherer) pageFrames() uint64 {
	return ceilDiv(g.pages.Pages(), g.framePages())
}

func (g *gatherer) framePages() uint64 { return uint64(g.frameSize) / phys.PageSize }

// lastPages returns the length in bytes of the last frame of pages.
func (g *gatherer) lastPages() int {
	n := g.pages.Pages()
	if n == 0 {
		return 0
	}
	return int(n-(g.pageFrames()-1)*g.framePages()) * phys.PageSize
}

func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }

// fill sets f to the expanded bytes of frame i. Errors are those that end the
// dump; a page that can't be read is a gap in f.
func (g *gatherer) fill(ctx context.Context, f *frame, i uint64) error {
	defer trace.StartRegion(ctx, "fill").End()
	f.reset()
	if i < g.headerFrames() {
		off := int(i) * g.frameSize
		f.in = f.in[:copy(f.in[:cap(f.in)], g.header[off:min(off+g.frameSize, len(g.header))])]
		return nil
	}
	lo := (i - g.headerFrames()) * g.framePages()
	hi := min(lo+g.framePages(), g.pages.Pages())
	f.in = f.in[:(hi-lo)*phys.PageSize]
	overlays := g.overlaysIn(lo*phys.PageSize, hi*phys.PageSize)
	for n, r := range g.pages.Span(lo, hi) {
		if err := g.fillRun(ctx, f, r, f.in[(n-lo)*phys.PageSize:][:r.Size()]); err != nil {
			return err
		}
	}
	f.zero = len(overlays) == 0 && f.readPages == f.zeroPages
	if f.zero {
		return nil
	}
	f.clearHoles()
	for _, o := range overlays {
		apply(f.in, lo*phys.PageSize, o)
	}
	return nil
}

// fillRun fills p with the pages of r.
func (g *gatherer) fillRun(ctx context.Context, f *frame, r phys.Run, p []byte) error {
	if !g.partial {
		return g.read(ctx, f, r, p)
	}
	at := r.Base
	part := func(end phys.PFN) []byte {
		return p[uint64(at-r.Base)*phys.PageSize : uint64(end-r.Base)*phys.PageSize]
	}
	for i, _ := g.populated.Find(r.Base); at < r.End(); i++ {
		lo, hi := r.End(), r.End()
		if i < len(g.populated) {
			lo = min(max(g.populated[i].Base, at), r.End())
			hi = min(g.populated[i].End(), r.End())
		}
		if at < lo {
			f.unpopulated(part(lo))
			at = lo
		}
		if at < hi {
			if err := g.read(ctx, f, phys.Run{Base: at, Pages: uint64(hi - at)}, part(hi)); err != nil {
				return err
			}
			at = hi
		}
	}
	return nil
}

// read fills p with the pages of r from the guest; those that can't be read
// become gaps in f.
func (g *gatherer) read(ctx context.Context, f *frame, r phys.Run, p []byte) error {
	err := phys.ReadPages(ctx, g.mem, r, p, f.read, f.unread)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", ErrSource, err)
}

// overlaysIn returns the overlays that touch the bytes [lo, hi) behind the header.
func (g *gatherer) overlaysIn(lo, hi uint64) []placed {
	i := sort.Search(len(g.overlays), func(i int) bool { return g.overlays[i].end() > lo })
	j := i
	for j < len(g.overlays) && g.overlays[j].off < hi {
		j++
	}
	return g.overlays[i:j]
}

// apply copies the part of o that lies in p, which begins at base.
func apply(p []byte, base uint64, o placed) {
	if o.off >= base {
		copy(p[o.off-base:], o.data)
	} else {
		copy(p, o.data[base-o.off:])
	}
}

// countZero returns how many pages of p hold only zeros.
func countZero(p []byte) uint64 {
	var n uint64
	for ; len(p) > 0; p = p[phys.PageSize:] {
		if bytes.Equal(p[:phys.PageSize], zeroPage[:]) {
			n++
		}
	}
	return n
}
