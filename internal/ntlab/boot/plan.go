package boot

import (
	"fmt"
	"slices"

	"snap/phys"
)

// What SeaBIOS uses while it runs, generously: the first MiB, and the top of
// the RAM below 4 GiB, where it keeps up to 16 MiB for tables and puts its own
// relocated code below (SeaBIOS src/malloc.c).
const (
	firmwareLow phys.PFN = 0x100
	firmwareTop          = 24 << 20 / phys.PageSize
	fourGiB     phys.PFN = 0x100000
)

// segment is a run of pages as loaded; nil stands for a page of zeros.
type segment struct {
	base  phys.PFN
	pages [][]byte
}

// plan is what is loaded where.
type plan struct {
	ram      phys.Runs
	owned    map[phys.PFN][]byte // pages to be loaded
	free     []phys.Run          // unused memory that survives the firmware, not yet placed
	low      phys.Run            // the RAM below 4 GiB that the firmware puts its tables at the end of
	residue  phys.Runs
	fills    []Fill
	entry    phys.Addr
	segments []segment
}

// buildPlan places the boot code and its tables, and the image's pages.
func buildPlan(im Image, records []byte, waits [][4]uint64, o Options) (*plan, error) {
	p := &plan{ram: im.RAM(), owned: map[phys.PFN][]byte{}}
	for _, r := range p.ram {
		if r.Base < fourGiB {
			p.low = r
		}
	}
	var used []phys.PFN
	for pfn, b := range im.Pages() {
		used = append(used, pfn)
		p.owned[pfn] = b[:]
	}
	unused := p.ram.Intersect(im.Free())
	p.free = unused.Minus(p.firmware())
	code, err := p.place(stubCode)
	if err != nil {
		return nil, err
	}
	p.entry = code.Addr()
	stub := p.owned[code]
	le.PutUint32(stub[stubBase:], uint32(p.entry))
	le.PutUint32(stub[stubCPUs:], uint32(len(records)/recordSize))
	cr4 := uint32(cr4Needed)
	if tablesOf(im, 0).la57 {
		cr4 |= phys.CR4LA57
	}
	le.PutUint32(stub[stubCR4:], cr4)
	if len(o.Note) > 0 {
		at, err := p.place(o.Note)
		if err != nil {
			return nil, err
		}
		le.PutUint32(stub[stubNote:], uint32(len(o.Note)))
		le.PutUint64(stub[stubNote+4:], uint64(at.Addr()))
	}
	for _, part := range []struct {
		pointer int // in the stub
		place   func() (phys.PFN, error)
	}{
		{stubRecords, func() (phys.PFN, error) { return p.place(records) }},
		{stubTables, func() (phys.PFN, error) { return p.placePageTables(tablesOf(im, o.DirectoryTableBase)) }},
		{stubWaits, func() (phys.PFN, error) { return p.placeTable(waits) }},
		{stubCopies, func() (phys.PFN, error) { return p.stage(used) }},
		{stubFills, func() (phys.PFN, error) { return p.placeFills(unused, o) }}, // takes what the others left
	} {
		at, err := part.place()
		if err != nil {
			return nil, err
		}
		le.PutUint64(stub[part.pointer:], uint64(at.Addr()))
	}
	p.segments = p.load()
	return p, nil
}

// firmware returns the pages that don't hold what is loaded there.
func (p *plan) firmware() phys.Runs {
	top := min(firmwareTop, p.low.Pages)
	return phys.Runs{{Base: 0, Pages: uint64(firmwareLow)}}.
		Union(phys.Runs{{Base: p.low.End() - phys.PFN(top), Pages: top}})
}

// place finds unused pages in a row below 4 GiB for b, which is copied.
func (p *plan) place(b []byte) (phys.PFN, error) {
	n := (uint64(len(b)) + phys.PageSize - 1) / phys.PageSize
	for i := range p.free {
		r := &p.free[i]
		if r.Pages < n || r.Base+phys.PFN(n) > fourGiB {
			continue
		}
		base := r.Base
		r.Base += phys.PFN(n)
		r.Pages -= n
		whole := make([]byte, n*phys.PageSize)
		copy(whole, b)
		for k := range n {
			p.owned[base+phys.PFN(k)] = whole[k*phys.PageSize : (k+1)*phys.PageSize]
		}
		p.residue = p.residue.Union(phys.Runs{{Base: base, Pages: n}})
		return base, nil
	}
	return 0, fmt.Errorf("%d pages in a row: %w", n, errNoRoom)
}

// placePageTables builds the tables that the boot code runs on: memory at its
// own address in 2 MiB pages in slot 0, and the kernel half of the image's.
func (p *plan) placePageTables(t tables) (phys.PFN, error) {
	const gib = 1 << 30
	count := max(4, (uint64(p.ram.End().Addr())+gib-1)/gib)
	if count > 512 {
		return 0, fmt.Errorf("map %d GiB for booting: at most 512", count)
	}
	top, pdpt := make([]byte, phys.PageSize), make([]byte, phys.PageSize)
	if err := t.readPhys(top[2048:], t.root+2048); err != nil {
		return 0, err
	}
	for g := range count {
		pd := make([]byte, phys.PageSize)
		for i := range uint64(512) {
			at := g*gib + i<<21
			flags := uint64(ptePresent | pteWritable | pteLarge)
			if at >= 3*gib && at < 4*gib && !p.ram.Has(phys.Addr(at).PFN()) {
				flags |= pteNoCache // devices: the local APIC among them
			}
			le.PutUint64(pd[i*8:], at|flags)
		}
		at, err := p.place(pd)
		if err != nil {
			return 0, err
		}
		le.PutUint64(pdpt[g*8:], uint64(at.Addr())|ptePresent|pteWritable)
	}
	at, err := p.place(pdpt)
	if err == nil && t.la57 {
		pml4 := le.AppendUint64(nil, uint64(at.Addr())|ptePresent|pteWritable)
		at, err = p.place(append(pml4, make([]byte, phys.PageSize-len(pml4))...))
	}
	if err != nil {
		return 0, err
	}
	le.PutUint64(top, uint64(at.Addr())|ptePresent|pteWritable)
	return p.place(top)
}

// stage moves the image's pages that the firmware would overwrite to unused
// memory, and places the table that brings them back.
func (p *plan) stage(used []phys.PFN) (phys.PFN, error) {
	var copies [][4]uint64
	firmware := p.firmware()
	for _, pfn := range used {
		if !firmware.Has(pfn) {
			continue
		}
		at, err := p.place(p.owned[pfn])
		if err != nil {
			return 0, err
		}
		delete(p.owned, pfn)
		copies = append(copies, [4]uint64{uint64(pfn.Addr()), 1, uint64(at.Addr())})
	}
	return p.placeTable(copies)
}

// placeTable places a table of the stub and returns its first page, 0 if it
// is empty.
func (p *plan) placeTable(entries [][4]uint64) (phys.PFN, error) {
	var next phys.PFN
	for len(entries) > 0 {
		n := (len(entries) - 1) / tablePer * tablePer // the last page first: each points at the next
		b := make([]byte, phys.PageSize)
		le.PutUint64(b[tableNext:], uint64(next.Addr()))
		le.PutUint64(b[tableCount:], uint64(len(entries)-n))
		for i, e := range entries[n:] {
			for k, v := range e {
				le.PutUint64(b[tableFirst+i*tableEntry+k*8:], v)
			}
		}
		at, err := p.place(b)
		if err != nil {
			return 0, err
		}
		next, entries = at, entries[:n]
	}
	return next, nil
}

// placeFills chooses the pages to fill and places the table of them. The
// table's own pages are chosen first, and so are never filled.
func (p *plan) placeFills(unused phys.Runs, o Options) (phys.PFN, error) {
	if o.FillPages == 0 {
		return 0, nil
	}
	unused = unused.Minus(phys.Runs{{Base: 0, Pages: uint64(firmwareLow)}})
	// Reserve as many pages as the longest table can take, then fill it in:
	// each page of the table may cut one run in two.
	longest := len(planFills(unused.Minus(p.residue), o))
	longest += longest/tablePer + 2
	first, err := p.placeTable(make([][4]uint64, longest))
	if err != nil {
		return 0, err
	}
	p.fills = planFills(unused.Minus(p.residue), o)
	left := p.fills
	for at := first; at != 0; {
		b := p.owned[at]
		n := min(len(left), int(le.Uint64(b[tableCount:])))
		le.PutUint64(b[tableCount:], uint64(n))
		for i, f := range left[:n] {
			for k, v := range f.entry() {
				le.PutUint64(b[tableFirst+i*tableEntry+k*8:], v)
			}
		}
		left = left[n:]
		at = phys.Addr(le.Uint64(b[tableNext:])).PFN()
	}
	p.fills = p.fills[:len(p.fills)-len(left)]
	return first, nil
}

// load returns the segments to load. Small gaps between them are loaded as
// zeros, which is what they hold, to keep their number far below the 65,535
// that an ELF header can count.
func (p *plan) load() []segment {
	const gap = 8
	pfns := make([]phys.PFN, 0, len(p.owned))
	for pfn := range p.owned {
		pfns = append(pfns, pfn)
	}
	slices.Sort(pfns)
	var out []segment
	for _, pfn := range pfns {
		n := len(out)
		if n > 0 {
			s := &out[n-1]
			end := s.base + phys.PFN(len(s.pages))
			if hole := pfn - end; hole <= gap && p.ram.Covers(end.Addr(), uint64(hole)<<phys.PageShift) {
				s.pages = append(append(s.pages, make([][]byte, hole)...), p.owned[pfn])
				continue
			}
		}
		out = append(out, segment{pfn, [][]byte{p.owned[pfn]}})
	}
	return out
}
