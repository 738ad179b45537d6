package ntlab

import (
	"math/bits"

	"snap/phys"
)

// Bits of entries that aren't present, in kernels that have a defence against
// L1TF (MMPTE_TRANSITION, MMPTE_SOFTWARE and MMPTE_PROTOTYPE in public symbols).
const (
	pteSwizzle = 1 << 4 // the frame number is what it says

	// protoVAD is what is in place of a prototype PTE's address where Windows has
	// to ask the VAD (MI_PTE_LOOKUP_NEEDED).
	protoVAD = 0xFFFFFFFF << 32
)

// hiddenBits returns what a kernel sets in frame numbers against L1TF: the highest
// bit of a physical address, of processors that have 39, 46 or 52 bits of it. It
// is above all RAM.
func (b *builder) hiddenBits() uint64 {
	if b.machine().word == 4 {
		return 1 << 37 // the highest of a frame number of 26 bits
	}
	choices := []uint64{1 << 45, 1 << 38, 1 << 51}
	mask := choices[b.Config.Seed%uint64(len(choices))]
	if bits.Len64(uint64(b.ram.End().Addr())) > bits.TrailingZeros64(mask) {
		mask = 1 << 51
	}
	return mask
}

// transitionPTE returns the entry of a page that left a working set, with its
// frame number as it is.
func (b *builder) transitionPTE(p phys.PFN, r *rng) uint64 {
	e := uint64(p.Addr()) | pteTransition | r.between(1, 7)<<5 // protection
	if b.p.swizzle {
		e |= pteSwizzle
	}
	return e
}

// hiddenPTE is transitionPTE with the frame number hidden, where this kernel does
// that.
func (b *builder) hiddenPTE(p phys.PFN, r *rng) uint64 {
	e := b.transitionPTE(p, r)
	if b.p.swizzle {
		e = e&^pteSwizzle | b.hiddenBits()
	}
	return e
}

// pagefilePTE returns the entry of a page in a page file.
func pagefilePTE(r *rng) uint64 { return r.below(1<<20)<<32 | 1<<33 | demandZero }

// demandZero is the entry of a page that nobody wrote to yet.
const demandZero = 0x80

// prototype points va's entry at a prototype PTE in paged pool.
func (b *builder) prototype(va phys.VirtAddr, entry uint64) phys.VirtAddr {
	proto := b.block(&b.paged, "MmSt", 8)
	b.put64(proto, entry)
	b.setPTE(va, uint64(proto)<<16|ptePrototype)
	return proto
}

// protoForms are the forms of a prototype PTE that says where its page is, or that
// it is nowhere.
var protoForms = []struct {
	kind     MappingKind
	resident bool
	entry    func(b *builder, p phys.PFN, r *rng) uint64
}{
	{MappingPrototype, true, func(_ *builder, p phys.PFN, _ *rng) uint64 { return uint64(p.Addr()) | kernelData }},
	{MappingProtoTransition, true, (*builder).transitionPTE},
	{MappingProtoHidden, true, (*builder).hiddenPTE},
	{MappingProtoGone, false, func(_ *builder, _ phys.PFN, r *rng) uint64 { return pagefilePTE(r) }},
	{MappingProtoGone, false, func(*builder, phys.PFN, *rng) uint64 { return demandZero }},
}

// lostForms are the ways in which an entry says that a page may be in RAM, but not
// where.
var lostForms = []func(b *builder, va phys.VirtAddr, p phys.PFN, r *rng){
	func(b *builder, va phys.VirtAddr, _ phys.PFN, _ *rng) { b.setPTE(va, protoVAD|ptePrototype|1<<5) },
	func(b *builder, va phys.VirtAddr, p phys.PFN, r *rng) { // one that names another
		b.prototype(va, uint64(b.prototype(va, b.transitionPTE(p, r)))<<16|ptePrototype)
	},
	func(b *builder, va phys.VirtAddr, _ phys.PFN, _ *rng) { // nothing is there
		b.setPTE(va, uint64(b.lay.paged-phys.PageSize)<<16|ptePrototype)
	},
	func(b *builder, va phys.VirtAddr, _ phys.PFN, _ *rng) { // no RAM is there
		b.prototype(va, uint64(vgaHole.Addr())|kernelData)
	},
	func(b *builder, va phys.VirtAddr, _ phys.PFN, _ *rng) { // nor there
		b.setPTE(va, uint64(vgaHole.Addr())|1<<51|pteTransition|1<<5)
	},
	func(b *builder, va phys.VirtAddr, p phys.PFN, _ *rng) { // the user's half
		b.setPTE(va, uint64(kuserUser)<<16|ptePrototype)
	},
}
