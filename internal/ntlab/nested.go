package ntlab

import (
	"snap/phys"
)

// Where the hypervisor that runs inside a guest has its own things, by its own page
// tables: addresses of the kernel's half, as Hyper-V's are.
const (
	hypervisorImage phys.VirtAddr = 0xFFFFF87000000000
	hypervisorCPUs  phys.VirtAddr = 0xFFFFE70000000000

	hypervisorPages = 16
)

// enterHypervisor puts all processors into a hypervisor that runs inside the guest,
// where they are while they have nothing to do: with its page tables, of 4 levels,
// its descriptor tables and its code. Its memory is the guest's.
func (b *builder) enterHypervisor() {
	if !b.Config.Nested {
		return
	}
	r := stream(b.Config.Seed, 'v')
	own := &Image{mem: b.mem, ram: b.ram, alloc: b.alloc, tables: &tables4} // of the same memory, by 4 levels
	for i := range b.regs {
		root := must(b.alloc.page()).Addr()
		check(own.mapFresh(root, hypervisorImage, hypervisorPages, kernelCode))
		block := hypervisorCPUs + phys.VirtAddr(i)<<16
		check(own.mapFresh(root, block, blockPages, kernelData))
		idt := make([]byte, idtLimit+1)
		for v := range 256 {
			gate(idt[16*v:], hypervisorImage+phys.VirtAddr(0x100+8*v), false)
		}
		check(own.WriteVirtIn(root, block+blockIDT, idt))
		g := &b.regs[i]
		g.CR3 = uint64(root)
		g.CR4 = b.p.processor.cr4 | cr4VMXE
		g.RIP = uint64(hypervisorImage) + r.below(hypervisorPages<<phys.PageShift)
		g.RSP = uint64(block) + 0x1F00
		g.CS = phys.Segment{Selector: selKernelCode, Flags: descKernelCode >> 32 & 0xf0ff00}
		g.SS = phys.Segment{Selector: selKernelData, Flags: descKernelData >> 32 & 0xf0ff00}
		g.GS.Base, g.KernelGSBase = uint64(block), 0
		if g.HasLSTAR {
			g.LSTAR = uint64(hypervisorImage) + 0x800
		}
		g.IDT.Base, g.GDT.Base, g.TR.Base = uint64(block+blockIDT), uint64(block+blockGDT), uint64(block+blockTSS)
	}
}

// cr4VMXE turns on the instructions of a hypervisor (Intel SDM volume 3, 2.5).
const cr4VMXE = 1 << 13
