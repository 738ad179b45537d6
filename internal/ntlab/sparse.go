package ntlab

import (
	"context"
	"encoding/binary"
	"iter"
	"slices"
	"sync/atomic"

	"snap/phys"
)

var le = binary.LittleEndian

// page is one populated guest page.
type page = [phys.PageSize]byte

// chunkPages is how many pages one second-level table holds: 2 MiB worth.
const chunkPages = 512

type chunk [chunkPages]atomic.Pointer[page]

// sparse holds guest pages in a two-level table of pointers, so that an image
// of 1 TiB costs 4 MiB of (untouched) pointers and what was written. Pages
// that nobody wrote are generated from the fills, or are zero.
type sparse struct {
	chunks []atomic.Pointer[chunk]
	fills  []fill // ascending, disjoint
	// under has what was written before this became a copy of it; nil for none.
	under *sparse
}

func newSparse(end phys.PFN) sparse {
	return sparse{chunks: make([]atomic.Pointer[chunk], (uint64(end)+chunkPages-1)/chunkPages)}
}

// clone returns a copy that shares the pages of s until it writes to them. s must
// not be written to any more.
func (s *sparse) clone() sparse {
	return sparse{chunks: make([]atomic.Pointer[chunk], len(s.chunks)), fills: slices.Clip(s.fills), under: s}
}

// peek returns the page if it is populated, else nil. It is for reading.
func (s *sparse) peek(p phys.PFN) *page {
	for ; s != nil; s = s.under {
		if c := s.chunks[p/chunkPages].Load(); c != nil {
			if pg := c[p%chunkPages].Load(); pg != nil {
				return pg
			}
		}
	}
	return nil
}

// page returns p's bytes for writing and populates it first where need be.
func (s *sparse) page(p phys.PFN) *page {
	top := &s.chunks[p/chunkPages]
	c := top.Load()
	if c == nil {
		top.CompareAndSwap(nil, new(chunk))
		c = top.Load()
	}
	slot := &c[p%chunkPages]
	if pg := slot.Load(); pg != nil {
		return pg
	}
	fresh := new(page)
	if shared := s.under.peek(p); shared != nil {
		*fresh = *shared
	} else if f := s.fillOf(p); f != nil {
		f.generate(fresh[:], p)
	}
	slot.CompareAndSwap(nil, fresh)
	return slot.Load()
}

// read implements phys.Reader's contract over the RAM map.
func (s *sparse) read(ctx context.Context, ram phys.Runs, p []byte, at phys.Addr) error {
	if err := ctx.Err(); err != nil {
		return &phys.AccessError{At: at, Len: len(p), Err: err}
	}
	if !ram.Covers(at, uint64(len(p))) {
		return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
	}
	for len(p) > 0 {
		pfn, off := at.PFN(), at.Offset()
		n := min(len(p), int(phys.PageSize-off))
		s.copyPage(p[:n], pfn, off)
		p = p[n:]
		at += phys.Addr(n)
	}
	return nil
}

// copyPage fills dst from page pfn, beginning off bytes into it.
func (s *sparse) copyPage(dst []byte, pfn phys.PFN, off uint64) {
	if pg := s.peek(pfn); pg != nil {
		copy(dst, pg[off:])
		return
	}
	f := s.fillOf(pfn)
	switch {
	case f == nil:
		clear(dst)
	case len(dst) == phys.PageSize:
		f.generate(dst, pfn)
	default:
		var pg page
		f.generate(pg[:], pfn)
		copy(dst, pg[off:])
	}
}

// write stores b from at on; the caller has checked that it is RAM.
func (s *sparse) write(at phys.Addr, b []byte) {
	for len(b) > 0 {
		n := copy(s.page(at.PFN())[at.Offset():], b)
		b = b[n:]
		at += phys.Addr(n)
	}
}

// hasChunk reports whether any page of chunk i may have been written.
func (s *sparse) hasChunk(i int) bool {
	for ; s != nil; s = s.under {
		if s.chunks[i].Load() != nil {
			return true
		}
	}
	return false
}

// written yields every written page in ascending order. Filled pages are not among
// them.
func (s *sparse) written() iter.Seq[phys.PFN] {
	return func(yield func(phys.PFN) bool) {
		for i := range s.chunks {
			if !s.hasChunk(i) {
				continue
			}
			for j := range chunkPages {
				if p := phys.PFN(i*chunkPages + j); s.peek(p) != nil && !yield(p) {
					return
				}
			}
		}
	}
}

// pages yields the written pages with their bytes, for reading and writing.
func (s *sparse) pages() iter.Seq2[phys.PFN, *page] {
	return func(yield func(phys.PFN, *page) bool) {
		for p := range s.written() {
			if !yield(p, s.page(p)) {
				return
			}
		}
	}
}
