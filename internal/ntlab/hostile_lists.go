package ntlab

import (
	"slices"

	"snap/phys"
)

// cycle makes the list's third entry lead back to its second.
func cycle(e *edits, head phys.VirtAddr) {
	second := e.get64(e.get64(head))
	e.put64(e.get64(second), uint64(second))
}

func listAttacks() []Attack {
	return []Attack{
		edited(
			"module cycle", "PsLoadedModuleList leads round its second and third entry for ever", Degraded, "the list of modules is broken",
			attack(func(e *edits) { cycle(e, e.im.Truth.PsLoadedModuleList) }),
		),
		edited(
			"process cycle", "PsActiveProcessHead leads round its second and third entry for ever", Degraded, "the list of processes is broken",
			attack(func(e *edits) { cycle(e, e.im.Truth.PsActiveProcessHead) }),
		),
		edited(
			"module loops on itself", "the first module's Flink is the module", Degraded, "the list of modules is broken",
			attack(func(e *edits) {
				first := e.get64(e.im.Truth.PsLoadedModuleList)
				e.put64(first, uint64(first))
			}),
		),
		edited(
			"list leaves memory", "the second module's Flink is not canonical, the second process's is not mapped", Degraded, "the list of processes is broken",
			attack(func(e *edits) {
				e.put64(e.get64(e.get64(e.im.Truth.PsLoadedModuleList)), 0x8000_0000_0000_0000)
				e.put64(e.get64(e.get64(e.im.Truth.PsActiveProcessHead)), 0xFFFF_8000_0000_0008)
			}),
		),
		edited(
			"module names", "lengths that are odd, larger than the buffer, or lead out of memory", Degraded, "the list of modules is broken",
			attack(func(e *edits) {
				m := e.get64(e.im.Truth.PsLoadedModuleList)
				e.put16(m+ldrBaseName, 7)
				m = e.get64(m)
				e.put16(m+ldrBaseName, 0xFFFE)
				m = e.get64(m)
				e.put64(m+ldrBaseName+8, ^uint64(0)-3)
			}),
		),
		edited(
			"module sizes", "a SizeOfImage of 4 GiB less one, a DllBase whose end wraps", Degraded, "the list of modules is broken",
			attack(func(e *edits) {
				m := e.get64(e.get64(e.im.Truth.PsLoadedModuleList))
				e.put32(m+ldrSize, 0xFFFF_FFFF)
				e.put64(e.get64(m)+ldrDLLBase, ^uint64(0)&^0xFFF)
			}),
		),
		edited(
			"no System process", "PsInitialSystemProcess is null", Found, "",
			attack(func(e *edits) { e.put64(e.symbol("PsInitialSystemProcess"), 0) }),
		),
		edited(
			"run count", "MmPhysicalMemoryBlock says that it has 4 Gi runs and 2^63 pages", Warned, "4294967295 runs",
			attack(func(e *edits) {
				d := e.symbol("*MmPhysicalMemoryBlock")
				e.put32(d, 0xFFFF_FFFF)
				e.put64(d+8, 1<<63)
			}),
		),
		edited(
			"run that wraps", "a run of MmPhysicalMemoryBlock ends beyond 2^64", Warned, "the guest's own memory ranges can't be used",
			attack(func(e *edits) { e.put64(e.symbol("*MmPhysicalMemoryBlock")+0x18, ^uint64(0)) }),
		),
		edited(
			"runs overlap", "the second run of MmPhysicalMemoryBlock is where the first is", Warned, "is not after",
			attack(func(e *edits) { e.put64(e.symbol("*MmPhysicalMemoryBlock")+0x20, 1) }),
		),
		edited(
			"run outside of RAM", "the last run of MmPhysicalMemoryBlock is 4 GiB longer than RAM", Warned, "the guest's own memory ranges can't be used",
			attack(func(e *edits) {
				runs := e.im.Truth.Runs
				at := e.symbol("*MmPhysicalMemoryBlock") + phys.VirtAddr(0x18+0x10*(len(runs)-1))
				e.put64(at, runs[len(runs)-1].Pages+uint64(fourGiB))
			}),
		),
		edited(
			"runs unsorted", "the runs of MmPhysicalMemoryBlock descend", Warned, "is not after",
			relist(func(_ *Image, runs []phys.Run) []phys.Run {
				slices.Reverse(runs)
				return runs
			}),
		),
		edited(
			"page count", "MmPhysicalMemoryBlock says one page more than its runs have", Warned, "but it says",
			attack(func(e *edits) {
				at := e.symbol("*MmPhysicalMemoryBlock") + 8
				e.put64(at, uint64(e.get64(at))+1)
			}),
		),
		edited(
			"empty runs", "all runs of MmPhysicalMemoryBlock have no page", Warned, "0 pages",
			relist(func(_ *Image, runs []phys.Run) []phys.Run {
				for i := range runs {
					runs[i].Pages = 0
				}
				return runs
			}),
		),
		edited(
			"no runs", "MmPhysicalMemoryBlock has none", Warned, ": 0 runs",
			relist(func(*Image, []phys.Run) []phys.Run { return nil }),
		),
		edited(
			"foreign runs", "MmPhysicalMemoryBlock names what is no RAM, and none that is", Warned, "1048576 pages outside of RAM",
			relist(func(im *Image, _ []phys.Run) []phys.Run { return []phys.Run{{Base: im.ram.End(), Pages: 1 << 20}} }),
		),
		edited(
			"half of memory", "MmPhysicalMemoryBlock names the lower half of memory, whatever Windows has in the other", Degraded, "it isn't believed",
			relist(func(im *Image, _ []phys.Run) []phys.Run {
				return []phys.Run{{Base: 1, Pages: uint64(vgaHole) - 1}, {Base: highMemory, Pages: im.ram.Pages() / 2}}
			}),
		),
		edited(
			"single pages", "MmPhysicalMemoryBlock names every second page, some hundred of them", Degraded, "it isn't believed",
			relist(func(*Image, []phys.Run) []phys.Run { return singlePages(300) }),
		),
		edited(
			"many single pages", "MmPhysicalMemoryBlock names every second page, some thousands of them", Warned, "6000 runs",
			relist(func(*Image, []phys.Run) []phys.Run { return singlePages(6000) }),
		),
		edited(
			"processor block", "KiProcessorBlock repeats processor 0 beyond the last one", Found, "",
			attack(func(e *edits) {
				block := e.symbol("KiProcessorBlock")
				for i := len(e.im.Truth.Processors); i < 64; i++ {
					e.put64(block+phys.VirtAddr(8*i), uint64(e.im.Truth.Processors[0].KPRCB))
				}
			}),
		),
		edited(
			"processor count", "KUSER_SHARED_DATA says that there are 4 Gi processors", Warned, "the guest says it has 4294967295 processors",
			attack(func(e *edits) { e.put32(kuserKernel+kuserProcessors, 0xFFFF_FFFF) }),
		),
	}
}

// relist makes MmPhysicalMemoryBlock say what f makes of its runs.
func relist(f func(*Image, []phys.Run) []phys.Run) func(*Image) error {
	return func(im *Image) error { return im.ListMemory(f(im, slices.Clone(im.Truth.Runs))) }
}

func singlePages(n int) []phys.Run {
	var out []phys.Run
	for i := range phys.PFN(n) {
		out = append(out, phys.Run{Base: highMemory + 2*i, Pages: 1})
	}
	return out
}
