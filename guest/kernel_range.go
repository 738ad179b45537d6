package guest

import (
	"context"

	"snap/phys"
)

// foundInRange says what led to a kernel that nothing pointed to.
const foundInRange = "scan of the kernel's address range"

// tableAt is a page that is used as a page table of a level.
type tableAt struct {
	pfn   phys.PFN
	level int
}

// inRange looks through everything that is mapped where kernels are. It goes
// down the page tables: one under which no image begins is looked at once, from
// wherever it is reached.
func (k *kernelSearch) inRange(ctx context.Context, space *AddressSpace, accept acceptKernel) (bool, error) {
	w := &rangeWalk{kernelSearch: k, space: space, accept: accept}
	return w.table(ctx, space.root, space.arch.paging.top, 0)
}

// rangeWalk is one search of the kernel's range in one address space.
type rangeWalk struct {
	*kernelSearch
	space  *AddressSpace
	accept acceptKernel
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
	if err := w.budget.spend(workEntries, tableEntries); err != nil {
		return false, err
	}
	t, err := w.space.table(ctx, at)
	if err != nil {
		return false, ctx.Err()
	}
	met := w.met
	if done, err := w.entries(ctx, t, level, base); done || err != nil {
		return done, err
	}
	if w.met == met {
		w.barren[key] = true
	}
	return false, nil
}

// entries looks at what the entries of a table map, of the top-level table those
// of the range.
func (w *rangeWalk) entries(ctx context.Context, t *table, level int, base phys.VirtAddr) (done bool, err error) {
	arch := w.space.arch
	p := &arch.paging
	first, end := uint64(0), uint64(tableEntries)
	if level == p.top {
		first, end = p.index(arch.kernelsLow, level), p.index(arch.kernelsHigh, level)
		base = arch.kernelsLow - phys.VirtAddr(first*p.size(level))
	}
	for i := first; i < end; {
		n := uint64(1)
		va := base + phys.VirtAddr(i*p.size(level))
		switch l := w.space.entries().lead(t.entries[i], level); l.kind {
		case leadsToPage:
			n = w.space.alike(t, level, i, l)
			done, err = w.inPages(ctx, w.space, va, l.at, n*p.size(level), foundInRange, w.accept)
		case leadsToTable:
			done, err = w.table(ctx, l.at, level-1, va)
		}
		if done || err != nil {
			return done, err
		}
		i += n
	}
	return false, nil
}
