package ntlab

import (
	"snap/phys"
)

// Selectors and descriptors of the Windows x64 GDT. The selectors are in the
// KDBG of a triage dump of build 19041 (GdtR0Code and the fields after it);
// the descriptors are as that kernel's GDT holds them.
const (
	selKernelCode = 0x10
	selKernelData = 0x18
	selUserData   = 0x28 | 3
	selUserCode   = 0x30 | 3
	selTSS        = 0x40
	selUserTEB    = 0x50 | 3

	descKernelCode = 0x00209b0000000000
	descKernelData = 0x0040930000000000
	descCompatCode = 0x00cffb000000ffff
	descUserData   = 0x00cff3000000ffff
	descUserCode   = 0x0020fb0000000000
	descUserTEB    = 0x0040f30000003c00

	gdtLimit = 0x57
	idtLimit = 0xFFF
	tssLimit = 0x67

	// Where the parts lie in one processor's block of descriptor tables, after
	// the bases that the same dump's special registers show (…8e0000 and
	// …8e2fb0): the GDT straddles two pages.
	blockIDT   = 0
	blockTSS   = 0x1000
	blockGDT   = 0x2FB0
	blockPages = 4
)

// Offsets in KPCR (public symbols; WinDbg's dt nt!_KPCR), and in KPRCB those
// that never changed.
const (
	pcrGDTBase      = 0x00
	pcrTSSBase      = 0x08
	pcrSelf         = 0x18
	pcrCurrentPRCB  = 0x20
	pcrLockArray    = 0x28
	pcrUsedSelf     = 0x30
	pcrIDTBase      = 0x38
	pcrMajorVersion = 0x60
	pcrVersionBlock = 0x108

	prcbMxCsr         = 0x00
	prcbCurrentThread = 0x08
	prcbIdleThread    = 0x18
	prcbRSPBase       = 0x28
)

// Offsets in KSPECIAL_REGISTERS (x64, public symbols).
const (
	specialCR0             = 0x00
	specialCR3             = 0x10
	specialCR4             = 0x18
	specialDR6             = 0x40
	specialDR7             = 0x48
	specialGDTLimit        = 0x56
	specialGDTBase         = 0x58
	specialIDTLimit        = 0x66
	specialIDTBase         = 0x68
	specialTR              = 0x70
	specialMxCsr           = 0x74
	kernelCR0       uint64 = 0x80050033
)

// cpu is what the builder knows of one processor besides Truth.
type cpu struct {
	gdt, idt, tss phys.VirtAddr
	stack         phys.VirtAddr // of the thread that runs: its base, above the bytes
	idle, current phys.VirtAddr // ETHREADs
	process       *process      // that current belongs to
	teb           phys.VirtAddr // of current, 0 for a system thread
}

// placeProcessors makes each processor's KPCR and tables, and KiProcessorBlock.
func (b *builder) placeProcessors() {
	n := b.Config.CPUs
	vcpus := make([]int, n)
	for i := range vcpus {
		vcpus[i] = i
	}
	r := stream(b.Config.Seed, 'c')
	if !b.Config.IdentityCPUs {
		r.shuffle(n, func(i, j int) { vcpus[i], vcpus[j] = vcpus[j], vcpus[i] })
	}
	b.Truth.Processors = make([]Processor, n)
	b.cpus = make([]cpu, n)
	for i := range n {
		p := &b.Truth.Processors[i]
		p.VCPU = vcpus[i]
		b.placePCR(i, p, r)
		b.machine().placeDescriptors(b, i, p)
		b.putPointer(b.symbols["KiProcessorBlock"]+phys.VirtAddr(b.machine().word*i), uint64(p.KPRCB))
	}
}

// placePCR allocates processor i's KPCR and fills in what is known so early.
func (b *builder) placePCR(i int, p *Processor, r *rng) {
	l := &b.p.processor
	pages := (uint64(l.sizePCR) + phys.PageSize - 1) >> phys.PageShift
	switch {
	case i == 0 && l.bootPCRInImage:
		p.KPCR = b.symbols["KiInitialPCR"]
	case i == 0 && b.machine().word == 4:
		p.KPCR = bootPCR32
		check(b.mapFresh(b.Truth.DirectoryTableBase, p.KPCR, 1, kernelData))
	case i == 0:
		p.KPCR = must(b.loader.pages(b.Image, pages))
	default:
		p.KPCR = must(b.ptes.pages(b.Image, pages))
	}
	p.KPRCB = p.KPCR + phys.VirtAddr(l.containedPRCB)
	m := b.machine()
	b.putPointer(p.KPCR+m.pcrSelf, uint64(p.KPCR))
	b.putPointer(p.KPCR+m.pcrCurrentPRCB, uint64(p.KPRCB))
	b.put16(p.KPCR+m.pcrMajorVersion, 1)
	b.put16(p.KPCR+m.pcrMajorVersion+2, 1)
	if i == 0 && b.p.fixedLayout {
		b.putPointer(p.KPCR+m.pcrVersionBlock, uint64(b.symbols["KdVersionBlock"]))
	}
	if m.word == 8 {
		b.put64(p.KPCR+pcrLockArray, uint64(p.KPRCB+0x670))
		b.put32(p.KPRCB+prcbMxCsr, 0x1F80)
	}
	if l.numberSize == 1 {
		// NestingLevel, InterruptRequest and IdleHalt are the bytes that follow.
		b.put(p.KPRCB+phys.VirtAddr(l.number), []byte{byte(i), 0, 0, byte(i & 1)})
	} else {
		b.put(p.KPRCB+m.prcbLegacyNumber, []byte{byte(i)})
		b.put32(p.KPRCB+phys.VirtAddr(l.number), uint32(i))
	}
	if l.group != 0 {
		b.put(p.KPRCB+phys.VirtAddr(l.group), []byte{byte(i / 64)})
	}
	b.put(p.KPRCB+phys.VirtAddr(l.vendorString), []byte("GenuineIntel\x00"))
	b.put32(p.KPRCB+phys.VirtAddr(l.mhz), 2593)
	p.Context = p.KPRCB + phys.VirtAddr(l.stateContext)
	if l.contextPointer != 0 {
		// The dump has it 0x340 into a page; a larger offset makes it straddle.
		area := must(b.ptes.pages(b.Image, 2))
		off := uint64(0x340)
		if i > 0 && r.coin() {
			off = r.between(0x34, 0xff) * 0x10
		}
		p.Context = area + phys.VirtAddr(off)
		word := phys.VirtAddr(m.word)
		b.putPointer(p.KPRCB+phys.VirtAddr(l.contextPointer), uint64(p.Context))
		b.put32(p.KPRCB+phys.VirtAddr(l.contextPointer)+word, 0x10004b)
		b.putPointer(p.KPRCB+phys.VirtAddr(l.contextPointer)+2*word, uint64(area))
	}
}

// placeDescriptors makes processor i's IDT, TSS and GDT, and the special
// registers that name them.
func (b *builder) placeDescriptors(i int, p *Processor) {
	region := &b.ptes
	if i == 0 {
		region = &b.loader
	}
	block := must(region.pages(b.Image, blockPages))
	c := &b.cpus[i]
	c.idt, c.tss, c.gdt = block+blockIDT, block+blockTSS, block+blockGDT

	suffix := ""
	if b.Config.KPTI {
		suffix = "Shadow"
	}
	idt := make([]byte, idtLimit+1)
	for v := range 256 {
		h := b.symbols["KiIsrThunk"+suffix] + phys.VirtAddr(8*v)
		if v == 0 {
			h = b.symbols["KiDivideErrorFault"+suffix]
		}
		gate(idt[16*v:], h, v == 3 || v == 4)
	}
	b.put(c.idt, idt)
	b.put(c.gdt, gdtBytes(c.tss))

	b.put64(p.KPCR+pcrGDTBase, uint64(c.gdt))
	b.put64(p.KPCR+pcrTSSBase, uint64(c.tss))
	b.put64(p.KPCR+pcrIDTBase, uint64(c.idt))
	s := p.KPRCB + phys.VirtAddr(b.p.processor.specialRegisters)
	b.put64(s+specialCR0, kernelCR0)
	b.put64(s+specialCR3, uint64(b.Truth.DirectoryTableBase))
	b.put64(s+specialCR4, b.cr4())
	b.put64(s+specialDR6, 0xffff0ff0)
	b.put64(s+specialDR7, 0x400)
	b.put16(s+specialGDTLimit, gdtLimit)
	b.put64(s+specialGDTBase, uint64(c.gdt))
	b.put16(s+specialIDTLimit, idtLimit)
	b.put64(s+specialIDTBase, uint64(c.idt))
	b.put16(s+specialTR, selTSS)
	b.put32(s+specialMxCsr, 0x1F80)
}

// cr4PCIDE turns on process-context identifiers, which KVA shadow uses.
const cr4PCIDE = 1 << 17

func (b *builder) cr4() uint64 {
	if b.Config.KPTI {
		return b.p.processor.cr4 | cr4PCIDE | b.la57()
	}
	return b.p.processor.cr4 | b.la57()
}

// la57 returns the bit of CR4 that says that page tables have 5 levels.
func (b *builder) la57() uint64 {
	if b.Config.LA57 {
		return phys.CR4LA57
	}
	return 0
}

// gate writes a 64-bit interrupt gate (Intel SDM volume 3, 6.14.1).
func gate(p []byte, handler phys.VirtAddr, user bool) {
	le.PutUint16(p, uint16(handler))
	le.PutUint16(p[2:], selKernelCode)
	p[5] = 0x8E
	if user {
		p[5] = 0xEE
	}
	le.PutUint16(p[6:], uint16(handler>>16))
	le.PutUint32(p[8:], uint32(handler>>32))
}

func gdtBytes(tss phys.VirtAddr) []byte {
	g := make([]byte, gdtLimit+1)
	for at, d := range map[int]uint64{
		0x10: descKernelCode, 0x18: descKernelData, 0x20: descCompatCode, 0x28: descUserData,
		0x30: descUserCode, 0x50: descUserTEB,
	} {
		le.PutUint64(g[at:], d)
	}
	base := uint64(tss)
	le.PutUint64(g[0x40:], tssLimit|base&0xffffff<<16|0x8b<<40|base>>24&0xff<<56)
	le.PutUint64(g[0x48:], base>>32)
	return g
}
