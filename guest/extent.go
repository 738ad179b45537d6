package guest

import (
	"context"

	"snap/phys"
)

// Extent says where the byte at va leads, and for how many bytes n from va on
// that is all there is to say.
//
// If mapped, the n bytes from va on are the n bytes of guest-physical memory
// from at on, which need not be RAM: what is left of the page that va lies in,
// of whatever size, and the pages of the same size that follow it in both kinds
// of address within one table. Pages in transition are mapped.
//
// If not, no byte of [va, va+n) is mapped: all that the entries of one table,
// from va's on, leave empty, or what is left of the addresses that aren't
// canonical. va+n may be 2^64.
//
// The error is that of ctx, or a *TranslateError about a table that could not
// be read or is not in RAM, so that nothing is known of va. A call reads at
// most 4 tables and looks at 512 entries of the last.
func (s *AddressSpace) Extent(ctx context.Context, va phys.VirtAddr) (at phys.Addr, n uint64, mapped bool, err error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, false, err
	}
	p := &s.arch.paging
	if !p.canonical(va) {
		return 0, uint64(s.arch.kernelHalf - va), false, nil
	}
	next := s.root
	for level := p.top; ; level-- {
		t, err := s.table(ctx, next)
		if err != nil {
			return 0, 0, false, p.walkError(va, level, uint64(next), err)
		}
		size, i := p.size(level), p.index(va, level)
		e, offset := t.entries[i], uint64(va)&(size-1)
		leaf, err := s.step(&Mapping{}, level, e)
		switch {
		case err != nil: // the entry leads nowhere, for whatever reason
			return 0, s.emptyEntries(t, level, i)*size - offset, false, nil
		case leaf:
			first := uint64(p.at(e)) &^ (size - 1)
			return phys.Addr(first + offset), s.followingPages(t, level, i)*size - offset, true, nil
		}
		next = p.at(e)
	}
}

// emptyEntries returns how many entries of a table, from entry i on, lead
// nowhere.
func (s *AddressSpace) emptyEntries(t *table, level int, i uint64) uint64 {
	end := uint64(tableEntries)
	if level == s.arch.paging.top && i < kernelEntry {
		end = kernelEntry // what follows is the other half
	}
	n := uint64(1)
	for i+n < end {
		if _, err := s.step(&Mapping{}, level, t.entries[i+n]); err == nil {
			break
		}
		n++
	}
	return n
}

// followingPages returns how many entries of a table, from entry i on, map
// pages that follow each other in guest-physical memory.
func (s *AddressSpace) followingPages(t *table, level int, i uint64) uint64 {
	p := &s.arch.paging
	size := p.size(level)
	first := uint64(p.at(t.entries[i])) &^ (size - 1)
	n := uint64(1)
	for i+n < tableEntries {
		e := t.entries[i+n]
		leaf, err := s.step(&Mapping{}, level, e)
		if err != nil || !leaf || uint64(p.at(e))&^(size-1) != first+n*size {
			break
		}
		n++
	}
	return n
}
