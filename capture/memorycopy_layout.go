package capture

import (
	"snap/phys"
)

// copyLayout is where the pages of a copy lie in memory of the host. Pages are called by
// their numbers among those that are copied, the first of which is 0.
type copyLayout interface {
	// page returns a page, which is only read.
	page(n uint64) []byte

	// read fills p with the bytes from off on: those of page 0 first, then those of
	// page 1.
	read(p []byte, off uint64)

	// chunks divides all pages, which x numbers, into what a worker copies at a time.
	chunks(x *phys.Index) []chunk

	// filler returns what one worker puts pages there with.
	filler() copyFiller

	// free gives the memory back.
	free() error
}

// copyFiller puts pages where they belong. It belongs to one worker.
type copyFiller interface {
	// step is how many pages are put at a time, at most.
	step() uint64

	// room returns memory for n pages, at most step: those of a chunk, in their order.
	room(first, n uint64) []byte

	// put takes what room returned, filled.
	put(first, n uint64) error
}

// flatLayout has all pages side by side.
type flatLayout hostMemory

func (l flatLayout) page(n uint64) []byte { return l[n*phys.PageSize:][:phys.PageSize] }

func (l flatLayout) read(p []byte, off uint64) { copy(p, l[off:]) }

// chunks implements copyLayout. Each is of one run, so that memory whose reads wait for
// somebody else is read by as many at a time as it wants, wherever its pages are.
func (l flatLayout) chunks(x *phys.Index) []chunk { return runChunks(x, x.Set()) }

func (l flatLayout) filler() copyFiller { return flatFiller(l) }

func (l flatLayout) free() error { return hostMemory(l).free() }

// flatFiller has pages read to where they belong.
type flatFiller hostMemory

func (f flatFiller) step() uint64 { return copyPages }

func (f flatFiller) room(first, n uint64) []byte {
	return f[first*phys.PageSize:][:n*phys.PageSize]
}

func (f flatFiller) put(uint64, uint64) error { return nil }
