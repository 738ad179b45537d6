package ntlab

import (
	"errors"

	"snap/phys"
)

// Fixed addresses of every 32-bit kernel (ntddk.h; public symbols), and the first
// processor's KPCR in those before Windows Vista.
const (
	kuserKernel32 phys.VirtAddr = 0xFFFFFFFF_FFDF0000
	bootPCR32     phys.VirtAddr = 0xFFFFFFFF_FFDFF000
	selfMap32     phys.VirtAddr = 0xFFFFFFFF_C0000000
)

// check32 fails where a configuration is of 32-bit Windows and the profile isn't, or
// the other way round, or of one that never was.
func (c *Config) check32(p *profile) error {
	x86 := p.row != nil && p.row.x86
	switch {
	case !x86 && (c.NoPAE || c.UserSpace3GB):
		return errors.New("profile " + p.name + " is of a 64-bit Windows")
	case x86 && c.NoPAE && p.build >= buildWin8:
		return errors.New("profile " + p.name + " is of a Windows that demands PAE")
	case x86 && c.Memory > 2<<30:
		return errors.New("32-bit guests of more than 2 GiB aren't made")
	case x86 && (c.Nested || c.VBS || c.LA57 || c.DummySelfMap || c.UnalignedKernel):
		return errors.New("profile " + p.name + ": the option is of 64-bit guests alone")
	}
	return nil
}

// chooseLayout32 places the regions: the kernel where XP and Server 2003 have it, or
// anywhere in what later ones choose from; with /3GB everything is above 3 GiB.
func (b *builder) chooseLayout32() layout {
	r := stream(b.Config.Seed, 'l')
	at := func(va uint32) phys.VirtAddr { return phys.VirtAddr(int64(int32(va))) }
	l := layout{
		selfMap: int(b.tables.index(selfMap32, b.tables.levels)),
		kernel:  at(0x804D7000), modules: at(0x8B000000), loader: at(0x80100000),
		nonPaged: at(0x84000000), paged: at(0xE1000000), ptes: at(0xF2000000),
		pfn: at(0x88000000), session: at(0xBC000000), cache: at(0xC1800000), hal: at(0xFFD00000),
	}
	if b.p.build >= buildVista {
		l.kernel = at(0x81800000 + uint32(r.below(0x1000))<<phys.PageShift)
	}
	if b.Config.UserSpace3GB {
		l.kernel += 0x60000000
		l.modules, l.loader, l.nonPaged, l.pfn = at(0xF7400000), at(0xE0100000), at(0xC8000000), at(0xC4000000)
		l.session = at(0xDC000000)
	}
	return l
}

// setSelfMap32 has the page tables map themselves at 0xC0000000: by an entry of the
// directory for itself, or with PAE by entries for all four of the last directory.
func (b *builder) setSelfMap32(root phys.Addr) {
	last := root
	if b.tables.row {
		last = must(b.table(root, selfMap32, 2))
		for i := range uint64(3) {
			dir := must(b.table(root, phys.VirtAddr(i<<30), 2))
			b.set(last, i, uint64(dir)|kernelTable)
		}
	}
	b.set(last, uint64(b.lay.selfMap), uint64(last)|kernelTable)
}

// shareKernelHalf32 gives a process copies of the system's directories.
func (b *builder) shareKernelHalf32(p *process) {
	const half, large phys.VirtAddr = 0xFFFFFFFF_80000000, 0x200000
	start := half
	if b.Config.UserSpace3GB {
		start = selfMap32
	}
	for va := start; va != 0; va += large {
		from := must(b.table(b.Truth.DirectoryTableBase, va, 2))
		to := must(b.table(p.dtb, va, 2))
		i := b.tables.index(va, 2)
		b.set(to, i, b.get(from, i))
	}
	b.setSelfMap32(p.dtb)
}

// placeShadows32 is placeShadows of a kernel with PAE, the only ones that have it.
func (b *builder) placeShadows32() {
	shadow := b.mapShadow()
	kernel := b.tables.index(0xFFFFFFFF_80000000, 3)
	if b.Config.UserSpace3GB {
		kernel++
	}
	for _, p := range b.procs {
		if p.userDTB == 0 {
			continue
		}
		for i := range b.tables.counts[3] {
			if i < kernel {
				b.set(p.userDTB, i, b.get(p.dtb, i))
			} else {
				b.set(p.userDTB, i, b.get(shadow, i))
			}
		}
	}
}

// placeRow takes room for a row of a process's four directories.
func (b *builder) placeRow(page phys.PFN, r *rng) phys.Addr {
	const rowSize = 32
	return page.Addr() + phys.Addr(r.below(phys.PageSize/rowSize)*rowSize)
}

// placeOddEntries32: how pages are mapped in another way than most. Where a prototype
// PTE is, entries of 4 bytes don't say by themselves.
func (b *builder) placeOddEntries32(r *rng) {
	odd := must(b.paged.pages(b.Image, uint64(3+len(protoForms))))
	for _, f := range protoForms {
		p := must(b.alloc.page())
		r.fill(b.mem.page(p)[:])
		if b.tables.row {
			b.prototype32(odd, f.entry(b, p, r))
			b.note(f.kind, odd, p)
		} else {
			b.setPTE(odd, r.between(1, 0x1FFFFF)<<11|ptePrototype)
			b.note(MappingLost, odd, p)
		}
		odd += phys.PageSize
	}
	page := r.between(1, 1<<20-1) << 12 // MMPTE_SOFTWARE.PageFileHigh
	if b.tables.row {
		page <<= 20
	}
	b.setPTE(odd, page|1<<1|demandZero)
	b.note(MappingPagefile, odd, 0)
	b.setPTE(odd+0x1000, demandZero)
	b.note(MappingDemandZero, odd+0x1000, 0)
}

// prototype32 points va's entry of 8 bytes at a prototype PTE in paged pool.
func (b *builder) prototype32(va phys.VirtAddr, entry uint64) {
	proto := b.block(&b.paged, "MmSt", 8)
	b.put64(proto, entry)
	b.setPTE(va, uint64(proto)<<32|ptePrototype)
}
