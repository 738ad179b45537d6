package ntlab

import (
	"snap/phys"
)

// fillRegisters makes the processors' state agree with their KPCRs.
func (b *builder) fillRegisters() {
	b.regs = make([]phys.Registers, len(b.cpus))
	for i := range b.cpus {
		r := stream(b.Config.Seed, 'r'<<16|uint64(i))
		p := &b.Truth.Processors[i]
		g := &b.regs[p.VCPU]
		g.CPU = p.VCPU
		for _, v := range []*uint64{
			&g.RAX, &g.RBX, &g.RCX, &g.RDX, &g.RSI, &g.RDI, &g.RBP,
			&g.R8, &g.R9, &g.R10, &g.R11, &g.R12, &g.R13, &g.R14, &g.R15, &g.CR2,
		} {
			*v = r.u64()
		}
		b.machine().fillMode(b, g, i, r)
		b.fillTables(g, i)
		fillFPU(&g.FPU, r)
		g.HasFPU, g.HasDebug = true, true
		for _, d := range []int{0, 1, 2, 3} {
			g.DR[d] = r.u64()
		}
		g.DR[6], g.DR[7] = 0xffff0ff0, 0x400
		g.CR0, g.CR4 = kernelCR0, b.cr4()
		g.HasEFER, g.EFER = true, 0xd01 // SCE, LME, LMA, NXE
		if b.machine().word == 4 {
			b.narrow(g)
		}
		if b.Config.MonitorRegisters {
			g.HasKernelGSBase, g.KernelGSBase = false, 0
			g.HasLSTAR, g.LSTAR = false, 0
		}
	}
}

// narrow turns what all processors have alike into what those of 32-bit Windows have.
func (b *builder) narrow(g *phys.Registers) {
	g.CR4, g.EFER = b.cr4Of32(), 0
	if b.tables.row {
		g.EFER = 1 << 11 // NXE
	}
	for _, base := range []*uint64{&g.GDT.Base, &g.IDT.Base, &g.TR.Base} {
		*base &= 0xFFFFFFFF
	}
	g.GDT.Limit, g.IDT.Limit = gdt32Limit, idt32Limit
	for d := range 4 {
		g.DR[d] &= 0xFFFFFFFF
	}
	g.TR.Selector, g.TR.Limit = sel32TSS, tss32Limit
	clear(g.FPU.XMM[8:]) // there are 8 of them
}

// fillMode sets what depends on where the processor was stopped.
func (b *builder) fillMode(g *phys.Registers, i int, r *rng) {
	c, kpcr := &b.cpus[i], b.Truth.Processors[i].KPCR
	g.HasKernelGSBase, g.HasLSTAR = true, true
	suffix := ""
	if b.Config.KPTI {
		suffix = "Shadow"
	}
	g.LSTAR = uint64(b.symbols["KiSystemCall64"+suffix])
	g.CR3 = uint64(c.process.dtb)
	if b.Config.KPTI {
		g.CR3 |= pcidKernel
	}
	g.RFLAGS = 0x246
	data := phys.Segment{Selector: selUserData, Limit: 0xffffffff, Flags: descUserData >> 32 & 0xf0ff00}
	g.DS, g.ES, g.GS = data, data, data
	g.FS = phys.Segment{Selector: selUserTEB, Limit: 0x3c00, Flags: descUserTEB >> 32 & 0xf0ff00}
	if b.Config.UserMode {
		g.RIP = uint64(c.process.code) + r.below(phys.PageSize)
		g.RSP = uint64(c.process.stacks) + uint64(i)<<phys.PageShift + r.below(phys.PageSize/8)*8
		g.CS = phys.Segment{Selector: selUserCode, Flags: descUserCode >> 32 & 0xf0ff00}
		g.SS = data
		g.GS.Base, g.KernelGSBase = uint64(c.teb), uint64(kpcr)
		if b.Config.KPTI {
			g.CR3 = uint64(c.process.userDTB) | pcidUser
		}
		return
	}
	text := b.p.section(".text")
	g.RIP = uint64(b.lay.kernel) + uint64(text.rva) + r.below(uint64(text.size-spareSize))
	g.RSP = uint64(c.stack) - r.between(0x80, 0x800)*8
	g.CS = phys.Segment{Selector: selKernelCode, Flags: descKernelCode >> 32 & 0xf0ff00}
	g.SS = phys.Segment{Selector: selKernelData, Flags: descKernelData >> 32 & 0xf0ff00}
	g.GS.Base = uint64(kpcr)
	last := b.procs[len(b.procs)-1] // who ran here before
	g.KernelGSBase = uint64(last.tebs) + uint64(i<<phys.PageShift)
}

func (b *builder) fillTables(g *phys.Registers, i int) {
	c := &b.cpus[i]
	g.GDT = phys.DescriptorTable{Base: uint64(c.gdt), Limit: gdtLimit}
	g.IDT = phys.DescriptorTable{Base: uint64(c.idt), Limit: idtLimit}
	g.TR = phys.Segment{Selector: selTSS, Base: uint64(c.tss), Limit: tssLimit, Flags: 0x8b00}
}

func fillFPU(f *phys.FPU, r *rng) {
	f.FCW, f.FSW, f.FTW, f.MXCSR = 0x27f, uint16(r.below(8))<<11, byte(r.u64()), 0x1f80
	for i := range f.ST {
		r.fill(f.ST[i][:])
	}
	for i := range f.XMM {
		r.fill(f.XMM[i][:])
	}
}
