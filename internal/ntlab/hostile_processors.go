package ntlab

import (
	"snap/phys"
)

// processorAttacks are KPCRs and KPRCBs that lie.
func processorAttacks() []Attack {
	context := func(f func(e *edits) uint64) func(*Image) error {
		return attack(func(e *edits) { e.context(1, f(e)) })
	}
	return []Attack{
		edited("contexts in one place", "the KPRCBs of all processors name one place for their contexts", Warned, "is also the place of",
			attack(func(e *edits) {
				for i := range e.im.Truth.Processors {
					e.context(i, uint64(e.im.Truth.Processors[0].Context))
				}
			})),
		edited("context over the KDBG", "a KPRCB names the KDBG as the place for its context", Warned, "is left as the guest has it",
			context(func(e *edits) uint64 { return uint64(e.im.Truth.KDBG) &^ 15 })),
		edited("context over the page table", "a KPRCB names the top-level table, where the self-map shows it, as the place for its context", Warned, "is left as the guest has it",
			context(func(e *edits) uint64 {
				va := uint64(0)
				for level := 1; level <= e.im.levels(); level++ {
					va |= uint64(e.im.Truth.SelfMapSlot) << tableShift(level)
				}
				return va | ^uint64(0)<<(tableShift(e.im.levels())+9) | 0x800
			})),
		edited("context over the kernel's header", "a KPRCB names the kernel's first page as the place for its context", Warned, "is left as the guest has it",
			context(func(e *edits) uint64 { return uint64(e.im.Truth.KernelBase) })),
		edited("context over its own KPRCB", "a KPRCB names itself as the place for its context", Warned, "is left as the guest has it",
			context(func(e *edits) uint64 { return uint64(e.im.Truth.Processors[1].KPRCB) })),
		edited("context over System's EPROCESS", "a KPRCB names the EPROCESS of System as the place for its context", Warned, "is left as the guest has it",
			context(func(e *edits) uint64 { return uint64(e.im.Truth.SystemProcess) &^ 15 })),
		edited("context at a device", "a KPRCB names a page that is mapped to the local APIC as the place for its context", Warned, "no place for its context",
			context(func(e *edits) uint64 {
				at := e.pages(1)
				e.entry(at, 1, 0xFEE0_0000|kernelData)
				return uint64(at)
			})),
		edited("context at the end of memory", "a KPRCB names the last 16 bytes of the address space as the place for its context", Warned, "no place for its context",
			context(func(*edits) uint64 { return ^uint64(0) &^ 15 })),
		edited("processors swapped", "KiProcessorBlock has two processors in each other's place", Warned, "its number is",
			attack(func(e *edits) {
				block := e.symbol("KiProcessorBlock")
				e.put64(block, uint64(e.im.Truth.Processors[1].KPRCB))
				e.put64(block+8, uint64(e.im.Truth.Processors[0].KPRCB))
			})),
		edited("processors name each other", "the self pointers of two KPCRs are each other's address", Warned, "self pointer",
			attack(func(e *edits) {
				p := e.im.Truth.Processors
				e.put64(p[0].KPCR+pcrSelf, uint64(p[1].KPCR))
				e.put64(p[1].KPCR+pcrSelf, uint64(p[0].KPCR))
			})),
		edited("descriptor tables anywhere", "every KPCR has its GDT and IDT at the end of the address space", Found, "",
			attack(func(e *edits) {
				for _, p := range e.im.Truth.Processors {
					e.put64(p.KPCR+pcrGDTBase, ^uint64(0))
					e.put64(p.KPCR+pcrIDTBase, ^uint64(0)-7)
				}
			})),
		edited("no thread", "no KPRCB names the thread that runs, or it names the KPRCB", Found, "",
			attack(func(e *edits) {
				for i, p := range e.im.Truth.Processors {
					e.put64(p.KPRCB+prcbCurrentThread, nowhere[i%len(nowhere)])
				}
				p := e.im.Truth.Processors[1]
				e.put64(p.KPRCB+prcbCurrentThread, uint64(p.KPRCB))
			})),
	}
}

// context makes the KPRCB of processor i name a place for its context; of kernels
// whose KPRCBs don't name it, the place stays.
func (e *edits) context(i int, at uint64) {
	p, err := findProfile(e.im.Config.Profile)
	if err != nil {
		e.err = err
		return
	}
	off := p.processor.contextPointer
	if off == 0 { // in the KPRCB itself: the number is broken instead
		e.put32(e.im.Truth.Processors[i].KPRCB+phys.VirtAddr(p.processor.number), 0x55)
		return
	}
	e.put64(e.im.Truth.Processors[i].KPRCB+phys.VirtAddr(off), at)
}

// lied is an attack by registers.
func lied(name, about string, outcome Outcome, says string, f func(im *Image, c *phys.Registers, i int)) Attack {
	return Attack{Name: name, About: about, Outcome: outcome, Says: says, Registers: func(im *Image, cpus []phys.Registers) []phys.Registers {
		for i := range cpus {
			f(im, &cpus[i], i)
		}
		return cpus
	}}
}

// registerAttacks are registers that lie.
func registerAttacks() []Attack {
	each := func(v []uint64, i int) uint64 { return v[i%len(v)] }
	return []Attack{
		lied("CR3 anywhere", "no processor's CR3 is in RAM", Found, "", func(im *Image, c *phys.Registers, i int) {
			c.CR3 = each([]uint64{pteFrame, 0xA_0000, uint64(im.ram.End().Addr()), 0xFEE0_0000}, i)
		}),
		lied("CR3 of nothing", "every processor's CR3 is KUSER_SHARED_DATA, or a page of the kernel", Found, "", func(im *Image, c *phys.Registers, i int) {
			at, _ := im.Translate(im.Truth.KernelBase)
			c.CR3 = each([]uint64{uint64(im.kuser.Addr()), uint64(at)}, i)
		}),
		lied("CR3 is zero", "every processor's CR3 is 0", Found, "", func(_ *Image, c *phys.Registers, _ int) { c.CR3 = 0 }),
		lied("CR3 encrypted", "every processor's CR3 has bit 51 set", Found, "", func(_ *Image, c *phys.Registers, _ int) { c.CR3 |= 1 << 51 }),
		lied("GS base anywhere", "no processor's GS bases are its KPCR", Found, "", func(_ *Image, c *phys.Registers, i int) {
			c.GS.Base, c.KernelGSBase = each(nowhere, i), each(nowhere, i+1)
		}),
		lied("GS base of another", "every processor's GS base is processor 0's KPCR", Found, "", func(im *Image, c *phys.Registers, _ int) {
			c.GS.Base = uint64(im.Truth.Processors[0].KPCR)
		}),
		lied("CR4.LA57 wrong", "every processor says that it pages by as many levels as it doesn't", Found, "", func(_ *Image, c *phys.Registers, _ int) {
			c.CR4 ^= phys.CR4LA57
		}),
		lied("hints anywhere", "LSTAR, IDT, GDT and RIP of every processor are where nothing is", Found, "", func(_ *Image, c *phys.Registers, i int) {
			c.LSTAR, c.IDT.Base, c.GDT.Base, c.RIP = each(nowhere, i), each(nowhere, i+1), each(nowhere, i+2), each(nowhere, i+3)
		}),
		lied("all registers are ones", "every register of every processor is all ones", Warned, "no vCPU holds", func(_ *Image, c *phys.Registers, _ int) {
			ones := ^uint64(0)
			c.RIP, c.RSP, c.RFLAGS, c.CR0, c.CR3, c.CR4, c.EFER, c.LSTAR = ones, ones, ones, ones, ones, ones, ones, ones
			c.GS.Base, c.KernelGSBase, c.IDT.Base, c.GDT.Base = ones, ones, ones, ones
			c.CS.Selector, c.SS.Selector, c.CS.Flags = 0xFFFF, 0xFFFF, 0xFFFF_FFFF
		}),
		lied("all registers are zero", "every register of every processor is 0", Warned, "no vCPU holds", func(_ *Image, c *phys.Registers, _ int) {
			*c = phys.Registers{CPU: c.CPU}
		}),
		lied("no paging", "CR0.PG of every processor is clear", Refused, "firmware", func(_ *Image, c *phys.Registers, _ int) { c.CR0 &^= 1 << 31 }),
		lied("32-bit paging", "EFER.LMA of every processor is clear", Refused, "32-bit", func(_ *Image, c *phys.Registers, _ int) { c.EFER &^= 1 << 10 }),
		{
			Name: "no registers", About: "the source knows of no processor", Outcome: Warned, Says: "no processor registers",
			Registers: func(*Image, []phys.Registers) []phys.Registers { return nil },
		},
		{
			Name: "too many registers", About: "the source has each processor 300 times", Outcome: Warned, Says: "more vCPUs are none",
			Registers: func(_ *Image, cpus []phys.Registers) []phys.Registers {
				n := len(cpus)
				for i := range 300 * n {
					c := cpus[i%n]
					c.CPU = n + i
					cpus = append(cpus, c)
				}
				return cpus
			},
		},
		{
			Name: "forged tables, no registers", About: "500 pages of low memory look like top-level tables, no processor's registers are known, and there is no low stub", Outcome: Warned, Says: "no processor registers",
			Edit: attack(func(e *edits) {
				if at := e.im.Truth.LowStub; at != 0 {
					e.physical(at, make([]byte, phys.PageSize))
				}
				forgeSpaces(e, 500)
			}),
			Registers: func(*Image, []phys.Registers) []phys.Registers { return nil },
		},
	}
}
