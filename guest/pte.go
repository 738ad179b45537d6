package guest

import (
	"context"
	"math/bits"

	"snap/phys"
)

// leadKind is what an entry of a page table says of the memory behind it.
type leadKind uint8

const (
	leadsNowhere leadKind = iota // nothing of it is in RAM
	leadsToPage                  // it is at the entry's address
	leadsToTable                 // the table at the entry's address says it
	leadsToEntry                 // the prototype PTE at a virtual address says it
	leadsUnknown                 // it may be in RAM: where, the entry doesn't say
)

// lead is what an entry says, and the address that goes with it.
type lead struct {
	kind       leadKind
	at         phys.Addr     // of the page or table
	entry      phys.VirtAddr // of the prototype PTE
	transition bool          // not present for the processor
	malformed  bool          // the processor would not take the entry
}

// entryFormat reads entries of an architecture's page tables, as Windows uses
// them, in a guest that has the given RAM.
type entryFormat struct {
	*Paging
	ram phys.Runs
}

// lead says where entry e of a table of the given level leads.
//
// Of an entry that is not present, Windows defines all other bits (MMPTE_* in the
// public ntkrnlmp symbols). Prototype has precedence: what otherwise is
// Transition then says that pages were combined. An entry that has neither is a
// page in a page file or one that was never written to, so that no RAM is behind
// it; of a table in a page file it isn't known what it would lead to.
func (f entryFormat) lead(e uint64, level int) lead {
	switch {
	case e&f.present != 0:
		return f.presentLead(e, level)
	case level >= f.kept:
		return lead{kind: leadsNowhere} // Windows never takes these tables out of use
	case e&f.prototype != 0 && level > 1:
		return lead{kind: leadsUnknown}
	case e&f.prototype != 0 && f.protoShift == 0:
		return lead{kind: leadsUnknown, transition: true}
	case e&f.prototype != 0:
		return lead{kind: leadsToEntry, entry: phys.VirtAddr(int64(e) >> (f.protoShift & 63)), transition: true}
	case e&f.transition != 0:
		return f.transitionLead(e, level)
	case level > 1 && e>>(f.pageFileShift&63) != 0:
		return lead{kind: leadsUnknown}
	}
	return lead{kind: leadsNowhere}
}

func (f entryFormat) presentLead(e uint64, level int) lead {
	switch {
	case level == 1:
		return lead{kind: leadsToPage, at: f.at(e)}
	case e&f.large == 0:
		return lead{kind: leadsToTable, at: f.at(e)}
	case level > f.largest:
		return lead{malformed: true} // the bit is reserved there
	}
	high := phys.Addr(e&f.largeHigh) << (f.largeHighShift & 63)
	return lead{kind: leadsToPage, at: f.at(e)&^phys.Addr(f.maps(level)-1) | high}
}

// transitionLead is for a page or table that Windows has taken out of use but not
// overwritten.
//
// On processors that need it against L1TF, Windows sets bits of the frame number
// that no RAM has, and clears SwizzleBit to say so. Which bits is the kernel's
// secret (MiState.Hardware.InvalidPteMask), but all of them are above the RAM's
// highest.
func (f entryFormat) transitionLead(e uint64, level int) lead {
	l := lead{kind: leadsToPage, at: f.at(e), transition: true}
	if level > 1 {
		l.kind = leadsToTable
	}
	if f.ram.Has(l.at.PFN()) {
		return l
	}
	if f.swizzle != 0 && e&f.swizzle == 0 && len(f.ram) > 0 {
		top := uint64(f.ram.End().Addr() - 1)
		l.at &= phys.Addr(1)<<bits.Len64(top) - 1
		if l.at != 0 && f.ram.Has(l.at.PFN()) { // the first page is never Windows'
			return l
		}
	}
	return lead{kind: leadsUnknown}
}

// follow returns where entry e of a table of the given level leads, through the
// prototype PTE if it names one: never through a second one. The error is that
// of ctx.
//
// A prototype PTE that can't be read, that leads to another one, or out of RAM,
// leaves it unknown. So does the address that stands for "ask the VAD", which is
// above all that can be mapped.
func (s *AddressSpace) follow(ctx context.Context, e uint64, level int) (lead, error) {
	l := s.entries().lead(e, level)
	if l.kind != leadsToEntry {
		return l, nil
	}
	unknown := lead{kind: leadsUnknown}
	size := phys.VirtAddr(s.paging.size)
	if !l.entry.Kernel() || l.entry%size != 0 {
		return unknown, nil
	}
	m, err := s.translate(ctx, l.entry, (*AddressSpace).leadOf)
	if err != nil {
		return unknown, ctx.Err()
	}
	t, err := s.table(ctx, m.Addr&^(phys.PageSize-1), 1)
	if err != nil {
		return unknown, ctx.Err()
	}
	to := s.entries().lead(t.entries[m.Addr.Offset()/uint64(size)], 1)
	if to.kind == leadsToEntry || to.kind == leadsToPage && !s.ram.Has(to.at.PFN()) {
		return unknown, nil
	}
	to.transition = true
	return to, nil
}

// leadOf is follow without a way through prototype PTEs.
func (s *AddressSpace) leadOf(_ context.Context, e uint64, level int) (lead, error) {
	l := s.entries().lead(e, level)
	if l.kind == leadsToEntry {
		l.kind = leadsUnknown
	}
	return l, nil
}

func (s *AddressSpace) entries() entryFormat { return entryFormat{s.paging, s.ram} }
