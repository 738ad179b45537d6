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

// chooseLayout places the regions: at random PML4 slots where this kernel
// does so (Windows 10 1607 and later), else where they always are.
func (b *builder) chooseLayout() layout {
	r := stream(b.Config.Seed, 'l')
	var l layout
	if b.p.kernelBase != 0 {
		l.kernel = phys.VirtAddr(b.p.kernelBase)
	} else {
		// Room above for the image and below for the drivers.
		l.kernel = kernelRangeStart + phys.VirtAddr(r.between(4096, kernelRangeSlots-4096)<<21)
	}
	l.modules = phys.VirtAddr(b.p.moduleBase)
	if l.modules == 0 {
		l.modules = l.kernel - phys.VirtAddr(r.between(64, 1024)<<21)
	}
	l.loader = l.kernel - phys.VirtAddr(r.between(2048, 4000)<<21)
	if b.p.fixedLayout {
		l.selfMap = b.p.selfMapSlot
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
	for s := 0x100; s < 0x1FF; s++ {
		// KUSER_SHARED_DATA, the kernel and the HAL have slots of their own.
		if s != int(tableIndex(kuserKernel, 4)) && s != int(tableIndex(l.kernel, 4)) {
			free = append(free, s)
		}
	}
	r.shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	region := func(i int) phys.VirtAddr {
		return phys.VirtAddr(0xffff<<48|uint64(free[i])<<39) + phys.VirtAddr(r.below(1<<17)<<21)
	}
	l.selfMap = free[0]
	l.nonPaged, l.paged, l.ptes = region(1), region(2), region(3)
	l.pfn = phys.VirtAddr(0xffff<<48 | uint64(free[4])<<39)
	l.session, l.cache = region(5), region(6)
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
	// Boot-time tables come from low memory: 0x1AD000 in the triage dump and
	// the like, which is why tools look below 16 MiB first.
	root := must(b.alloc.pageBelow(16 * mib >> phys.PageShift)).Addr()
	b.Truth.DirectoryTableBase = root
	b.Truth.SelfMapSlot = b.lay.selfMap
	b.setSelfMap(root)
	s := b.Config.Seed
	b.pool = region{root: root, next: b.lay.nonPaged, r: stream(s, 'n'), padding: 2}
	b.paged = region{root: root, next: b.lay.paged, r: stream(s, 'p'), padding: 8}
	b.ptes = region{root: root, next: b.lay.ptes, r: stream(s, 's'), padding: 4}
	b.loader = region{root: root, next: b.lay.loader, r: stream(s, 'b')}
}

func (b *builder) setSelfMap(root phys.Addr) {
	e := uint64(root) | kernelTable
	if !b.p.fixedLayout {
		e |= pteNX
	}
	b.setEntry(root.PFN(), uint64(b.lay.selfMap), e)
}

// shareKernelHalf gives each process the system's upper half, but a self-map
// of its own.
func (b *builder) shareKernelHalf() {
	system := b.Truth.DirectoryTableBase
	for _, p := range b.procs {
		if p.dtb == system {
			continue
		}
		for i := uint64(256); i < 512; i++ {
			b.setEntry(p.dtb.PFN(), i, b.entry(system.PFN(), i))
		}
		b.setSelfMap(p.dtb)
	}
}
