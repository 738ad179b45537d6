package ntlab

import (
	"errors"
	"fmt"
	"slices"

	"snap/phys"
)

// Flags of a KBUGCHECK_REMOVE_PAGES (WDK wdm.h).
const (
	RemoveVirtual    = 0x00000001 // KB_REMOVE_PAGES_FLAG_VIRTUAL_ADDRESS
	RemovePhysical   = 0x00000002 // KB_REMOVE_PAGES_FLAG_PHYSICAL_ADDRESS
	RemoveAdditional = 0x80000000 // KB_REMOVE_PAGES_FLAG_ADDITIONAL_RANGES_EXIST
)

// RemovePages is a KBUGCHECK_REMOVE_PAGES (WDK wdm.h).
type RemovePages struct {
	Context      uint64
	Flags        uint32
	BugCheckCode uint32
	Address      uint64 // virtual or physical
	Count        uint64 // 4 KiB pages
}

// Advert is a table of pages that a driver asks to leave out of dumps, as
// guest/driver/snap_advert.h lays it out.
type Advert struct {
	Entries  []RemovePages
	Capacity uint32 // entries that fit; 0: as many as there are
	Sequence uint32 // odd: the driver is changing the table
	// Next is a further table. It may be one that comes before.
	Next *Advert
	// InPool puts the table into nonpaged pool; further tables always go
	// there. Else it is in the driver's data.
	InPool bool
	// Offset is where in its first page the table begins, a multiple of 8. It
	// goes on in pages that are not neighbours in physical memory.
	Offset uint32
	// Edit, if any, changes the table's bytes, header and all entries that
	// fit, before they are written.
	Edit func(table []byte)
}

// Advertised is an advert of the image: what a driver exports.
type Advertised struct {
	Module string
	Symbol phys.VirtAddr // of SnapRemovePages
	Tables []Table       // in the order of the chain, the exported one first, each once
}

// Table is one table of an advert.
type Table struct {
	VA      phys.VirtAddr
	Entries []RemovePages // as the Advert has them, before its Edit
}

// Registration is a KBUGCHECK_REASON_CALLBACK_RECORD for the reason
// KbCallbackRemovePages.
type Registration struct {
	Module    string
	Record    phys.VirtAddr
	Routine   phys.VirtAddr
	Component phys.VirtAddr // of a string, which is the module's name without .sys
}

// advertSymbol is what the host looks for in a driver's export directory.
const advertSymbol = "SnapRemovePages"

// Layout of a table: guest/driver/README.md.
const (
	tableMagic     = "SNAPRMPG"
	tableVersion   = 0x08
	tableEntrySize = 0x0A
	tableCapacity  = 0x0C
	tableSequence  = 0x10
	tableCount     = 0x14
	tableNext      = 0x18
	tableHeader    = 0x20

	maxAdvertCapacity = 1 << 20
	maxAdvertChain    = 1 << 10
)

// Advertise makes the named driver advertise a. A driver that isn't loaded is
// made: a small one whose export directory names SnapRemovePages. One that is
// loaded and exports it gets a as what the exported table's Next leads to.
// Truth.Adverts gets what it returns.
func (im *Image) Advertise(module string, a *Advert) (Advertised, error) {
	out, err := im.advertise(module, a)
	if err != nil {
		return Advertised{}, fmt.Errorf("advertise pages of %s: %w", module, err)
	}
	im.Truth.Adverts = append(im.Truth.Adverts, out)
	return out, nil
}

func (im *Image) advertise(module string, first *Advert) (Advertised, error) {
	chain, err := first.chain()
	if err != nil {
		return Advertised{}, err
	}
	head, loaded, err := im.exportedTable(module)
	if err != nil {
		return Advertised{}, err
	}
	out := Advertised{Module: module, Symbol: head}
	at := map[*Advert]phys.VirtAddr{}
	for i, a := range chain {
		if i == 0 && !loaded && !a.InPool {
			continue // with its driver
		}
		if at[a], err = im.AllocPages(a.pages(im.machine())); err != nil {
			return Advertised{}, err
		}
		at[a] += phys.VirtAddr(a.Offset)
	}
	switch {
	case loaded:
		err = im.relink(head, at[first])
		out.Tables = append(out.Tables, Table{VA: head})
	case first.InPool:
		// An export can't lead out of the image: an empty table there leads
		// to the pool.
		out.Symbol, err = im.loadAdvertiser(module, &Advert{})
		if err == nil {
			err = im.WriteVirt(out.Symbol, (&Advert{}).table(im.machine(), at[first]))
		}
		out.Tables = append(out.Tables, Table{VA: out.Symbol})
	default:
		out.Symbol, err = im.loadAdvertiser(module, first)
		at[first] = out.Symbol
	}
	if err != nil {
		return Advertised{}, err
	}
	for _, a := range chain {
		if err := im.WriteVirt(at[a], a.table(im.machine(), at[a.Next])); err != nil {
			return Advertised{}, err
		}
		out.Tables = append(out.Tables, Table{VA: at[a], Entries: slices.Clone(a.Entries)})
	}
	return out, nil
}

// chain returns a and the tables that it leads to, each once.
func (a *Advert) chain() ([]*Advert, error) {
	var out []*Advert
	seen := map[*Advert]bool{}
	for ; a != nil && !seen[a]; a = a.Next {
		switch {
		case a.Capacity > maxAdvertCapacity || len(a.Entries) > maxAdvertCapacity:
			return nil, fmt.Errorf("a table for %d entries", max(int(a.Capacity), len(a.Entries)))
		case a.Capacity != 0 && len(a.Entries) > int(a.Capacity):
			return nil, fmt.Errorf("%d entries in a table for %d", len(a.Entries), a.Capacity)
		case a.Offset >= phys.PageSize:
			return nil, fmt.Errorf("a table %#x into a page", a.Offset)
		}
		seen[a] = true
		if out = append(out, a); len(out) > maxAdvertChain {
			return nil, fmt.Errorf("a chain of more than %d tables", maxAdvertChain)
		}
	}
	return out, nil
}

// capacity returns how many entries fit.
func (a *Advert) capacity() uint32 {
	if a.Capacity != 0 {
		return a.Capacity
	}
	return uint32(len(a.Entries))
}

// pages returns how many pages the table touches.
func (a *Advert) pages(m *machine) int {
	return int(pagesOf(a.Offset + tableHeader + a.capacity()*uint32(m.removePages)))
}

// table returns the table's bytes.
func (a *Advert) table(m *machine, next phys.VirtAddr) []byte {
	size := m.removePages
	b := make([]byte, tableHeader+int(a.capacity())*size)
	copy(b, tableMagic)
	le.PutUint16(b[tableVersion:], 1)
	le.PutUint16(b[tableEntrySize:], uint16(size))
	le.PutUint32(b[tableCapacity:], a.capacity())
	le.PutUint32(b[tableSequence:], a.Sequence)
	le.PutUint32(b[tableCount:], uint32(len(a.Entries)))
	m.pointer(b[tableNext:], uint64(next))
	for i, e := range a.Entries {
		e.put(m, b[tableHeader+i*size:])
	}
	if a.Edit != nil {
		a.Edit(b)
	}
	return b
}

// put writes the structure to b (WDK wdm.h): Context, Flags, BugCheckCode, Address and
// Count, of which the first and the last two are as wide as pointers.
func (r RemovePages) put(m *machine, b []byte) {
	m.pointer(b, r.Context)
	le.PutUint32(b[m.word:], r.Flags)
	le.PutUint32(b[m.word+4:], r.BugCheckCode)
	m.pointer(b[m.word+8:], r.Address)
	m.pointer(b[2*m.word+8:], r.Count)
}

// exportedTable returns the address of what a loaded driver exports, and
// whether the driver is loaded.
func (im *Image) exportedTable(module string) (phys.VirtAddr, bool, error) {
	m, ok := im.module(module)
	if !ok {
		return 0, false, nil
	}
	d, err := im.loaded(m)
	if err != nil {
		return 0, true, err
	}
	rva, err := d.export(advertSymbol)
	if err != nil {
		return 0, true, err
	}
	if table, err := d.at(rva, tableHeader); rva == 0 || err != nil || string(table[:8]) != tableMagic {
		return 0, true, errors.New("it is loaded, and exports no " + advertSymbol)
	}
	return m.Base + phys.VirtAddr(rva), true, nil
}

// relink makes the table at head lead to next, and its driver say so.
func (im *Image) relink(head, next phys.VirtAddr) error {
	var b [tableHeader]byte
	if err := im.ReadVirt(head, b[:]); err != nil {
		return err
	}
	le.PutUint32(b[tableSequence:], le.Uint32(b[tableSequence:])+2)
	im.machine().pointer(b[tableNext:], uint64(next))
	return im.WriteVirt(head, b[:])
}
