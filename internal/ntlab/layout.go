package ntlab

import (
	"snap/phys"
)

// Fixed addresses of every x64 kernel.
const (
	kuserKernel phys.VirtAddr = 0xFFFFF78000000000
	kuserUser   phys.VirtAddr = 0x7FFE0000

	// ntoskrnl is loaded in this range (base within 512 GiB).
	kernelRangeStart = 0xFFFFF80000000000
	kernelRangeSlots = 8 << 32 >> 21 // 2 MiB positions up to FFFFF807_FFFFFFFF

	fixedHAL phys.VirtAddr = 0xFFFFFFFFFFD00000
)

// layout says where the parts of the system address space lie.
type layout struct {
	selfMap  int
	kernel   phys.VirtAddr
	modules  phys.VirtAddr // drivers load from here up
	loader   phys.VirtAddr // what the boot loader allocated: processor 0's tables
	nonPaged phys.VirtAddr
	paged    phys.VirtAddr
	ptes     phys.VirtAddr // system PTEs: stacks, other processors' KPCRs
	pfn      phys.VirtAddr // the PFN database
	session  phys.VirtAddr
	cache    phys.VirtAddr
	hal      phys.VirtAddr
}

// slotAddr returns the first address that a slot of the top-level table's upper half
// maps.
func (im *Image) slotAddr(slot int) phys.VirtAddr {
	top := im.levels()
	shift := im.tables.shifts[top]
	return phys.VirtAddr(-(im.tables.counts[top] << shift) | uint64(slot)<<shift)
}

// systemStart returns the value of MmSystemRangeStart: the start of the kernel's half,
// if nothing says otherwise.
func (b *builder) systemStart() uint64 {
	switch {
	case b.Config.LA57:
		return uint64(b.slotAddr(0x100))
	case b.Config.UserSpace3GB:
		return uint64(selfMap32)
	}
	return b.p.systemStart
}

// The kernel image for processors with 5-level paging has a name of its own, and is
// built for every Windows from build 20231 on.
func (b *builder) kernelNames() (file, pdb string) {
	switch {
	case b.Config.LA57:
		return "ntkrla57.exe", "ntkrla57.pdb"
	case b.tables.row:
		return "ntoskrnl.exe", "ntkrpamp.pdb"
	}
	return "ntoskrnl.exe", "ntkrnlmp.pdb"
}

// chooseLayout places the regions: at random slots of the top-level table where this
// kernel does so (Windows 10 1607 and later), else where they always are. With 5
// levels the slots are 256 TiB each, so that regions begin anywhere in one, and
// kernel, drivers, HAL and KUSER_SHARED_DATA share the last.
func (b *builder) chooseLayout() layout {
	r := stream(b.Config.Seed, 'l')
	var l layout
	if b.p.kernelBase != 0 {
		l.kernel = phys.VirtAddr(b.p.kernelBase)
	} else {
		// Room above for the image and below for the drivers.
		l.kernel = kernelRangeStart + phys.VirtAddr(r.between(4096, kernelRangeSlots-4096)<<21)
		if !b.p.largePages {
			l.kernel += phys.VirtAddr(r.below(largePages) << phys.PageShift)
		}
	}
	if b.Config.FarKernel {
		l.kernel = b.slotAddr(int(r.between(0x100, 0x1F0))) + phys.VirtAddr(r.between(4096, 1<<17)<<21)
	}
	if b.Config.UnalignedKernel {
		l.kernel += phys.VirtAddr(r.between(1, largePages-1) << phys.PageShift)
	}
	l.modules = phys.VirtAddr(b.p.moduleBase)
	if l.modules == 0 {
		l.modules = l.kernel - phys.VirtAddr(r.between(64, 1024)<<21)
	}
	l.loader = l.kernel - phys.VirtAddr(r.between(2048, 4000)<<21)
	if b.p.fixedLayout {
		l.selfMap = b.p.selfMapSlot // the same in a PML5: no such kernel pages with 5 levels
		l.loader = kernelRangeStart + 0x400000
		l.nonPaged = 0xFFFFFADF90000000 + phys.VirtAddr(r.below(0x4000)<<12)
		l.paged = 0xFFFFFA8000000000
		l.ptes = 0xFFFFFADF60000000 + phys.VirtAddr(r.below(0x4000)<<12)
		l.pfn = 0xFFFFFAC000000000
		l.session = 0xFFFFF90000000000
		l.cache = 0xFFFFF98000000000
		l.hal = fixedHAL
		return l
	}
	free := make([]int, 0, 256)
	top := b.levels()
	for s := 0x100; s < 0x1FF; s++ {
		// KUSER_SHARED_DATA, the kernel and the HAL have slots of their own.
		if s != int(tableIndex(kuserKernel, top)) && s != int(tableIndex(l.kernel, top)) {
			free = append(free, s)
		}
	}
	r.shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	region := func(i int) phys.VirtAddr {
		at := b.slotAddr(free[i]) + phys.VirtAddr(r.below(1<<17)<<21)
		if b.Config.LA57 {
			at += phys.VirtAddr(r.below(512) << tableShift(4))
		}
		return at
	}
	l.selfMap = free[0]
	l.nonPaged, l.paged, l.ptes = region(1), region(2), region(3)
	l.pfn = b.slotAddr(free[4])
	l.session, l.cache = region(5), region(6)
	if b.Config.LA57 {
		// A prototype PTE's address has 48 bits in the entry that names it
		// (MMPTE_PROTOTYPE), so that they are where 4 levels reach.
		l.paged = phys.VirtAddr(0xffff<<48|r.between(0x110, 0x1E0)<<39) + phys.VirtAddr(r.below(1<<17)<<21)
	}
	l.hal = kuserKernel + phys.VirtAddr(r.between(1, 200)<<30)
	return l
}

// region hands out consecutive addresses of one part of the system space.
type region struct {
	root    phys.Addr
	next    phys.VirtAddr
	page    phys.VirtAddr // where small blocks are cut from
	left    uint64
	r       *rng
	padding uint64 // up to so many unmapped pages between allocations
}

// pages maps n fresh pages and returns their address.
func (g *region) pages(im *Image, n uint64) (phys.VirtAddr, error) {
	va := g.next
	g.next += phys.VirtAddr((n + g.r.below(g.padding+1)) << phys.PageShift)
	return va, im.mapFresh(g.root, va, n, kernelData)
}

// poolHeader is the size of POOL_HEADER before each pool block.
const poolHeader = 16

// block returns size bytes of pool with a header and a tag before them,
// aligned to 16. It may straddle pages, as blocks within a larger run do.
func (b *builder) block(g *region, tag string, size uint64) phys.VirtAddr {
	need := (size + poolHeader + 15) &^ 15
	if g.left < need {
		n := (need+phys.PageSize-1)/phys.PageSize + 3
		g.page = must(g.pages(b.Image, n))
		g.left = n << phys.PageShift
	}
	va := g.page
	gap := g.r.below(4) * 16
	if gap+need > g.left {
		gap = 0
	}
	va += phys.VirtAddr(gap)
	g.page, g.left = va+phys.VirtAddr(need), g.left-gap-need
	var h [poolHeader]byte
	h[2], h[3] = byte(need/16), 2
	copy(h[4:8], tag)
	b.put(va, h[:])
	return va + poolHeader
}

// makeSystemSpace makes the System process's top-level table and the regions.
func (b *builder) makeSystemSpace() {
	root := b.placeRoot()
	b.Truth.DirectoryTableBase = root
	b.Truth.SelfMapSlot = b.lay.selfMap
	b.machine().setSelfMap(b, root)
	s := b.Config.Seed
	b.pool = region{root: root, next: b.lay.nonPaged, r: stream(s, 'n'), padding: 2}
	b.paged = region{root: root, next: b.lay.paged, r: stream(s, 'p'), padding: 8}
	b.ptes = region{root: root, next: b.lay.ptes, r: stream(s, 's'), padding: 4}
	b.loader = region{root: root, next: b.lay.loader, r: stream(s, 'b')}
}

// placeRoot takes a page for the System process's table. Boot-time tables come from
// low memory: 0x1AD000 in the triage dump and the like, which is why tools look below
// 16 MiB first. Processors are started by it, in 32-bit mode, so that it is below
// 4 GiB.
func (b *builder) placeRoot() phys.Addr {
	page := b.placeRootPage()
	if b.tables.row {
		return b.placeRow(page.PFN(), stream(b.Config.Seed, 'w'))
	}
	return page
}

func (b *builder) placeRootPage() phys.Addr {
	if above := phys.Addr(b.Config.TablesAbove).PFN(); above > 0 {
		return must(b.alloc.pageBetween(above, fourGiB)).Addr()
	}
	low := phys.PFN(16 * mib >> phys.PageShift)
	if b.Config.DummySelfMap {
		return must(b.alloc.pageBetween(low/2, low)).Addr()
	}
	return must(b.alloc.pageBelow(low)).Addr()
}

// placeDummy makes a page below the System process's table that maps itself and, for
// the images of the kernel and the drivers, what that does, and nothing else.
func (b *builder) placeDummy() {
	if !b.Config.DummySelfMap {
		return
	}
	page := must(b.alloc.pageBelow(8 * mib >> phys.PageShift))
	kernel := tableIndex(b.lay.kernel, b.levels())
	if !b.Config.LA57 { // with 5 levels the same entry maps KUSER_SHARED_DATA
		b.setEntry(page, kernel, b.entry(b.Truth.DirectoryTableBase.PFN(), kernel))
	}
	b.setEntry(page, uint64(b.lay.selfMap), uint64(page.Addr())|kernelTable)
}

func (b *builder) setSelfMap(root phys.Addr) {
	e := uint64(root) | kernelTable
	if !b.p.fixedLayout {
		e |= pteNX
	}
	b.setEntry(root.PFN(), uint64(b.lay.selfMap), e)
}

// shareKernelHalves gives each process the system's upper half, but a self-map
// of its own.
func (b *builder) shareKernelHalves() {
	for _, p := range b.procs {
		if p.dtb != b.Truth.DirectoryTableBase {
			b.machine().shareKernelHalf(b, p)
		}
	}
}

func (b *builder) shareKernelHalf(p *process) {
	system := b.Truth.DirectoryTableBase
	for i := uint64(256); i < 512; i++ {
		b.setEntry(p.dtb.PFN(), i, b.entry(system.PFN(), i))
	}
	b.setSelfMap(p.dtb)
}
