package capture

import (
	"bytes"
	"context"
	"io"
	"math"

	"snap/dump"
	"snap/phys"
	"snap/store"
)

// What a frame costs beside its pages, and what stands behind the frames: the
// container's index and the account of the dump.
const (
	frameOverhead = 64
	tailBytes     = 1 << 20
)

// A dump's size is estimated from a sample: it is not taken to be certain within
// these parts of it, and standard errors of its frames.
const (
	sizeMargin    = 0.15
	sizeDeviation = 4
)

// plainBlock is what a plain dump's holes are made of. Whoever writes the file may
// leave larger ones, never smaller.
const plainBlock = 64 << 10

var zeroBlock [plainBlock]byte

// sampledFrames adds up what the frames of a sample take: the estimate is by the
// ratio of bytes to pages, since frames hold more or less of the sample.
type sampledFrames struct {
	plain  bool // zeros in a frame take no room
	stored float64
	blocks float64 // bytes of blocks with something in them, if plain
	frames []sampledFrame
}

// sampledFrame is a frame's pages of the sample, and the bytes that they take.
type sampledFrame struct{ pages, bytes float64 }

// add is dump.Options.Frame.
func (s *sampledFrames) add(stored []byte, read uint64) {
	n := float64(len(stored))
	if s.plain {
		s.blocks += float64(heldIn(stored, plainBlock))
		n = float64(heldIn(stored, phys.PageSize))
	}
	s.stored += n
	s.frames = append(s.frames, sampledFrame{float64(read), n})
}

// heldIn is how many bytes of b are in pieces that don't hold only zeros.
func heldIn(b []byte, piece int) (n int) {
	for len(b) > 0 {
		p := b[:min(piece, len(b))]
		b = b[len(p):]
		if !bytes.Equal(p, zeroBlock[:len(p)]) {
			n += len(p)
		}
	}
	return n
}

// size is what the whole file takes: the frames of zeros of a sample that was
// written in so many bytes, and all else scale times.
func (s *sampledFrames) size(written uint64, scale float64) store.Size {
	if s.plain {
		// A page with something in it takes its room; a hole is larger.
		spread := s.spread(scale)
		low, high := scale*s.stored, scale*s.blocks
		return store.Size{
			Least:  uint64(max(0, low-sizeMargin*low-spread)),
			Likely: uint64((low + high) / 2),
			Most:   uint64(high+sizeMargin*high+spread) + tailBytes,
		}
	}
	fixed := max(0, float64(written)-s.stored)
	likely := fixed + scale*s.stored
	spread := sizeMargin*likely + s.spread(scale)
	return store.Size{Least: uint64(max(fixed, likely-spread)), Likely: uint64(likely), Most: uint64(likely+spread) + tailBytes}
}

// spread is how far the estimate may be off by the choice of the sample.
func (s *sampledFrames) spread(scale float64) float64 {
	pages := 0.0
	for _, f := range s.frames {
		pages += f.pages
	}
	if scale <= 1 || pages == 0 {
		return 0
	}
	square := 0.0
	for _, f := range s.frames {
		off := f.bytes - s.stored/pages*f.pages
		square += off * off
	}
	return sizeDeviation * scale * math.Sqrt(square)
}

// worstBytes is what a dump of so many pages takes at most, if nothing can be
// compressed.
func worstBytes(p *dump.Plan, pages uint64) uint64 {
	n := uint64(len(p.Header)) + pages<<phys.PageShift
	return n + (n/dump.DefaultFrameSize+1)*frameOverhead + tailBytes
}

// announce tells a place that asks for it how long the dump of a plan can become.
func announce(w io.Writer, p *dump.Plan) error {
	s, ok := w.(store.Sized)
	if !ok {
		return nil
	}
	pages, err := phys.SetOf(p.Runs)
	if err != nil {
		return err
	}
	s.Expect(int64(min(worstBytes(p, pages.Pages()), math.MaxInt64)))
	return nil
}

// atMost is size of what can't have more bytes than that.
func atMost(size store.Size, most uint64) store.Size {
	return store.Size{Least: min(size.Least, most), Likely: min(size.Likely, most), Most: min(size.Most, most)}
}

// fits fails with a *store.SpaceError if the dump that plan is of can't fit the
// place, and warns where it may not. It is sampled only where that is a question.
// What can't be found out is found out by writing.
func (o *Options) fits(ctx context.Context, place store.Place, name string, plan *dump.Plan, sample func() (*Sample, error)) (warning string, err error) {
	space, err := place.Space(ctx)
	if err != nil || !space.Known {
		o.debug(ctx, "the space at the destination is not known", "why", err)
		return "", nil
	}
	pages, err := phys.SetOf(plan.Runs)
	if err != nil {
		return "", err
	}
	if worstBytes(plan, pages.Pages()) <= space.Sure {
		return "", nil
	}
	s, err := sample()
	if err != nil {
		o.debug(ctx, "the size of the dump can't be estimated", "why", err)
		return "", context.Cause(ctx)
	}
	return store.Fit(ctx, place, name, s.Room)
}

// ExpandedSize estimates, from a sample of it, what the plain dump of f takes in a
// folder, where stretches of zeros are holes.
func ExpandedSize(ctx context.Context, f *dump.File) (store.Size, error) {
	whole := uint64(f.Size())
	if !f.Container().RandomAccess {
		// Nothing in it can be looked at before the rest. What was compressed had
		// at least its bytes.
		return store.Size{Least: min(whole, uint64(f.Container().FileSize)/10*9), Likely: whole, Most: whole}, nil
	}
	frames := sampledFrames{plain: true}
	const chunk = 1 << 20
	chunks := (whole + chunk - 1) / chunk
	step := max(1, chunks/sampleChunks)
	buf := make([]byte, chunk)
	read := uint64(0)
	for i := uint64(0); i < chunks; i += step {
		if ctx.Err() != nil {
			return store.Size{}, context.Cause(ctx)
		}
		part := buf[:min(chunk, whole-i*chunk)]
		if _, err := f.ReadAt(part, int64(i*chunk)); err != nil {
			return store.Size{}, err
		}
		frames.add(part, uint64(len(part))>>phys.PageShift)
		read += uint64(len(part))
	}
	size := frames.size(0, float64(whole)/float64(max(1, read)))
	return atMost(size, whole), nil
}
