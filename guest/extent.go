package guest

import (
	"context"

	"snap/phys"
)

// Extent says of the byte at va, and of those that follow it, whether they are in
// physical memory, and where.
//
// What is Resident is the rest of the page that va lies in, of whatever size, and
// the pages of the same size that follow it in both kinds of address within one
// table; a page behind a prototype PTE stands alone. What is Absent, or
// Unresolved, is all of which the entries of one table, from va's on, say the
// same, or what is left of the addresses that aren't canonical. va plus the size
// may be 2^64.
//
// Resident are pages that are present, in transition (also where their frame
// number is hidden from L1TF), or in RAM by the word of a prototype PTE. Absent
// are those in a page file, and those that hold nothing yet. Unresolved are those
// whose prototype PTE can't be found or read, or leads to another one, and those
// whose frame, or page table, is neither in RAM nor said not to be.
//
// The error is that of ctx, or a *TranslateError about a table that could not
// be read or is not in RAM, so that nothing is known of va. A call reads at
// most 11 tables, looks at 512 entries of the last, and follows one prototype PTE.
func (s *AddressSpace) Extent(ctx context.Context, va phys.VirtAddr) (phys.Extent, error) {
	if err := ctx.Err(); err != nil {
		return phys.Extent{}, err
	}
	p := s.paging
	if !p.canonical(va) {
		return phys.Extent{Size: uint64(p.kernelHalf() - va)}, nil
	}
	next := s.root
	for level := p.top; ; level-- {
		t, err := s.table(ctx, next, level)
		if err != nil {
			return phys.Extent{}, p.walkError(va, level, uint64(next), err)
		}
		size, i := p.maps(level), p.index(va, level)
		offset := uint64(va) & (size - 1)
		first := s.entries().lead(t.entries[i], level)
		if first.kind == leadsToTable {
			next = first.at
			continue
		}
		l, err := s.follow(ctx, t.entries[i], level)
		if err != nil {
			return phys.Extent{}, err
		}
		e := phys.Extent{Size: s.alike(t, level, i, first)*size - offset}
		switch l.kind {
		case leadsToPage:
			e.Residence, e.At = phys.Resident, l.at+phys.Addr(offset)
		case leadsUnknown:
			e.Residence = phys.Unresolved
		}
		return e, nil
	}
}

// alike returns how many entries of a table, from entry i on, which leads as
// first says, lead likewise: to pages that follow each other in guest-physical
// memory, or all nowhere, or all to what isn't known. Of those that name
// prototype PTEs it is one, so that a guest that has many gets none of them
// followed unasked.
func (s *AddressSpace) alike(t *table, level int, i uint64, first lead) uint64 {
	if first.kind == leadsToEntry {
		return 1
	}
	end := s.paging.entries(level)
	if half := s.paging.kernelEntry(); level == s.paging.top && i < half {
		end = half // what follows is the other half
	}
	f, size := s.entries(), s.paging.maps(level)
	n := uint64(1)
	for ; i+n < end; n++ {
		l := f.lead(t.entries[i+n], level)
		if l.kind != first.kind || l.kind == leadsToPage && l.at != first.at+phys.Addr(n*size) {
			break
		}
	}
	return n
}
