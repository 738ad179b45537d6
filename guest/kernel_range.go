package guest

import (
	"context"

	"snap/phys"
)

// What led to a kernel that nothing pointed to.
const (
	foundInRange = "scan of the kernel's address range"
	foundInHalf  = "scan of the kernel's half"
)

// tableAt is a page that is used as a page table of a level.
type tableAt struct {
	pfn   phys.PFN
	level int
}

// inRange looks through everything that is mapped where kernels are, and, where it
// isn't known that they are there, in all of the kernel's half.
func (k *kernelSearch) inRange(ctx context.Context, space *AddressSpace, accept acceptKernel) (bool, error) {
	arch, p := space.arch, space.paging
	w := &rangeWalk{
		kernelSearch: k, space: space, accept: accept,
		low: arch.kernelsLow, last: arch.kernelsLast, from: foundInRange,
	}
	done, err := w.table(ctx, space.root, p.top, p.entryAddress(0))
	if done || err != nil || p == arch.pagings[0] || w.low == p.kernelHalf() {
		return done, err
	}
	w.low, w.last, w.from = p.kernelHalf(), ^phys.VirtAddr(0), foundInHalf
	return w.table(ctx, space.root, p.top, p.entryAddress(0))
}

// rangeWalk is a search of a range of one address space. It goes down the page
// tables: one under which no image begins is looked at once, from wherever it is
// reached.
type rangeWalk struct {
	*kernelSearch
	space     *AddressSpace
	accept    acceptKernel
	low, last phys.VirtAddr
	from      string
}

// table looks at what a table of the given level maps, the first byte of which
// is at base, and reports whether a kernel was taken. A table that can't be read
// maps nothing.
func (w *rangeWalk) table(ctx context.Context, at phys.Addr, level int, base phys.VirtAddr) (done bool, err error) {
	key := tableAt{at.PFN(), level}
	if w.barren[key] {
		return false, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	if err := w.budget.spend(workEntries, w.space.paging.entries(level)); err != nil {
		return false, err
	}
	t, err := w.space.table(ctx, at, level)
	if err != nil {
		return false, ctx.Err()
	}
	met := w.met
	first, end := w.within(level, base)
	if done, err := w.entries(ctx, t, level, base, first, end); done || err != nil {
		return done, err
	}
	if w.met == met && end-first == w.space.paging.entries(level) {
		w.barren[key] = true
	}
	return false, nil
}

// within returns the first of the entries of a table that are in the range, and the
// end of them.
func (w *rangeWalk) within(level int, base phys.VirtAddr) (first, end uint64) {
	p := w.space.paging
	end = p.entries(level)
	if base < w.low {
		first = p.index(w.low, level)
	}
	if last := base + phys.VirtAddr(p.entries(level)*p.maps(level)-1); last > w.last {
		end = p.index(w.last, level) + 1
	}
	return first, end
}

// entries looks at what some entries of a table map.
func (w *rangeWalk) entries(ctx context.Context, t *table, level int, base phys.VirtAddr, first, end uint64) (done bool, err error) {
	p := w.space.paging
	for i := first; i < end; {
		n := uint64(1)
		va := base + phys.VirtAddr(i*p.maps(level))
		switch l := w.space.entries().lead(t.entries[i], level); {
		case l.kind == leadsToTable && level == p.top && l.at == w.space.root && !p.row:
			// the self-map shows tables
		case l.kind == leadsToPage:
			n = w.space.alike(t, level, i, l)
			done, err = w.inPages(ctx, w.space, va, l.at, n*p.maps(level), w.from, w.accept)
		case l.kind == leadsToTable:
			done, err = w.table(ctx, l.at, level-1, va)
		}
		if done || err != nil {
			return done, err
		}
		i += n
	}
	return false, nil
}
