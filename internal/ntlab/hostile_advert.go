package ntlab

import (
	"fmt"
	"slices"

	"snap/phys"
)

// AdvertAttack is a guest with hostile adverts. None of them keeps a careful
// reader from all that Truth says.
type AdvertAttack struct {
	Name string
	// About says what is done.
	About string
	// Edit loads drivers that advertise, and says what a correct reader makes
	// of their adverts in a dump without a bug check. Truth.Adverts has them.
	Edit func(*Image) (AdvertOutcome, error)
}

// AdvertOutcome says what becomes of an attack's tables and their entries.
type AdvertOutcome struct {
	Tables   int // that are taken, empty ones included
	Unstable int // that can't be read in one piece, however often they are read
	Broken   int // that are malformed: wrong magic, version, sizes, counts, place

	Honoured int // entries whose pages stay out
	Refused  int // entries that are refused, each with a reason
	Ignored  int // entries that ask for nothing in this dump
	// Limited entries are beyond the limits that a reader sets: what it reads
	// of them may be refused or honoured. Limited tables hold only such ones.
	Limited       int
	LimitedTables int

	// Excluded are the pages of the honoured entries, but not of the limited.
	Excluded phys.Runs
	// TooMany: that is more than half of the guest's RAM.
	TooMany bool
}

// advertEdits loads the drivers of an attack and keeps its outcome.
type advertEdits struct {
	edits
	out     AdvertOutcome
	drivers int
}

func advertAttack(name, about string, f func(*advertEdits)) AdvertAttack {
	return AdvertAttack{name, about, func(im *Image) (AdvertOutcome, error) {
		e := &advertEdits{edits: edits{im: im}}
		f(e)
		half := im.ram.Pages() / 2
		e.out.TooMany = e.out.Excluded.Pages() > half
		return e.out, e.err
	}}
}

// advertise loads another driver.
func (e *advertEdits) advertise(a *Advert) Advertised {
	if e.err != nil {
		return Advertised{}
	}
	e.drivers++
	var got Advertised
	got, e.err = e.im.Advertise(fmt.Sprintf("advert%d.sys", len(e.im.Truth.Modules)), a)
	return got
}

// fresh returns an entry for a page of pool, and the page.
func (e *advertEdits) fresh() (RemovePages, phys.PFN) {
	if e.err != nil {
		return RemovePages{}, 0
	}
	var va phys.VirtAddr
	va, e.err = e.im.AllocPages(1)
	at, _ := e.im.Translate(va)
	return virtual(va, 1), at.PFN()
}

// good returns such an entry, which is to be honoured.
func (e *advertEdits) good() RemovePages {
	entry, p := e.fresh()
	e.out.Honoured++
	e.exclude(phys.Run{Base: p, Pages: 1})
	return entry
}

func (e *advertEdits) exclude(runs ...phys.Run) {
	all, err := phys.NewRuns(slices.Concat(e.out.Excluded, runs)...)
	if err != nil && e.err == nil {
		e.err = err
	}
	e.out.Excluded = all
}

// refused loads a driver that asks for what it can't have, and last for one
// page that it can.
func (e *advertEdits) refused(bad ...RemovePages) {
	e.out.Tables++
	e.out.Refused += len(bad)
	e.advertise(&Advert{Entries: append(bad, e.good())})
}

// broken loads a driver with a table of one entry that edit spoils.
func (e *advertEdits) broken(edit func(table []byte)) Advertised {
	entry, _ := e.fresh()
	e.out.Broken++
	return e.advertise(&Advert{Entries: []RemovePages{entry}, Edit: edit})
}

func virtual(va phys.VirtAddr, pages uint64) RemovePages {
	return RemovePages{Flags: RemoveVirtual, Address: uint64(va), Count: pages}
}

func physical(at phys.Addr, pages uint64) RemovePages {
	return RemovePages{Flags: RemovePhysical, Address: uint64(at), Count: pages}
}

// both asks for the page at va by its virtual and by its physical address.
func (e *advertEdits) both(va phys.VirtAddr) []RemovePages {
	at, ok := e.im.Translate(va)
	if !ok && e.err == nil {
		e.err = fmt.Errorf("nothing is at %#x", uint64(va))
	}
	return []RemovePages{virtual(va, 1), physical(at, 1)}
}

// AdvertAttacks are the hostile adverts.
func AdvertAttacks() []AdvertAttack {
	return slices.Concat(protectedAdverts(), rangeAdverts(), tableAdverts(), costlyAdverts())
}

func protectedAdverts() []AdvertAttack {
	return []AdvertAttack{
		advertAttack("page tables", "the top-level table, by its address and by the self-map, and tables of the kernel", func(e *advertEdits) {
			t := &e.im.Truth
			slot := uint64(t.SelfMapSlot)
			self := phys.VirtAddr(0xffff<<48 | slot<<39 | slot<<30 | slot<<21 | slot<<12)
			bad := []RemovePages{virtual(self, 1), physical(t.DirectoryTableBase, 1)}
			for level := 2; level <= 3; level++ {
				at, ok := e.im.EntryAddr(t.KernelBase, level)
				if !ok && e.err == nil {
					e.err = fmt.Errorf("the kernel has no table of level %d", level)
				}
				bad = append(bad, physical(at, 1))
			}
			e.refused(bad...)
		}),
		advertAttack("KDBG", "the page of the debugger data block", func(e *advertEdits) {
			e.refused(e.both(e.im.Truth.KDBG)...)
		}),
		advertAttack("kernel image", "the kernel's headers alone, and all of it", func(e *advertEdits) {
			t := &e.im.Truth
			e.refused(append(e.both(t.KernelBase), virtual(t.KernelBase, uint64(pagesOf(t.KernelSize))))...)
		}),
		advertAttack("module list", "the head of PsLoadedModuleList, and the first, third and last of its entries", func(e *advertEdits) {
			head := e.im.Truth.PsLoadedModuleList
			first := e.get64(head)
			bad := e.both(head)
			for _, entry := range []phys.VirtAddr{first, e.get64(e.get64(first)), e.get64(head + 8)} {
				bad = append(bad, e.both(entry)...)
			}
			e.refused(bad...)
		}),
		advertAttack("processors", "KPCR, KPRCB and CONTEXT of the first and the last processor", func(e *advertEdits) {
			var bad []RemovePages
			all := e.im.Truth.Processors
			for _, p := range []Processor{all[0], all[len(all)-1]} {
				bad = append(bad, slices.Concat(e.both(p.KPCR), e.both(p.KPRCB), e.both(p.Context))...)
			}
			e.refused(bad...)
		}),
		advertAttack("KUSER_SHARED_DATA", "its page", func(e *advertEdits) { e.refused(e.both(kuserKernel)...) }),
	}
}

func rangeAdverts() []AdvertAttack {
	const all = ^uint64(0)
	return []AdvertAttack{
		advertAttack("everything", "all 52 bits of physical memory, the whole kernel half, all RAM above 1 MiB", func(e *advertEdits) {
			i, _ := e.im.ram.Find(highMemory)
			e.refused(physical(0, 1<<40), virtual(0xFFFF_8000_0000_0000, 1<<35),
				physical(highMemory.Addr(), uint64(e.im.ram[i].End()-highMemory)))
		}),
		advertAttack("2^64-1 pages", "Count is 2^64-1, or Address so high that the range wraps", func(e *advertEdits) {
			good, _ := e.fresh()
			e.refused(physical(e.im.Truth.DirectoryTableBase, all), virtual(phys.VirtAddr(good.Address), all),
				physical(0, all), virtual(0, all), physical(phys.Addr(all&^0xFFF), 2), virtual(phys.VirtAddr(all&^0xFFF), 2),
				virtual(phys.VirtAddr(good.Address), 1<<52), physical(0, 1<<52))
		}),
		advertAttack("outside of RAM", "the VGA hole, devices, past the end, across it, and an address that isn't canonical", func(e *advertEdits) {
			end := e.im.ram.End().Addr()
			device, err := e.im.AllocPages(1)
			if err == nil {
				err = e.im.MapPage(e.im.Truth.DirectoryTableBase, device, 0xFEE00, 1, kernelData)
			}
			if e.err == nil {
				e.err = err
			}
			e.refused(physical(vgaHole.Addr(), 1), physical(vgaHole.Addr()-phys.PageSize, 2), physical(0xFEE0_0000, 1),
				physical(end, 1), physical(end-phys.PageSize, 2), physical(phys.MaxAddr, 1),
				virtual(0x8000_0000_0000, 1), virtual(0x8000_0000_0000_0000, 1), virtual(device, 1))
		}),
		advertAttack("flags", "neither kind, both, and bits that nobody has defined", func(e *advertEdits) {
			good, _ := e.fresh()
			var bad []RemovePages
			for _, f := range []uint32{0, 3, 0x80000000, 0x80000003, 1 | 4, 1 | 8, 2 | 0x1000, 0x40000000 | 1, ^uint32(0)} {
				good.Flags = f
				bad = append(bad, good)
			}
			e.refused(bad...)
			features, more := e.good(), e.good()
			features.Flags |= 0xFF0 // the feature nibbles
			more.Flags |= RemoveAdditional
			e.out.Tables++
			e.advertise(&Advert{Entries: []RemovePages{features, more}})
			other, none := good, good
			other.Flags, other.BugCheckCode = RemoveVirtual, 0xD1
			none.Flags, none.Count = RemoveVirtual, 0
			e.out.Tables++
			e.out.Ignored += 3
			e.advertise(&Advert{Entries: []RemovePages{other, none, {}}})
		}),
	}
}

func tableAdverts() []AdvertAttack {
	return []AdvertAttack{
		advertAttack("odd sequence", "the driver is in the middle of a change for ever", func(e *advertEdits) {
			e.broken(func(b []byte) { le.PutUint32(b[tableSequence:], 0xFFFF_FFFF) })
			e.out.Broken--
			e.out.Unstable++
		}),
		advertAttack("loops", "a table whose Next is the table, and a chain of three whose last leads to the first", func(e *advertEdits) {
			one := &Advert{Entries: []RemovePages{e.good()}}
			one.Next = one
			e.advertise(one)
			third := &Advert{Entries: []RemovePages{e.good()}}
			first := &Advert{
				Entries: []RemovePages{e.good()},
				Next:    &Advert{Entries: []RemovePages{e.good()}, Next: third},
			}
			third.Next = first
			e.advertise(first)
			e.out.Tables += 4
		}),
		advertAttack("entry sizes", "EntrySize is 0, that of x86, odd, and the largest", func(e *advertEdits) {
			for _, size := range []uint16{0, 0x14, 0x21, 0xFFFF} {
				e.broken(func(b []byte) { le.PutUint16(b[tableEntrySize:], size) })
			}
		}),
		advertAttack("counts", "Count is above Capacity, or both are far above what is there", func(e *advertEdits) {
			e.broken(func(b []byte) { le.PutUint32(b[tableCount:], 2) })
			e.broken(func(b []byte) { le.PutUint32(b[tableCount:], 0xFFFF_FFFF) })
			e.broken(func(b []byte) {
				le.PutUint32(b[tableCapacity:], 0xFFFF_FFFF)
				le.PutUint32(b[tableCount:], 0xFFFF_FFFF)
			})
		}),
		advertAttack("not a table", "other magics, a later version, and data that is paged out", func(e *advertEdits) {
			e.broken(func(b []byte) { copy(b, "SNAPRMPQ") })
			e.broken(func(b []byte) { clear(b) })
			e.broken(func(b []byte) { le.PutUint16(b[tableVersion:], 2) })
			gone := e.broken(nil)
			if e.err == nil {
				e.err = e.im.extend(func(b *builder) { b.setPTE(gone.Symbol, 0x1234<<32|0x80) })
			}
		}),
		advertAttack("next", "Next leads to unmapped memory, out of RAM, to user space, nowhere, into a driver's code, to an odd address", func(e *advertEdits) {
			for _, next := range []phys.VirtAddr{
				0xFFFF_8000_0000_1000, 0x7FFE_0000, 0x8000_0000_0000_0000, ^phys.VirtAddr(0) - 8, e.im.spare,
				e.im.Truth.KernelBase + 0x1004,
			} {
				e.out.Tables++
				e.out.Broken++
				e.advertise(&Advert{Entries: []RemovePages{e.good()}, Edit: func(b []byte) { le.PutUint64(b[tableNext:], uint64(next)) }})
			}
		}),
	}
}

// chainDepth is how many tables of a chain are followed (guest/driver).
const chainDepth = 64

func costlyAdverts() []AdvertAttack {
	return []AdvertAttack{
		advertAttack("long chain", "100 tables of one entry", func(e *advertEdits) {
			const tables = 100
			var a *Advert
			for i := range tables {
				if i < tables-chainDepth { // built from the last one on
					entry, _ := e.fresh()
					a = &Advert{Entries: []RemovePages{entry}, Next: a}
					e.out.Limited++
					e.out.LimitedTables++
					continue
				}
				a = &Advert{Entries: []RemovePages{e.good()}, Next: a}
			}
			e.out.Tables += chainDepth
			e.advertise(a)
		}),
		advertAttack("overlapping entries", "100,000 entries in four tables ask for 8 pages each of the same 500 of a large page", func(e *advertEdits) {
			const tables, each, span, certain = 4, 25000, 500, 1 << 16
			var m Mapping
			for _, n := range e.im.Truth.Mappings {
				if n.Kind == MappingLarge { // the last, whose first two pages alone are in use
					m = n
				}
			}
			var a *Advert
			for range tables {
				t := &Advert{Next: a}
				for k := range uint64(each) {
					first := 2 + k*7%(span-7)
					entry := physical((m.PFN + phys.PFN(first)).Addr(), 8)
					if k%2 == 0 {
						entry = virtual(m.VA+phys.VirtAddr(first)<<phys.PageShift, 8)
					}
					t.Entries = append(t.Entries, entry)
				}
				a = t
			}
			e.advertise(a)
			e.out.Tables += tables
			e.out.Honoured += certain
			e.out.Limited += tables*each - certain
			e.exclude(phys.Run{Base: m.PFN + 2, Pages: span})
		}),
		advertAttack("more than half", "free pages, more of them than half of RAM; needs a guest of 128 MiB", func(e *advertEdits) {
			a := &Advert{}
			var (
				sum  uint64
				runs []phys.Run
			)
			for _, r := range e.im.Free() {
				if sum > e.im.ram.Pages()/2 {
					break
				}
				sum += r.Pages
				runs = append(runs, r)
				a.Entries = append(a.Entries, physical(r.Base.Addr(), r.Pages))
			}
			free, err := phys.NewRuns(runs...)
			if e.err == nil {
				e.err = err
			}
			e.im.alloc.remove(free) // nothing shall come there later
			e.exclude(runs...)
			e.out.Tables++
			e.out.Honoured += len(a.Entries)
			e.advertise(a)
		}),
	}
}
