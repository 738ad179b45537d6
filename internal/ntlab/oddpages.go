package ntlab

import (
	"snap/phys"
)

// MappingKind is how a page of Truth.Mappings is mapped.
type MappingKind string

// Kinds of mapping.
const (
	MappingTransition MappingKind = "transition" // not present, but still in RAM at PFN
	MappingHidden     MappingKind = "transition, hidden from L1TF"
	MappingPrototype  MappingKind = "prototype" // not present; the prototype entry says that it is at PFN
	// The same, by an entry that is in transition itself, so that it is hidden, or
	// that has no page.
	MappingProtoTransition MappingKind = "prototype in transition"
	MappingProtoHidden     MappingKind = "prototype in transition, hidden from L1TF"
	MappingProtoGone       MappingKind = "prototype of nothing in RAM"
	MappingLost            MappingKind = "lost"     // not present; where it is, nobody can tell
	MappingPagefile        MappingKind = "pagefile" // not present, in a page file
	MappingDemandZero      MappingKind = "demand-zero"
	MappingLarge           MappingKind = "2 MiB"
	MappingHuge            MappingKind = "1 GiB"
)

// Mapping is a page that is mapped in another way than most.
type Mapping struct {
	Kind MappingKind
	VA   phys.VirtAddr
	PFN  phys.PFN // first page, where the kind has one
}

// minHuge is from what size of RAM on a 1 GiB page is spent.
const minHuge = 4 * gib

// placeOddPages makes one or more mappings of each kind, and what else the
// system space holds: the HAL's heap, the start of the PFN database.
func (b *builder) placeOddPages() {
	r := stream(b.Config.Seed, 'o')
	dtb := b.Truth.DirectoryTableBase
	check(b.mapFresh(dtb, b.lay.hal, 2, kernelData))
	b.large(b.lay.pfn)
	b.large(b.lay.cache)
	if b.huge != 0 {
		va := b.lay.session&^(gib-1) + gib
		check(b.MapPage(dtb, va, b.huge, 3, kernelData))
		b.note(MappingHuge, va, b.huge)
	}
	content := make([]byte, phys.PageSize)
	present := must(b.paged.pages(b.Image, 8))
	for i := range phys.VirtAddr(8) {
		r.fill(content)
		b.put(present+i<<phys.PageShift, content)
	}
	for i := range phys.VirtAddr(4) {
		b.transition(present+i<<phys.PageShift, r)
	}
	for i := range phys.VirtAddr(2) {
		b.hide(present+(4+i)<<phys.PageShift, r)
	}
	b.machine().placeOddEntries(b, r)
}

// placeOddEntries maps pages by all forms of entries that aren't present.
func (b *builder) placeOddEntries(r *rng) {
	content := make([]byte, phys.PageSize)
	fresh := func() phys.PFN {
		p := must(b.alloc.page())
		r.fill(content)
		copy(b.mem.page(p)[:], content)
		return p
	}
	odd := must(b.paged.pages(b.Image, uint64(2+len(protoForms)+len(lostForms))))
	for _, f := range protoForms {
		p := fresh()
		b.prototype(odd, f.entry(b, p, r))
		b.note(f.kind, odd, p)
		odd += phys.PageSize
	}
	for _, lose := range lostForms {
		p := fresh()
		lose(b, odd, p, r)
		b.note(MappingLost, odd, p)
		odd += phys.PageSize
	}
	b.setPTE(odd, pagefilePTE(r))
	b.note(MappingPagefile, odd, 0)
	b.setPTE(odd+0x1000, demandZero)
	b.note(MappingDemandZero, odd+0x1000, 0)
}

func (b *builder) large(va phys.VirtAddr) {
	va = va &^ phys.VirtAddr(b.largeBlock()<<phys.PageShift-1)
	pfn := b.block2M()
	check(b.MapPage(b.Truth.DirectoryTableBase, va, pfn, 2, kernelData))
	b.put64(va+0x1008, uint64(va)) // so that it isn't all zeros
	b.note(MappingLarge, va, pfn)
}

func (b *builder) note(kind MappingKind, va phys.VirtAddr, pfn phys.PFN) {
	b.Truth.Mappings = append(b.Truth.Mappings, Mapping{kind, va, pfn})
}

// transition takes a mapped page out of the working set: the entry is no
// longer valid, but the page still holds what it held (MMPTE_TRANSITION).
func (b *builder) transition(va phys.VirtAddr, r *rng) {
	at, ok := b.Translate(va)
	if !ok {
		panic("ntlab: internal error: transition page is not mapped")
	}
	b.setPTE(va, b.transitionPTE(at.PFN(), r))
	b.note(MappingTransition, va, at.PFN())
}

// hide is transition with the frame number hidden from L1TF, where this kernel
// does that.
func (b *builder) hide(va phys.VirtAddr, r *rng) {
	at, ok := b.Translate(va)
	if !ok {
		panic("ntlab: internal error: transition page is not mapped")
	}
	b.setPTE(va, b.hiddenPTE(at.PFN(), r))
	b.note(MappingHidden, va, at.PFN())
}

func (b *builder) setPTE(va phys.VirtAddr, e uint64) {
	at, ok := b.EntryAddr(va, 1)
	if !ok {
		panic("ntlab: internal error: no page table")
	}
	b.set(at&^(phys.PageSize-1), at.Offset()/uint64(b.tables.entry), e)
}

// Offsets in PROCESSOR_START_BLOCK (x64), the real-mode code that starts the
// other processors. Sources: MemProcFS vmm/vmmwininit.c, memflow-win32
// src/kernel/start_block/x64.rs.
const (
	stubTiledCR3 = 0x58
	stubLmTarget = 0x70
	stubSelfMap  = 0x78
	stubPAT      = 0x80
	stubEFER     = 0x88
	stubCR0      = 0x90
	stubCR3      = 0xA0
	stubCR4      = 0xA8
)

// placeLowStub leaves the start block in low memory, where this kernel does.
func (b *builder) placeLowStub() {
	if !b.p.lowStub || b.Config.NoLowStub {
		return
	}
	r := stream(b.Config.Seed, 'q')
	tiled := must(b.alloc.pageBelow(16 * mib >> phys.PageShift))
	kernel := tableIndex(b.lay.kernel, b.levels())
	b.setEntry(tiled, kernel, b.entry(b.Truth.DirectoryTableBase.PFN(), kernel))
	s := make([]byte, phys.PageSize)
	le.PutUint64(s, 0x1_0006_00E9|r.below(256)<<8)
	le.PutUint32(s[stubTiledCR3:], uint32(tiled.Addr()))
	le.PutUint64(s[stubLmTarget:], uint64(b.symbols["KiSystemStartup"]))
	page := phys.PFN(r.between(1, 0x20))
	le.PutUint64(s[stubSelfMap:], uint64(page.Addr()))
	le.PutUint64(s[stubPAT:], 0x0007010600070106)
	le.PutUint64(s[stubEFER:], 0xd01)
	le.PutUint64(s[stubCR0:], kernelCR0)
	le.PutUint64(s[stubCR3:], uint64(b.Truth.DirectoryTableBase))
	le.PutUint64(s[stubCR4:], b.p.processor.cr4|b.la57())
	check(b.WritePhys(page.Addr(), s))
	b.Truth.LowStub = page.Addr()
}
