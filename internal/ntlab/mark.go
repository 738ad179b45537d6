package ntlab

import (
	"errors"
	"fmt"
	"slices"

	"snap/phys"
)

// MarkKind says where marked pages are.
type MarkKind string

// Kinds of marked pages.
const (
	MarkSmall      MarkKind = "4 KiB pages"       // nonpaged memory, scattered physically
	MarkLarge      MarkKind = "2 MiB page"        // part of one
	MarkHuge       MarkKind = "1 GiB page"        // part of one; only images of 4 GiB and more have it
	MarkRunEnds    MarkKind = "ends of runs"      // where MmPhysicalMemoryBlock's runs begin and end; nothing maps them
	MarkShared     MarkKind = "shared pages"      // two processes and the kernel map them
	MarkTransition MarkKind = "transition"        // out of the working set, still in RAM
	MarkHidden     MarkKind = "hidden transition" // the same, with frame numbers hidden from L1TF
	MarkPartly     MarkKind = "partly in RAM"     // mapped, in transition, in the page file, demand-zero by turns
	MarkPrototype  MarkKind = "prototype"         // by prototype PTEs of each form by turns, in RAM or not
	// MarkLost is memory that no reader of page tables can find, though their entries
	// say that it may be in RAM, in each way by turns. PFNs are what nobody finds.
	MarkLost MarkKind = "lost"
)

// MarkKinds are all kinds that a reader of page tables can find.
func MarkKinds() []MarkKind {
	return []MarkKind{
		MarkSmall, MarkLarge, MarkHuge, MarkRunEnds, MarkShared, MarkTransition, MarkHidden, MarkPartly, MarkPrototype,
	}
}

// Marked is a range of memory all of which holds a marker.
type Marked struct {
	Kind MarkKind
	// VA is the range's first address in the system space, 0 if nothing maps it.
	VA phys.VirtAddr
	// Pages is the length of the range, pages that are not in RAM included.
	Pages uint64
	// PFNs are the pages in RAM, in the range's order.
	PFNs []phys.PFN
	// Views are the other mappings of all the pages.
	Views []View
	// Marker is found all over each of the pages, at odd and even offsets,
	// and nowhere else: no 8 bytes of it are in another page but by chance.
	Marker []byte
}

// View is a process's mapping of memory.
type View struct {
	DirectoryTableBase phys.Addr
	VA                 phys.VirtAddr
}

// Request returns the entry that asks for the range: by virtual address if
// the range has one, else by physical.
func (m Marked) Request() RemovePages {
	if m.VA != 0 {
		return RemovePages{Flags: RemoveVirtual, Address: uint64(m.VA), Count: m.Pages}
	}
	return RemovePages{Flags: RemovePhysical, Address: uint64(m.PFNs[0].Addr()), Count: m.Pages}
}

// markerSize is odd, so that a marker that is repeated begins at odd and at
// even addresses.
const markerSize = 67

// Mark puts ranges of n pages of the kind into the image, each with a marker
// of its own. It is one range, but MarkRunEnds gives several, none longer than
// n. Truth.Marks gets them too.
func (im *Image) Mark(n int, kind MarkKind) ([]Marked, error) {
	if n < 1 || n > 1<<16 {
		return nil, fmt.Errorf("mark %d pages: not between 1 and 65536", n)
	}
	var out []Marked
	err := im.extend(func(b *builder) {
		switch kind {
		case MarkSmall:
			out = b.markMapped(must(b.AllocPages(n)), n)
		case MarkLarge:
			out = b.markLarge(MappingLarge, largePages, n)
		case MarkHuge:
			out = b.markLarge(MappingHuge, hugePages, n)
		case MarkRunEnds:
			out = b.markRunEnds(n)
		case MarkShared:
			out = b.markShared(n)
		case MarkTransition:
			out = b.markTransition(n, (*builder).transition)
		case MarkHidden:
			out = b.markTransition(n, (*builder).hide)
		case MarkPartly:
			out = b.markPartly(n)
		case MarkPrototype:
			out = b.markPrototype(n)
		case MarkLost:
			out = b.markLost(n)
		default:
			check(errors.New("no such kind"))
		}
		if len(out) == 0 {
			check(errors.New("the image has no room of that kind"))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("mark %d pages (%s): %w", n, kind, err)
	}
	for i := range out {
		out[i].Kind = kind
		im.brand(&out[i])
	}
	im.Truth.Marks = append(im.Truth.Marks, out...)
	return out, nil
}

// brand makes a marker and fills the pages with it.
func (im *Image) brand(m *Marked) {
	m.Marker = make([]byte, markerSize)
	stream(im.Config.Seed, mix64(uint64(m.PFNs[0]))+'k').fill(m.Marker)
	for _, p := range m.PFNs {
		pg := im.mem.page(p)
		for i := range pg {
			pg[i] = m.Marker[(i+int(p))%markerSize]
		}
	}
}

// markMapped marks n pages that are mapped at va.
func (b *builder) markMapped(va phys.VirtAddr, n int) []Marked {
	m := Marked{VA: va, Pages: uint64(n)}
	for i := range phys.VirtAddr(n) {
		at, ok := b.Translate(va + i<<phys.PageShift)
		if !ok {
			panic("ntlab: internal error: a marked page is not mapped")
		}
		m.PFNs = append(m.PFNs, at.PFN())
	}
	return []Marked{m}
}

// markLarge marks n pages in a row of a large page that hold nothing yet.
func (b *builder) markLarge(kind MappingKind, size uint64, n int) []Marked {
	for _, m := range slices.Backward(b.Truth.Mappings) { // the first is the PFN database
		if m.Kind != kind {
			continue
		}
		free := 0
		// Not from the large page's first page on: the range's ends are inside.
		for i := uint64(1); i < size-1; i++ {
			if b.mem.peek(m.PFN+phys.PFN(i)) != nil {
				free = 0
				continue
			}
			if free++; free == n {
				first := i + 1 - uint64(n)
				return b.markMapped(m.VA+phys.VirtAddr(first<<phys.PageShift), n)
			}
		}
	}
	return nil
}

// markRunEnds marks free pages at the ends of Windows' runs, up to n at each,
// and the page beyond the run where that is RAM: the request spans the end.
func (b *builder) markRunEnds(n int) []Marked {
	var out []Marked
	add := func(pages []phys.PFN) {
		if len(pages) > 0 {
			out = append(out, Marked{PFNs: pages, Pages: uint64(len(pages))})
		}
	}
	for _, r := range b.Truth.Runs {
		var first, last []phys.PFN
		for p := r.Base; p < r.End() && len(first) < n && b.unused(p); p++ {
			first = append(first, p)
		}
		inside := n
		if b.ram.Has(r.End()) && b.unused(r.End()) && n > 1 {
			last = append(last, r.End())
			inside--
		}
		for p := r.End() - 1; p > r.Base && inside > 0 && b.unused(p) && !slices.Contains(first, p); p-- {
			last = append(last, p)
			inside--
		}
		slices.Sort(last)
		for _, p := range slices.Concat(first, last) {
			b.alloc.claim(p)
		}
		add(first)
		add(last)
	}
	return out
}

// unused reports whether nothing is at p.
func (b *builder) unused(p phys.PFN) bool {
	return !b.alloc.isUsed(p) && b.mem.peek(p) == nil && b.mem.fillOf(p) == nil
}

// Where marked pages appear in processes: between the program of an old
// kernel's process and the shared data that all have.
const sharedView phys.VirtAddr = 0x3000_0000

// markShared marks pages of the kernel's that the last two processes map too,
// each elsewhere.
func (b *builder) markShared(n int) []Marked {
	out := b.markMapped(must(b.AllocPages(n)), n)
	for i, p := range b.Truth.Processes[len(b.Truth.Processes)-2:] {
		va := sharedView + phys.VirtAddr(i)<<28
		for b.mapped(p.DirectoryTableBase, va, n) {
			va += 2 * mib
		}
		for k, pfn := range out[0].PFNs {
			check(b.MapPage(p.DirectoryTableBase, va+phys.VirtAddr(k)<<phys.PageShift, pfn, 1, userData))
		}
		out[0].Views = append(out[0].Views, View{p.DirectoryTableBase, va})
	}
	return out
}

func (b *builder) mapped(dtb phys.Addr, va phys.VirtAddr, n int) bool {
	for i := range phys.VirtAddr(n) {
		if _, ok := b.TranslateIn(dtb, va+i<<phys.PageShift); ok {
			return true
		}
	}
	return false
}

// markTransition marks paged pool that trim takes out of the working set.
func (b *builder) markTransition(n int, trim func(*builder, phys.VirtAddr, *rng)) []Marked {
	va := must(b.paged.pages(b.Image, uint64(n)))
	out := b.markMapped(va, n)
	r := stream(b.Config.Seed, 'w')
	for i := range phys.VirtAddr(n) {
		trim(b, va+i<<phys.PageShift, r)
	}
	return out
}

// markPrototype marks pages that prototype PTEs lead to. A form by which the page
// is nowhere has none.
func (b *builder) markPrototype(n int) []Marked {
	m := Marked{VA: must(b.paged.pages(b.Image, uint64(n))), Pages: uint64(n)}
	r := stream(b.Config.Seed, 'v')
	for i := range n {
		va, f := m.VA+phys.VirtAddr(i)<<phys.PageShift, &protoForms[i%len(protoForms)]
		p := must(b.alloc.page())
		b.prototype(va, f.entry(b, p, r))
		b.note(f.kind, va, p)
		if f.resident {
			m.PFNs = append(m.PFNs, p)
		}
	}
	return []Marked{m}
}

// markLost marks pages that nobody finds.
func (b *builder) markLost(n int) []Marked {
	m := Marked{VA: must(b.paged.pages(b.Image, uint64(n))), Pages: uint64(n)}
	r := stream(b.Config.Seed, 'x')
	for i := range n {
		va := m.VA + phys.VirtAddr(i)<<phys.PageShift
		p := must(b.alloc.page())
		lostForms[i%len(lostForms)](b, va, p, r)
		b.note(MappingLost, va, p)
		m.PFNs = append(m.PFNs, p)
	}
	return []Marked{m}
}

// markPartly marks paged pool of which one page in four is in a page file, one
// was never touched, and one is in transition.
func (b *builder) markPartly(n int) []Marked {
	va := must(b.paged.pages(b.Image, uint64(n)))
	m := Marked{VA: va, Pages: uint64(n)}
	r := stream(b.Config.Seed, 'y')
	for i := range phys.VirtAddr(n) {
		page := va + i<<phys.PageShift
		at, _ := b.Translate(page)
		switch i % 4 {
		case 0:
			m.PFNs = append(m.PFNs, at.PFN())
		case 1:
			b.setPTE(page, pagefilePTE(r))
			b.note(MappingPagefile, page, 0)
		case 2:
			m.PFNs = append(m.PFNs, at.PFN())
			b.transition(page, r)
		case 3:
			b.setPTE(page, demandZero)
			b.note(MappingDemandZero, page, 0)
		}
	}
	return []Marked{m}
}
