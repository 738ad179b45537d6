package ntlab

import (
	"fmt"

	"snap/phys"
)

// tableAttacks are page tables that lead to themselves, out of RAM, to devices, or are
// built as no processor would take them.
func tableAttacks() []Attack {
	out := []Attack{
		edited("every free slot a self-map", "all entries of the top-level table's kernel half that were empty map the table itself", Refused, "kernel",
			attack(func(e *edits) {
				for _, i := range freeSlots(e.im) {
					e.top(i, uint64(e.im.Truth.DirectoryTableBase)|kernelTable)
				}
			})),
		edited("no self-map", "the top-level table has no entry for itself", Refused, "kernel",
			attack(func(e *edits) { e.top(uint64(e.im.Truth.SelfMapSlot), 0) })),
		edited("tables that branch", "a chain of tables of which each entry leads to the next, so that there are 2^36 ways to a page", Found, "",
			attack(func(e *edits) {
				next := uint64(e.free()) | kernelData
				for range e.im.levels() - 1 {
					at := e.free()
					e.table(at, next)
					next = uint64(at) | kernelTable
				}
				e.top(freeSlots(e.im)[0], next)
			})),
		edited("table of itself at all levels", "a page whose 512 entries lead to it is a table of each level", Found, "",
			attack(func(e *edits) {
				at := e.free()
				e.table(at, uint64(at)|kernelTable)
				e.top(freeSlots(e.im)[0], uint64(at)|kernelTable)
				va := e.pages(1)
				for level := e.im.levels() - 1; level > 1; level-- {
					e.neighbours(va, level, uint64(at)|kernelTable)
				}
			})),
		edited("tables at devices", "at each level free entries lead to the VGA hole, the local APIC and the end of 52 bits", Found, "",
			attack(func(e *edits) {
				va := e.pages(1)
				for level := e.im.levels() - 1; level > 0; level-- {
					e.neighbours(va, level, uint64(vgaHole.Addr())|kernelTable, 0xFEE0_0000|kernelTable, pteFrame|kernelTable)
				}
			})),
		edited("large pages, misplaced", "at each level free entries map pages of that size, at addresses that are no multiple of it, in RAM and out of it", Any, "",
			attack(func(e *edits) {
				va := e.pages(1)
				for level := e.im.levels() - 1; level > 0; level-- {
					e.neighbours(va, level, 0x3000|kernelAll|ptePS, 0x1F_F000|kernelAll|ptePS, pteFrame|kernelAll|ptePS, uint64(e.im.ram.End().Addr()-phys.PageSize)|kernelAll|ptePS)
				}
				e.top(freeSlots(e.im)[0], 0x3000|kernelAll|ptePS)
			})),
		edited("every bit set", "at each level free entries are all ones, or all ones but for Present", Found, "",
			attack(func(e *edits) {
				va := e.pages(1)
				for level := e.im.levels() - 1; level > 0; level-- {
					e.neighbours(va, level, ^uint64(0), ^uint64(0)&^pteP)
				}
			})),
		edited("kernel at a device", "the kernel's range is mapped to the local APIC", Refused, "",
			attack(func(e *edits) { e.entry(e.im.Truth.KernelBase, 3, 0xFEE0_0000|kernelTable) })),
		edited("kernel's table is itself", "the page directory that maps the kernel leads to itself where it begins", Refused, "",
			attack(func(e *edits) {
				at, _ := e.im.EntryAddr(e.im.Truth.KernelBase, 2)
				e.entry(e.im.Truth.KernelBase, 2, uint64(at.PFN().Addr())|kernelTable)
			})),
		edited("KUSER_SHARED_DATA at a device", "it is mapped to the local APIC", Refused, "",
			attack(func(e *edits) { e.entry(kuserKernel, 1, 0xFEE0_0000|kernelData) })),
		edited("EPROCESS of System gone", "the page with it isn't mapped", Refused, "",
			attack(func(e *edits) { e.unmap(e.im.Truth.SystemProcess) })),
		edited("list of memory gone", "the page with MmPhysicalMemoryBlock's descriptor isn't mapped", Any, "", // the pool page holds more
			attack(func(e *edits) { e.unmap(e.symbol("*MmPhysicalMemoryBlock")) })),
		edited("System's table anywhere", "the System process's DirectoryTableBase is a page of zeros", Refused, "kernel",
			attack(func(e *edits) { e.put64(e.im.Truth.SystemProcess+0x28, uint64(e.free())) })),
		edited("System's table out of RAM", "the System process's DirectoryTableBase is the last page of 52 bits", Refused, "kernel",
			attack(func(e *edits) { e.put64(e.im.Truth.SystemProcess+0x28, pteFrame) })),
		edited("prototypes of themselves", "entries of a page table are prototype PTEs that lead to themselves by the self-map, and to each other", Found, "",
			attack(func(e *edits) {
				va := e.pages(1)
				at, _ := e.im.EntryAddr(va, 1)
				base := uint64(at.PFN().Addr())
				self := e.pages(1) // maps that page table
				e.entry(self, 1, base|kernelData)
				for i := range uint64(16) {
					if e.im.entry(at.PFN(), i) == 0 {
						e.physical(phys.Addr(base+8*i), le.AppendUint64(nil, uint64(self+phys.VirtAddr(8*(i+1)))<<16|ptePrototype))
					}
				}
			})),
		edited("transitions out of RAM", "entries of tables of every level are in transition, with frames that no RAM has", Warned, "isn't believed",
			attack(func(e *edits) {
				va := e.pages(1)
				for level := e.im.levels() - 1; level > 0; level-- {
					e.neighbours(va, level, pteFrame|pteTransition, uint64(e.im.ram.End().Addr())|pteTransition|1<<4, 1<<45|pteTransition)
				}
			})),
	}
	return out
}

// table makes all entries of a table e.
func (e *edits) table(at phys.Addr, entry uint64) {
	b := make([]byte, 0, phys.PageSize)
	for range 512 {
		b = le.AppendUint64(b, entry)
	}
	e.physical(at, b)
}

// neighbours stores values in empty entries of the table of a level that maps va.
func (e *edits) neighbours(va phys.VirtAddr, level int, values ...uint64) {
	at, ok := e.im.EntryAddr(va, level)
	if !ok {
		e.err = fmt.Errorf("no table of level %d for %#x", level, uint64(va))
		return
	}
	table := at.PFN()
	for i := uint64(0); i < 512 && len(values) > 0; i++ {
		if e.im.entry(table, i) == 0 {
			e.physical(table.Addr()+phys.Addr(8*i), le.AppendUint64(nil, values[0]))
			values = values[1:]
		}
	}
}
