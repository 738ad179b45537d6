package guest

import (
	"context"
	"fmt"
	"iter"

	"snap/phys"
)

// Bounds on the page tables of the kernel's half. A table maps 512 pages, so a
// guest that maps all its RAM by 4 KiB pages needs tables for one page in 512;
// maxTablesPerRAM allows for eight times that, and the least for tables that
// are nearly empty.
const (
	leastMaxTables  = 4096
	maxTablesPerRAM = 64      // pages of RAM for each table
	mostTables      = 1 << 20 // 4 GiB of tables
)

// tableWalk collects the pages that hold page tables.
type tableWalk struct {
	entryFormat
	mem  phys.Reader
	root phys.Addr
	max  int
	// tables are those found, with a bit for each level at which they were: a
	// page can be a table of several.
	tables map[phys.PFN]uint8
}

// kernelTables returns the pages of all page tables that addresses of the
// kernel's half are translated with, the top-level one included. Tables of the
// lowest level are not read. A table that is not in RAM is passed over.
func (s *AddressSpace) kernelTables(ctx context.Context) (phys.Runs, error) {
	w := &tableWalk{
		entryFormat: s.entries(), mem: s.mem, root: s.root, tables: map[phys.PFN]uint8{},
		max: int(min(leastMaxTables+s.ram.Pages()/maxTablesPerRAM, mostTables)),
	}
	err := w.table(ctx, s.root, w.top)
	runs := make([]phys.Run, 0, len(w.tables))
	for pfn := range w.tables {
		runs = append(runs, phys.Run{Base: pfn, Pages: 1})
	}
	set, setErr := phys.NewRuns(runs...)
	if setErr != nil {
		panic("internal error: page of RAM: " + setErr.Error())
	}
	return set, err
}

// table takes the table of the given level at at and those below it.
func (w *tableWalk) table(ctx context.Context, at phys.Addr, level int) error {
	pfn, bit := at.PFN(), uint8(1)<<level
	levels := w.tables[pfn]
	if levels&bit != 0 || !w.ram.Has(pfn) {
		return nil
	}
	if levels == 0 && len(w.tables) >= w.max {
		return fmt.Errorf("page tables of the kernel: %w: more than %d in %d MiB of RAM",
			ErrMalformed, w.max, w.ram.Pages()>>(20-phys.PageShift))
	}
	w.tables[pfn] = levels | bit
	if level == 1 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var page [phys.PageSize]byte
	if err := w.mem.ReadPhys(ctx, page[:], at&^(phys.PageSize-1)); err != nil {
		return ctx.Err() // the reader keeps the error
	}
	table := page[at.Offset():]
	if level > 2 { // those of the lowest level are not read
		phys.Prefetch(ctx, w.mem, func(yield func(phys.Run) bool) {
			for at := range w.below(table, level) {
				if !yield(phys.Run{Base: at.PFN(), Pages: 1}) {
					return
				}
			}
		})
	}
	for at := range w.below(table, level) {
		if err := w.table(ctx, at, level-1); err != nil {
			return err
		}
	}
	return nil
}

// below yields where the tables are that a table of a level leads to.
func (w *tableWalk) below(table []byte, level int) iter.Seq[phys.Addr] {
	first, end := uint64(0), w.entries(level)
	if level == w.top {
		first = w.kernelEntry()
	}
	return func(yield func(phys.Addr) bool) {
		for i := first; i < end; i++ {
			e := w.entry(table, i)
			l := w.lead(e, level)
			switch {
			case level == w.top && w.at(e) == w.root:
				continue // the self-map shows tables that are reached otherwise too
			case l.malformed:
				l.at = w.at(e) // but for a bit that is reserved, it leads to a table
			case l.kind != leadsToTable:
				continue
			}
			if !yield(l.at) {
				return
			}
		}
	}
}
