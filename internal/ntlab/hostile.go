package ntlab

import (
	"fmt"
	"slices"

	"snap/phys"
)

// Attack is a change that a hostile or broken guest could make to its own
// memory.
type Attack struct {
	Name string
	// About says what is done.
	About string
	// Harmless: a careful reader still finds all that Truth says.
	Harmless bool
	// Edit makes the change. It may be used together with others.
	Edit func(*Image) error
}

// Attacks are the hostile variants of an image.
func Attacks() []Attack { return append(listAttacks(), memoryAttacks()...) }

// edits is a series of writes that stops at the first failure.
type edits struct {
	im  *Image
	err error
}

func (e *edits) put(va phys.VirtAddr, b []byte) {
	if e.err == nil {
		e.err = e.im.WriteVirt(va, b)
	}
}

func (e *edits) put64(va phys.VirtAddr, v uint64) { e.put(va, le.AppendUint64(nil, v)) }
func (e *edits) put32(va phys.VirtAddr, v uint32) { e.put(va, le.AppendUint32(nil, v)) }
func (e *edits) put16(va phys.VirtAddr, v uint16) { e.put(va, le.AppendUint16(nil, v)) }

func (e *edits) get64(va phys.VirtAddr) phys.VirtAddr {
	var b [8]byte
	if e.err == nil {
		e.err = e.im.ReadVirt(va, b[:])
	}
	return phys.VirtAddr(le.Uint64(b[:]))
}

// physical stores b if there is RAM; where there isn't, the attack has
// nothing to work on.
func (e *edits) physical(at phys.Addr, b []byte) {
	if e.err == nil {
		e.err = e.im.WritePhys(at, b)
	}
}

func (e *edits) symbol(name string) phys.VirtAddr {
	va, ok := e.im.symbols[name]
	if !ok && e.err == nil {
		e.err = fmt.Errorf("the image has no %s", name)
	}
	return va
}

func attack(f func(*edits)) func(*Image) error {
	return func(im *Image) error {
		e := &edits{im: im}
		f(e)
		return e.err
	}
}

// cycle makes the list's third entry lead back to its second.
func cycle(e *edits, head phys.VirtAddr) {
	second := e.get64(e.get64(head))
	e.put64(e.get64(second), uint64(second))
}

func listAttacks() []Attack {
	return []Attack{
		{
			"module cycle", "PsLoadedModuleList leads round its second and third entry for ever", false,
			attack(func(e *edits) { cycle(e, e.im.Truth.PsLoadedModuleList) }),
		},
		{
			"process cycle", "PsActiveProcessHead leads round its second and third entry for ever", false,
			attack(func(e *edits) { cycle(e, e.im.Truth.PsActiveProcessHead) }),
		},
		{
			"module loops on itself", "the first module's Flink is the module", false,
			attack(func(e *edits) {
				first := e.get64(e.im.Truth.PsLoadedModuleList)
				e.put64(first, uint64(first))
			}),
		},
		{
			"list leaves memory", "the second module's Flink is not canonical, the second process's is not mapped", false,
			attack(func(e *edits) {
				e.put64(e.get64(e.get64(e.im.Truth.PsLoadedModuleList)), 0x8000_0000_0000_0000)
				e.put64(e.get64(e.get64(e.im.Truth.PsActiveProcessHead)), 0xFFFF_8000_0000_0008)
			}),
		},
		{
			"module names", "lengths that are odd, larger than the buffer, or lead out of memory", false,
			attack(func(e *edits) {
				m := e.get64(e.im.Truth.PsLoadedModuleList)
				e.put16(m+ldrBaseName, 7)
				m = e.get64(m)
				e.put16(m+ldrBaseName, 0xFFFE)
				m = e.get64(m)
				e.put64(m+ldrBaseName+8, ^uint64(0)-3)
			}),
		},
		{
			"module sizes", "a SizeOfImage of 4 GiB less one, a DllBase whose end wraps", false,
			attack(func(e *edits) {
				m := e.get64(e.get64(e.im.Truth.PsLoadedModuleList))
				e.put32(m+ldrSize, 0xFFFF_FFFF)
				e.put64(e.get64(m)+ldrDLLBase, ^uint64(0)&^0xFFF)
			}),
		},
		{
			"no System process", "PsInitialSystemProcess is null", false,
			attack(func(e *edits) { e.put64(e.symbol("PsInitialSystemProcess"), 0) }),
		},
		{
			"run count", "MmPhysicalMemoryBlock says that it has 4 Gi runs and 2^63 pages", false,
			attack(func(e *edits) {
				d := e.symbol("*MmPhysicalMemoryBlock")
				e.put32(d, 0xFFFF_FFFF)
				e.put64(d+8, 1<<63)
			}),
		},
		{
			"run that wraps", "a run of MmPhysicalMemoryBlock ends beyond 2^64", false,
			attack(func(e *edits) { e.put64(e.symbol("*MmPhysicalMemoryBlock")+0x18, ^uint64(0)) }),
		},
		{
			"runs overlap", "the second run of MmPhysicalMemoryBlock is where the first is", false,
			attack(func(e *edits) { e.put64(e.symbol("*MmPhysicalMemoryBlock")+0x20, 1) }),
		},
		{
			"run outside of RAM", "the last run of MmPhysicalMemoryBlock is 4 GiB longer than RAM", false,
			attack(func(e *edits) {
				runs := e.im.Truth.Runs
				at := e.symbol("*MmPhysicalMemoryBlock") + phys.VirtAddr(0x18+0x10*(len(runs)-1))
				e.put64(at, runs[len(runs)-1].Pages+uint64(fourGiB))
			}),
		},
		{
			"runs unsorted", "the runs of MmPhysicalMemoryBlock descend", false,
			relist(func(_ *Image, runs []phys.Run) []phys.Run {
				slices.Reverse(runs)
				return runs
			}),
		},
		{
			"page count", "MmPhysicalMemoryBlock says one page more than its runs have", false,
			attack(func(e *edits) {
				at := e.symbol("*MmPhysicalMemoryBlock") + 8
				e.put64(at, uint64(e.get64(at))+1)
			}),
		},
		{
			"empty runs", "all runs of MmPhysicalMemoryBlock have no page", false,
			relist(func(_ *Image, runs []phys.Run) []phys.Run {
				for i := range runs {
					runs[i].Pages = 0
				}
				return runs
			}),
		},
		{
			"no runs", "MmPhysicalMemoryBlock has none", false,
			relist(func(*Image, []phys.Run) []phys.Run { return nil }),
		},
		{
			"foreign runs", "MmPhysicalMemoryBlock names what is no RAM, and none that is", false,
			relist(func(im *Image, _ []phys.Run) []phys.Run { return []phys.Run{{Base: im.ram.End(), Pages: 1 << 20}} }),
		},
		{
			"half of memory", "MmPhysicalMemoryBlock names the lower half of memory, whatever Windows has in the other", false,
			relist(func(im *Image, _ []phys.Run) []phys.Run {
				return []phys.Run{{Base: 1, Pages: uint64(vgaHole) - 1}, {Base: highMemory, Pages: im.ram.Pages() / 2}}
			}),
		},
		{
			"single pages", "MmPhysicalMemoryBlock names every second page, some hundred of them", false,
			relist(func(*Image, []phys.Run) []phys.Run { return singlePages(300) }),
		},
		{
			"many single pages", "MmPhysicalMemoryBlock names every second page, some thousands of them", false,
			relist(func(*Image, []phys.Run) []phys.Run { return singlePages(6000) }),
		},
		{
			"processor block", "KiProcessorBlock repeats processor 0 beyond the last one", false,
			attack(func(e *edits) {
				block := e.symbol("KiProcessorBlock")
				for i := len(e.im.Truth.Processors); i < 64; i++ {
					e.put64(block+phys.VirtAddr(8*i), uint64(e.im.Truth.Processors[0].KPRCB))
				}
			}),
		},
		{
			"processor count", "KUSER_SHARED_DATA says that there are 4 Gi processors", true,
			attack(func(e *edits) { e.put32(kuserKernel+kuserProcessors, 0xFFFF_FFFF) }),
		},
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
