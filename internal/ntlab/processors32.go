package ntlab

import "snap/phys"

// Selectors and descriptors of the GDT of 32-bit Windows (ks386.inc of the WDK).
const (
	sel32KernelCode = 0x08
	sel32KernelData = 0x10
	sel32UserCode   = 0x18 | 3
	sel32UserData   = 0x20 | 3
	sel32TSS        = 0x28
	sel32PCR        = 0x30
	sel32UserTEB    = 0x38 | 3

	desc32KernelCode = 0x00cf9b000000ffff
	desc32KernelData = 0x00cf93000000ffff
	desc32UserCode   = 0x00cffb000000ffff
	desc32UserData   = 0x00cff3000000ffff

	gdt32Limit = 0x3FF
	idt32Limit = 0x7FF
	tss32Limit = 0x20AB

	cr4PAE = 1 << 5
)

// cr4Of32 is what 32-bit Windows has in CR4: with PAE or without.
func (b *builder) cr4Of32() uint64 {
	v := uint64(0x6D9) &^ cr4PAE
	if b.tables.row {
		v |= cr4PAE
	}
	return v
}

// descriptor32 is a segment's descriptor (Intel SDM volume 3, 3.4.5).
func descriptor32(base phys.VirtAddr, limit uint64, access uint64) uint64 {
	at := uint64(base) & 0xFFFFFFFF
	return limit&0xFFFF | at&0xFFFFFF<<16 | access<<40 | limit>>16&0xF<<48 | 0x40<<48 | at>>24<<56
}

// placeDescriptors32 is placeDescriptors of a 32-bit kernel.
func (b *builder) placeDescriptors32(i int, p *Processor) {
	region := &b.ptes
	if i == 0 {
		region = &b.loader
	}
	block := must(region.pages(b.Image, blockPages))
	c := &b.cpus[i]
	c.idt, c.tss, c.gdt = block+blockIDT, block+blockTSS, block+blockGDT-0x400

	suffix := ""
	if b.Config.KPTI {
		suffix = "Shadow"
	}
	idt := make([]byte, idt32Limit+1)
	for v := range 256 {
		h := b.symbols["KiIsrThunk"+suffix] + phys.VirtAddr(8*v)
		if v == 0 {
			h = b.symbols["KiDivideErrorFault"+suffix]
		}
		g := idt[8*v:]
		le.PutUint16(g, uint16(h))
		le.PutUint16(g[2:], sel32KernelCode)
		g[5] = 0x8E
		le.PutUint16(g[6:], uint16(h>>16))
	}
	b.put(c.idt, idt)
	gdt := make([]byte, gdt32Limit+1)
	for at, d := range map[int]uint64{
		sel32KernelCode: desc32KernelCode, sel32KernelData: desc32KernelData,
		sel32UserCode &^ 3: desc32UserCode, sel32UserData &^ 3: desc32UserData,
		sel32TSS: descriptor32(c.tss, tss32Limit, 0x8B), sel32PCR: descriptor32(p.KPCR, 0x1FFF, 0x93),
		sel32UserTEB &^ 3: descriptor32(0x7FFDE000, 0xFFF, 0xF3),
	} {
		le.PutUint64(gdt[at:], d)
	}
	b.put(c.gdt, gdt)

	m := b.machine()
	b.put32(p.KPCR+m.pcrGDTBase, uint32(c.gdt))
	b.put32(p.KPCR+m.pcrTSSBase, uint32(c.tss))
	b.put32(p.KPCR+m.pcrIDTBase, uint32(c.idt))
	s := p.KPRCB + phys.VirtAddr(b.p.processor.specialRegisters)
	b.put32(s+m.specialCR0, uint32(kernelCR0))
	b.put32(s+m.specialCR3, uint32(b.Truth.DirectoryTableBase))
	b.put32(s+m.specialCR4, uint32(b.cr4Of32()))
}

// fillMode32 is all that the registers of a processor of 32-bit Windows say of where it
// was stopped: no more than 32 bits of each.
func (b *builder) fillMode32(g *phys.Registers, i int, r *rng) {
	c, kpcr := &b.cpus[i], b.Truth.Processors[i].KPCR
	for _, v := range []*uint64{&g.RAX, &g.RBX, &g.RCX, &g.RDX, &g.RSI, &g.RDI, &g.RBP, &g.CR2} {
		*v &= 0xFFFFFFFF
	}
	g.R8, g.R9, g.R10, g.R11, g.R12, g.R13, g.R14, g.R15 = 0, 0, 0, 0, 0, 0, 0, 0
	low := func(va phys.VirtAddr) uint64 { return uint64(va) & 0xFFFFFFFF }
	segment := func(selector uint16, descriptor uint64) phys.Segment {
		return phys.Segment{Selector: selector, Limit: 0xffffffff, Flags: uint32(descriptor >> 32 & 0xf0ff00)}
	}
	g.CR3 = uint64(c.process.dtb)
	g.RFLAGS = 0x246
	g.DS, g.ES = segment(sel32UserData, desc32UserData), segment(sel32UserData, desc32UserData)
	if b.Config.UserMode {
		g.RIP = low(c.process.code) + r.below(phys.PageSize)
		g.RSP = low(c.process.stacks) + uint64(i)<<phys.PageShift + r.below(phys.PageSize/8)*8
		g.CS, g.SS = segment(sel32UserCode, desc32UserCode), segment(sel32UserData, desc32UserData)
		g.FS = phys.Segment{Selector: sel32UserTEB, Base: low(c.teb), Limit: 0xFFF, Flags: 0x40f300}
		if b.Config.KPTI {
			g.CR3 = uint64(c.process.userDTB)
		}
		return
	}
	text := b.p.section(".text")
	g.RIP = low(b.lay.kernel) + uint64(text.rva) + r.below(uint64(text.size-spareSize))
	g.RSP = low(c.stack) - r.between(0x80, 0x800)*8
	g.CS, g.SS = segment(sel32KernelCode, desc32KernelCode), segment(sel32KernelData, desc32KernelData)
	g.FS = phys.Segment{Selector: sel32PCR, Base: low(kpcr), Limit: 0x1FFF, Flags: 0x409300}
}
