package ntlab

import "snap/phys"

// pageTables is how a guest's page tables are built.
type pageTables struct {
	machine *machine
	levels  int
	large   int       // the highest level whose entries can map a page
	entry   int       // bytes
	shifts  [6]uint   // by level: the bit of a virtual address where the index begins
	counts  [6]uint64 // by level: entries of a table
	// row: the table at the top is a row of entries that is aligned to its size, and
	// that no entry maps; they say nothing of protection.
	row bool
}

// Intel SDM volume 3: 4.5 of four and five levels, 4.3 of two, 4.4 of PAE.
var (
	tables4   = longModeTables(4)
	tables5   = longModeTables(5)
	tables2   = pageTables{machine: &machine32, levels: 2, large: 2, entry: 4, shifts: [6]uint{1: 12, 2: 22}, counts: [6]uint64{1: 1024, 2: 1024}}
	tablesPAE = pageTables{
		machine: &machine32, levels: 3, large: 2, entry: 8, row: true,
		shifts: [6]uint{1: 12, 2: 21, 3: 30}, counts: [6]uint64{1: 512, 2: 512, 3: 4},
	}
)

func longModeTables(levels int) pageTables {
	t := pageTables{machine: &machine64, levels: levels, large: maxLargeLevel, entry: 8}
	for level := 1; level <= levels; level++ {
		t.shifts[level], t.counts[level] = tableShift(level), 512
	}
	return t
}

// tablesOf returns how the guest of a configuration pages.
func (c *Config) tablesOf(p *profile) *pageTables {
	switch {
	case c.LA57:
		return &tables5
	case p.row == nil || !p.row.x86:
		return &tables4
	case c.NoPAE:
		return &tables2
	}
	return &tablesPAE
}

func (t *pageTables) index(va phys.VirtAddr, level int) uint64 {
	return uint64(va) >> t.shifts[level] & (t.counts[level] - 1)
}

// tableFlags returns the bits of an entry of a level that leads to a table.
func (t *pageTables) tableFlags(va phys.VirtAddr, level int) uint64 {
	switch {
	case t.row && level == t.levels:
		return pteP
	case va.Kernel():
		return kernelTable
	}
	return userTable
}

// frameMask is what of an entry is a frame's address.
func (t *pageTables) frameMask() uint64 {
	if t.entry == 4 {
		return 0xFFFFF000
	}
	return pteFrame
}

// get and set read and write entry i of the table at an address.
func (im *Image) get(table phys.Addr, i uint64) uint64 {
	pg := im.mem.peek(table.PFN())
	if pg == nil {
		return 0
	}
	e := pg[table.Offset():]
	if im.tables.entry == 4 {
		return uint64(le.Uint32(e[4*i:]))
	}
	return le.Uint64(e[8*i:])
}

func (im *Image) set(table phys.Addr, i, v uint64) {
	e := im.mem.page(table.PFN())[table.Offset():]
	if im.tables.entry == 4 {
		le.PutUint32(e[4*i:], uint32(v))
		return
	}
	le.PutUint64(e[8*i:], v)
}
