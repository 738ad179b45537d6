package ntlab

import (
	"fmt"

	"snap/phys"
)

// Page-table entry bits (Intel SDM volume 3, 4.5; AMD64 manual volume 2, 5.3)
// and Windows' own uses of bits 11 and 10 of an entry that isn't present
// (MMPTE_TRANSITION, MMPTE_PROTOTYPE in public symbols).
const (
	pteP  = 1 << 0
	pteW  = 1 << 1
	pteU  = 1 << 2
	pteA  = 1 << 5
	pteD  = 1 << 6
	ptePS = 1 << 7
	pteG  = 1 << 8
	pteNX = 1 << 63

	ptePrototype  = 1 << 10
	pteTransition = 1 << 11

	pteFrame = 0x000FFFFFFFFFF000

	kernelTable = pteP | pteW | pteA | pteD        // 0x63, as Windows writes upper levels
	userTable   = pteP | pteW | pteU | pteA | pteD // 0x67
	kernelData  = pteP | pteW | pteA | pteD | pteG | pteNX
	kernelRead  = pteP | pteA | pteD | pteG | pteNX
	kernelCode  = pteP | pteA | pteD | pteG
	kernelAll   = pteP | pteW | pteA | pteD | pteG
	userData    = pteP | pteW | pteU | pteA | pteD | pteNX
	userRead    = pteP | pteU | pteA | pteD | pteNX
	userCode    = pteP | pteU | pteA | pteD
)

// levels returns how many tables a walk goes through to a 4 KiB page.
func (im *Image) levels() int { return im.tables.levels }

// maxLargeLevel is the highest level whose entries can map a page, of 1 GiB.
const maxLargeLevel = 3

// tableShift gives the bit of a virtual address where the index of a level
// begins: level 5 is the PML5, level 4 the PML4, level 1 the page table.
func tableShift(level int) uint { return uint(phys.PageShift + 9*(level-1)) }

func tableIndex(va phys.VirtAddr, level int) uint64 {
	return uint64(va) >> tableShift(level) & 511
}

// Translate walks the tables of the System process for va. It answers for
// pages that are present only.
func (im *Image) Translate(va phys.VirtAddr) (phys.Addr, bool) {
	return im.TranslateIn(im.Truth.DirectoryTableBase, va)
}

// TranslateIn is Translate with another process's directory table base.
func (im *Image) TranslateIn(dtb phys.Addr, va phys.VirtAddr) (phys.Addr, bool) {
	t, table := im.tables, dtb
	for level := t.levels; ; level-- {
		e := im.get(table, t.index(va, level))
		if e&pteP == 0 {
			return 0, false
		}
		if level == 1 || (level <= t.large && e&ptePS != 0) {
			mask := uint64(1)<<t.shifts[level] - 1
			return phys.Addr(e&t.frameMask()&^mask | uint64(va)&mask), true
		}
		table = phys.Addr(e & t.frameMask())
		if !im.ram.Has(table.PFN()) {
			return 0, false
		}
	}
}

// entry and setEntry read and write entry i of a table that fills a page.
func (im *Image) entry(table phys.PFN, i uint64) uint64 { return im.get(table.Addr(), i) }

func (im *Image) setEntry(table phys.PFN, i, e uint64) { im.set(table.Addr(), i, e) }

// table returns the table of the given level that va goes through, making the
// ones that are missing.
func (im *Image) table(root phys.Addr, va phys.VirtAddr, level int) (phys.Addr, error) {
	t, table := im.tables, root
	for l := t.levels; l > level; l-- {
		i := t.index(va, l)
		e := im.get(table, i)
		switch {
		case e&pteP == 0:
			fresh, err := im.alloc.page()
			if err != nil {
				return 0, err
			}
			e = uint64(fresh.Addr()) | t.tableFlags(va, l)
			im.set(table, i, e)
		case l <= t.large && e&ptePS != 0:
			return 0, fmt.Errorf("map %#x: a large page is in the way", uint64(va))
		}
		table = phys.Addr(e & t.frameMask())
	}
	return table, nil
}

// MapPage points the entry of the given level (1: 4 KiB, 2: 2 or 4 MiB, 3: 1 GiB)
// for va at pfn, in the tables that root is the top of. flags are the entry's
// other bits; nothing in it is checked, so that a test can build what should
// not exist.
func (im *Image) MapPage(root phys.Addr, va phys.VirtAddr, pfn phys.PFN, level int, flags uint64) error {
	table, err := im.table(root, va, level)
	if err != nil {
		return err
	}
	if level > 1 {
		flags |= ptePS
	}
	im.set(table, im.tables.index(va, level), uint64(pfn.Addr())|flags)
	return nil
}

// EntryAddr returns the physical address of the page-table entry of the given
// level for va in the System process's tables, and false where a table above
// it is missing.
func (im *Image) EntryAddr(va phys.VirtAddr, level int) (phys.Addr, bool) {
	t, table := im.tables, im.Truth.DirectoryTableBase
	for l := t.levels; l > level; l-- {
		e := im.get(table, t.index(va, l))
		if e&pteP == 0 || (l <= t.large && e&ptePS != 0) {
			return 0, false
		}
		table = phys.Addr(e & t.frameMask())
	}
	return table + phys.Addr(uint64(t.entry)*t.index(va, level)), true
}

// mapFresh maps n scattered pages at va.
func (im *Image) mapFresh(root phys.Addr, va phys.VirtAddr, n uint64, flags uint64) error {
	for i := range n {
		p, err := im.alloc.page()
		if err != nil {
			return err
		}
		if err := im.MapPage(root, va+phys.VirtAddr(i<<phys.PageShift), p, 1, flags); err != nil {
			return err
		}
	}
	return nil
}
