package guest

import "snap/phys"

// pageSet is a set of pages, in blocks of bits: 64 bytes for each 2 MiB of which
// it has a page. The zero value is empty and ready to use. It is for one
// goroutine.
type pageSet struct {
	blocks map[phys.PFN]*pageBlock
	// The block that was used last.
	lastAt phys.PFN
	last   *pageBlock
}

const pageBlockBits = 512

type pageBlock [pageBlockBits / 64]uint64

func (s *pageSet) block(p phys.PFN, add bool) *pageBlock {
	at := p / pageBlockBits
	if s.last != nil && s.lastAt == at {
		return s.last
	}
	b := s.blocks[at]
	if b == nil {
		if !add {
			return nil
		}
		if s.blocks == nil {
			s.blocks = map[phys.PFN]*pageBlock{}
		}
		b = new(pageBlock)
		s.blocks[at] = b
	}
	s.lastAt, s.last = at, b
	return b
}

// has reports whether p is in the set.
func (s *pageSet) has(p phys.PFN) bool {
	b := s.block(p, false)
	return b != nil && b[p%pageBlockBits/64]&(1<<(p%64)) != 0
}

// add puts p into the set and reports whether it was not in it.
func (s *pageSet) add(p phys.PFN) bool {
	b := s.block(p, true)
	w, bit := &b[p%pageBlockBits/64], uint64(1)<<(p%64)
	added := *w&bit == 0
	*w |= bit
	return added
}

// remove takes p out of the set.
func (s *pageSet) remove(p phys.PFN) {
	if b := s.block(p, false); b != nil {
		b[p%pageBlockBits/64] &^= 1 << (p % 64)
	}
}
