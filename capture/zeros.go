package capture

import (
	"context"
	"math/bits"
	"math/rand/v2"

	"snap/hv"
	"snap/phys"
)

// How many pages are sampled to tell how many of a guest's hold only zeros.
const (
	zeroSampleChunks = 64
	zeroSamplePages  = 16
)

const (
	// packFrom is the part of a guest's pages from which on a copy leaves zero ones out.
	// Below it, to move the others takes longer while the guest stands still than is
	// saved before (BenchmarkCopy).
	packFrom = 0.5
	// packMargin is by how much that part may be less in the end: with so many pages
	// sampled, five standard errors at most.
	packMargin = 0.1
)

// sampleZeros finds out which part of the pages of set hold only zeros, once in a session,
// by chunks that the guest can't know beforehand. It is a guess of what will be copied, so
// what can't be read now doesn't count; and where reads are dear none are made for it.
func (s *Session) sampleZeros(ctx context.Context, set phys.Runs) {
	if s.zeros != nil {
		return
	}
	s.zeros = new(float64)
	if hv.ReadCostOf(s.Memory).Dear() {
		return
	}
	var pages, zero uint64
	buf := make([]byte, zeroSamplePages<<phys.PageShift)
	for _, r := range (sampleShape{zeroSampleChunks, zeroSamplePages}).pick(phys.NewIndex(set), rand.IntN(1<<16)) {
		for _, r := range piecesOf(phys.Runs{r}, zeroSamplePages) {
			b := buf[:r.Size()]
			if s.Memory.ReadPhys(ctx, b, r.Base.Addr()) != nil {
				continue
			}
			pages += r.Pages
			zero += r.Pages - uint64(bits.OnesCount64(notZero(b)))
		}
	}
	if pages > 0 {
		*s.zeros = float64(zero) / float64(pages)
	}
	s.Options.debug(ctx, "sampled for pages of zeros", "of_it_zero", *s.zeros, "left_out_of_the_copy", s.packs())
}

// packs reports whether a copy leaves out pages of zeros.
func (s *Session) packs() bool { return s.zeros != nil && *s.zeros >= packFrom }

// layout lays out so many pages in memory.
func (s *Session) layout(memory hostMemory, pages uint64) (copyLayout, error) {
	room := uint64(len(memory)) >> phys.PageShift
	switch {
	case s.packs() && packedRoom(pages, s.Options.copyWorkers()) <= room:
		return newPackedLayout(memory, pages), nil
	case pages <= room:
		return flatLayout(memory), nil
	}
	return nil, errCopyFull
}

// layoutRoom is how many pages of memory layout wants for so many pages.
func (s *Session) layoutRoom(pages uint64) uint64 {
	if s.packs() {
		return packedRoom(pages, s.Options.copyWorkers())
	}
	return pages
}

// layoutTakes is how many of those a copy of so many pages is expected to fill.
func (s *Session) layoutTakes(pages uint64) uint64 {
	if s.packs() {
		kept := uint64(float64(pages) * (1 - *s.zeros + packMargin))
		return min(packedRoom(kept, s.Options.copyWorkers()), packedRoom(pages, s.Options.copyWorkers()))
	}
	return pages
}
