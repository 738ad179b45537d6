package ntlab

import (
	"errors"

	"snap/phys"
)

// errNoMemory says that the guest's RAM is too small for what it should hold.
var errNoMemory = errors.New("the guest's memory is full")

// allocator hands out physical pages at random, as a kernel that has run for a
// while does: neighbours in virtual memory are not neighbours in physical.
type allocator struct {
	r      *rng
	usable phys.Runs
	total  uint64                // pages in usable
	used   map[uint64]*[8]uint64 // bitmaps by 2 MiB block
	count  uint64                // pages handed out
}

func newAllocator(r *rng, windows []phys.Run) (*allocator, error) {
	all, err := phys.NewRuns(windows...)
	if err != nil {
		return nil, err
	}
	low := phys.Runs{{Base: 0, Pages: uint64(highMemory)}}
	usable := all.Minus(low) // Windows keeps the first MiB for real-mode stubs
	return &allocator{r: r, usable: usable, total: usable.Pages(), used: map[uint64]*[8]uint64{}}, nil
}

func (a *allocator) isUsed(p phys.PFN) bool {
	b := a.used[uint64(p)/largePages]
	return b != nil && b[p%largePages/64]&(1<<(p%64)) != 0
}

// claim marks p as used.
func (a *allocator) claim(p phys.PFN) {
	b := a.used[uint64(p)/largePages]
	if b == nil {
		b = new([8]uint64)
		a.used[uint64(p)/largePages] = b
	}
	b[p%largePages/64] |= 1 << (p % 64)
	a.count++
}

// nth returns the n-th usable page.
func (a *allocator) nth(n uint64) phys.PFN {
	for _, r := range a.usable {
		if n < r.Pages {
			return r.Base + phys.PFN(n)
		}
		n -= r.Pages
	}
	panic("ntlab: internal error: page index outside of usable memory")
}

// page returns a free page anywhere.
func (a *allocator) page() (phys.PFN, error) { return a.pageIn(a.total) }

// pageBelow returns a free page below limit.
func (a *allocator) pageBelow(limit phys.PFN) (phys.PFN, error) {
	low := phys.Runs{{Base: 0, Pages: uint64(limit)}}
	return a.pageIn(a.usable.Intersect(low).Pages())
}

// pageBetween returns a free page from one page up to another.
func (a *allocator) pageBetween(from, to phys.PFN) (phys.PFN, error) {
	below := phys.Runs{{Base: 0, Pages: uint64(from)}}
	skip := a.usable.Intersect(below).Pages()
	n := a.usable.Intersect(phys.Runs{{Base: 0, Pages: uint64(to)}}).Pages()
	if n <= skip {
		return 0, errNoMemory
	}
	const tries = 1 << 16
	for range tries {
		if p := a.nth(skip + a.r.below(n-skip)); !a.isUsed(p) {
			a.claim(p)
			return p, nil
		}
	}
	return 0, errNoMemory
}

// pageIn returns a free page among the first n usable ones.
func (a *allocator) pageIn(n uint64) (phys.PFN, error) {
	if n == 0 || a.count >= a.total {
		return 0, errNoMemory
	}
	const tries = 64
	for range tries {
		if p := a.nth(a.r.below(n)); !a.isUsed(p) {
			a.claim(p)
			return p, nil
		}
	}
	start := a.r.below(n) // nearly full: look at every page once
	for i := range n {
		if p := a.nth((start + i) % n); !a.isUsed(p) {
			a.claim(p)
			return p, nil
		}
	}
	return 0, errNoMemory
}

// block returns n free consecutive pages, aligned to n (a power of two that is
// at least largePages).
func (a *allocator) block(n uint64) (phys.PFN, error) {
	blocks := uint64(a.usable.End()) / n
	if blocks == 0 {
		return 0, errNoMemory
	}
	start := a.r.below(blocks)
	for i := range blocks {
		base := phys.PFN((start + i) % blocks * n)
		if a.blockFree(base, n) {
			for p := base; p < base+phys.PFN(n); p++ {
				a.claim(p)
			}
			return base, nil
		}
	}
	return 0, errNoMemory
}

// remove takes free pages out of the allocator's hands for good.
func (a *allocator) remove(free phys.Runs) {
	a.usable = a.usable.Minus(free)
	a.total = a.usable.Pages()
}

// release gives a block back.
func (a *allocator) release(base phys.PFN, n uint64) {
	for b := uint64(base) / largePages; b < (uint64(base)+n)/largePages; b++ {
		delete(a.used, b)
	}
	a.count -= n
}

func (a *allocator) blockFree(base phys.PFN, n uint64) bool {
	i, ok := a.usable.Find(base)
	if !ok || a.usable[i].End() < base+phys.PFN(n) {
		return false
	}
	for b := uint64(base) / largePages; b < (uint64(base)+n)/largePages; b++ {
		if u := a.used[b]; u != nil && *u != ([8]uint64{}) {
			return false
		}
	}
	return true
}
