package guest

import (
	"context"
	"fmt"

	"snap/phys"
)

// maxMemoryRuns bounds the runs of a guest. A dump header holds 42, or 86 of 32 bits;
// memory added to a running guest makes more of them.
const maxMemoryRuns = 4096

// fillMemory reads MmPhysicalMemoryBlock and holds it against the RAM map.
func (s *System) fillMemory(ctx context.Context) {
	at, err := readKernelVariable(ctx, s.Space, "MmPhysicalMemoryBlock", s.KDBG.va(kdbgMmPhysicalMemoryBlock))
	var runs []phys.Run
	if err == nil {
		runs, err = readMemoryBlock(ctx, s.Space, at)
	}
	if err != nil {
		s.warn("%v", err)
		return
	}
	// A dump from which very many pages are left out has as many runs of RAM: they are
	// not copied where the block has them all.
	inside := s.Space.ram.Intersect(runs)
	s.PhysicalMemoryOutside = pagesIn(runs) - inside.Pages()
	if s.PhysicalMemoryOutside > 0 {
		s.warn("MmPhysicalMemoryBlock has %d pages outside of RAM, the first at %#x",
			s.PhysicalMemoryOutside, uint64(firstOutside(runs, s.Space.ram).Addr()))
	}
	s.PhysicalMemory = phys.Know([]phys.Run(inside), "KDBG MmPhysicalMemoryBlock")
}

func pagesIn(runs []phys.Run) uint64 { return phys.Runs(runs).Pages() }

// firstOutside returns the first page of runs that isn't in ram. There must be one.
func firstOutside(runs []phys.Run, ram phys.Runs) phys.PFN {
	for _, r := range runs {
		for at := r.Base; at < r.End(); {
			i, ok := ram.Find(at)
			if !ok {
				return at
			}
			at = ram[i].End()
		}
	}
	return 0
}

// DumpMemory returns the pages that a dump of the guest holds, in file order and
// at most those that the RAM map has, with their origin: the guest's own
// PhysicalMemory, or where that can't be used all RAM but the first page, which
// Windows keeps out of its own list. Then warning says so; else it is empty.
func (s *System) DumpMemory() (pages phys.Known[[]phys.Run], warning string) {
	if len(s.PhysicalMemory.Value) > 0 {
		return s.PhysicalMemory, ""
	}
	ram := s.Space.ram.Minus(phys.Runs{{Base: 0, Pages: 1}})
	return phys.Know([]phys.Run(ram), "RAM map without the first page"),
		"the guest's own memory ranges can't be used: the dump holds all RAM instead"
}

// readMemoryBlock reads a PHYSICAL_MEMORY_DESCRIPTOR: NumberOfRuns (4 bytes at 0),
// NumberOfPages, then runs of {BasePage, PageCount}, as wide as pointers. The runs are
// ascending and disjoint, and their pages add up.
func readMemoryBlock(ctx context.Context, mem VirtReader, at phys.VirtAddr) ([]phys.Run, error) {
	const what = "MmPhysicalMemoryBlock"
	l, word := &archOf(mem).layout, archOf(mem).pointer
	if err := alignedPointer(mem, what, at); err != nil {
		return nil, err
	}
	head, err := readRecord(ctx, mem, what, at, l.descriptorRuns)
	if err != nil {
		return nil, err
	}
	count, total := head.u32(0), head.word(l.descriptorPages)
	if count == 0 || count > maxMemoryRuns {
		return nil, malformed(what, at, "%d runs", count)
	}
	r, err := readRecord(ctx, mem, what, at+phys.VirtAddr(l.descriptorRuns), int(count)*2*word)
	if err != nil {
		return nil, err
	}
	var runs []phys.Run
	var sum uint64
	for i := range int(count) {
		run := phys.Run{Base: phys.PFN(r.word(2 * i * word)), Pages: r.word((2*i + 1) * word)}
		if !run.Valid() {
			return nil, malformed(what, at, "run %d: %d pages from PFN %#x", i, run.Pages, uint64(run.Base))
		}
		if i > 0 && run.Base < runs[i-1].End() {
			return nil, malformed(what, at, "run %d, %v, is not after %v", i, run, runs[i-1])
		}
		runs = append(runs, run)
		sum += run.Pages // at most 4096 runs of 2^40 pages
	}
	if sum != total {
		return nil, malformed(what, at, "its runs have %d pages, but it says %d", sum, total)
	}
	if r.err != nil {
		return nil, fmt.Errorf("read %s: %w", what, r.err)
	}
	return runs, nil
}
