package capture

import (
	"bytes"
	"math/bits"
	"sync/atomic"

	"snap/phys"
)

const (
	// piecePages is how many pages are read at a time, into memory that stays in a
	// processor's cache, and how many of them one word says the zero ones of.
	piecePages = 64
	// slabPages is how much of the memory a worker takes at a time.
	slabPages = copyPages
)

// packedLayout has no room for pages of zeros: most of a guest's memory may be such, and
// to get memory of the host for them takes longer than all else. Of each piece, the other
// pages lie side by side.
type packedLayout struct {
	memory hostMemory
	pieces []packedPiece
	taken  atomic.Uint64 // pages of memory that workers took
}

// packedPiece is where the pages of one piece are.
type packedPiece struct {
	kept uint64 // bit i: page i of the piece isn't zero
	at   uint64 // page of the memory where the first of those is
}

// packedRoom is how many pages of memory so many pages that aren't zero may take: a slab
// ends where a piece doesn't fit what is left of it.
func packedRoom(pages uint64, workers int) uint64 {
	return pages + pages/(slabPages/piecePages-1) + uint64(workers)*slabPages
}

// newPackedLayout lays out so many pages in memory, which must have packedRoom for all of
// those that aren't zero.
func newPackedLayout(memory hostMemory, pages uint64) *packedLayout {
	return &packedLayout{memory: memory, pieces: make([]packedPiece, (pages+piecePages-1)/piecePages)}
}

func (l *packedLayout) page(n uint64) []byte {
	p, bit := &l.pieces[n/piecePages], uint64(1)<<(n%piecePages)
	if p.kept&bit == 0 {
		return zeroPage[:]
	}
	return flatLayout(l.memory).page(p.at + uint64(bits.OnesCount64(p.kept&(bit-1))))
}

func (l *packedLayout) read(p []byte, off uint64) {
	for len(p) > 0 {
		n := copy(p, l.page(off >> phys.PageShift)[off%phys.PageSize:])
		p, off = p[n:], off+uint64(n)
	}
}

// chunks implements copyLayout. Each begins with a piece.
func (l *packedLayout) chunks(x *phys.Index) []chunk {
	var out []chunk
	for n := uint64(0); n < x.Pages(); n += copyPages {
		out = append(out, chunk{n, min(copyPages, x.Pages()-n)})
	}
	return out
}

func (l *packedLayout) filler() copyFiller { return &packedFiller{packedLayout: l} }

func (l *packedLayout) free() error { return l.memory.free() }

// packedFiller reads pieces to the side, and keeps of each what isn't zero.
type packedFiller struct {
	*packedLayout
	aside    [piecePages << phys.PageShift]byte
	next, to uint64 // pages of the memory that it took and didn't use
}

func (f *packedFiller) step() uint64 { return piecePages }

func (f *packedFiller) room(_, n uint64) []byte { return f.aside[:n<<phys.PageShift] }

func (f *packedFiller) put(first, n uint64) error {
	kept := notZero(f.aside[:n<<phys.PageShift])
	at, err := f.take(uint64(bits.OnesCount64(kept)))
	if err != nil {
		return err
	}
	f.pieces[first/piecePages] = packedPiece{kept, at}
	for rest := kept; rest != 0; rest &= rest - 1 {
		copy(flatLayout(f.memory).page(at), flatLayout(f.aside[:]).page(uint64(bits.TrailingZeros64(rest))))
		at++
	}
	return nil
}

// notZero returns which of the pages in b, at most piecePages, aren't zero: bit i is of
// page i.
func notZero(b []byte) (mask uint64) {
	for i := range uint64(len(b)) >> phys.PageShift {
		if !bytes.Equal(flatLayout(b).page(i), zeroPage[:]) {
			mask |= 1 << i
		}
	}
	return mask
}

// take returns where n pages may lie side by side.
func (f *packedFiller) take(n uint64) (at uint64, err error) {
	if f.to-f.next < n {
		all := uint64(len(f.memory)) >> phys.PageShift
		f.next = f.taken.Add(slabPages) - slabPages
		f.to = min(f.next+slabPages, all)
		if f.next >= all || f.to-f.next < n {
			f.to = f.next
			return 0, errCopyFull
		}
	}
	at = f.next
	f.next += n
	return at, nil
}
