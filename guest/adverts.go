package guest

import (
	"context"
	"fmt"
	"time"

	"snap/phys"
)

// Adverts is what the drivers of a guest say about pages that must stay out of
// dumps. All of it is their word: what the entries ask for is for the caller to
// judge. Names are cleaned: at most maxAdvertName printable characters.
type Adverts struct {
	// Tables are those that could be read, in load order of the modules and
	// each module's in the order of its chain.
	Tables []AdvertTable
	// Problems are the tables and modules that could not, or not in full.
	Problems []AdvertProblem
	// Silent are the callbacks of drivers that have no table.
	Silent []SilentDriver
	// Unread names the modules whose headers or exports are not in memory or
	// not mapped in the System process (those of sessions are not), so that
	// nothing can be said of them.
	Unread []string
}

// AdvertTable is one table of KBUGCHECK_REMOVE_PAGES that a driver advertises.
type AdvertTable struct {
	Module    string        // BaseDllName; "module at 0x…" if it has none that is in memory
	At        phys.VirtAddr // of the table
	EntrySize uint32        // bytes
	Capacity  uint32        // entries that the driver says it has room for
	Count     uint32        // entries that the driver says are in use, at most Capacity
	Sequence  uint32        // even; the same before and after the entries were read
	// Entries are the raw structures, Count of them. Where a named limit cut
	// the table off there are fewer, and a problem says so.
	Entries []byte
}

// AdvertProblem is a table or a module that could not be read as the protocol
// has it.
type AdvertProblem struct {
	Module   string        // as in AdvertTable; empty for the module list itself
	At       phys.VirtAddr // of the table, else of the module
	Reason   string
	Unstable bool // the driver was changing the table at each try
}

// SilentDriver is a registered KbCallbackRemovePages routine of a module that
// advertises nothing: Windows would ask it for pages to leave out, a host
// can't.
type SilentDriver struct {
	Module    string        // that the routine is in, as in AdvertTable
	Component string        // as registered; empty if its text isn't in memory
	Record    phys.VirtAddr // KBUGCHECK_REASON_CALLBACK_RECORD
}

// The protocol: the symbol that a driver exports, and the table behind it.
// Next is the address of a further table of the same layout, or 0.
const (
	advertSymbol = "SnapRemovePages"
	advertMagic  = "SNAPRMPG"

	advertVersion = 1

	advertVersionAt  = 0x08 // 2 bytes
	advertEntryAt    = 0x0A // 2 bytes, sizeof(KBUGCHECK_REMOVE_PAGES)
	advertCapacityAt = 0x0C // 4 bytes
	advertSequenceAt = 0x10 // 4 bytes, odd while the table changes
	advertCountAt    = 0x14 // 4 bytes
	advertNextAt     = 0x18 // 8 bytes, of which the kernel uses as many as a pointer has
	advertHeadSize   = 0x20 // the entries follow
)

// Bounds on what adverts may cost, whatever the guest says.
const (
	maxAdvertModules = 2048    // looked at; a Windows has some hundred
	maxAdvertTables  = 256     // read
	maxAdvertChain   = 64      // tables that one export leads to, with its own
	maxTableEntries  = 1 << 16 // taken from one table
	maxAdvertEntries = 1 << 17 // taken from all tables

	// maxAdvertTries is how often a table is read until it is whole.
	maxAdvertTries = 100
	// maxAdvertRetried bounds the entries that are read again because a table
	// changed. Beyond it, a table that isn't whole at once is unstable.
	maxAdvertRetried = 1 << 20
	// A driver that is interrupted while it changes its table needs a moment
	// to finish. The first tries of a guest are advertPause apart, maxAdvertPauses
	// of them: on a guest that stands still they are lost, some 20 ms in all.
	advertPause     = time.Millisecond
	maxAdvertPauses = 20
)

// Adverts looks through the modules of nt!PsLoadedModuleList for tables that
// drivers export as SnapRemovePages, reads those and the ones that they lead
// to, and looks through the modules' writable data for callbacks of drivers
// without a table.
//
// Page tables are read anew. On a guest that runs, each table is whole for
// itself: it was not changed while it was read. A table may lie anywhere in
// the kernel's half of the address space, not only in its driver's image.
//
// It costs, for each module, its headers and a dozen exported names, and for
// those without a table their writable data: some MiB of reading for a guest of
// usual make, and at most some 100 MiB and 256 tables whatever the guest says.
//
// What the guest did wrong is in Problems. The error is that ctx ended or that
// memory could not be read; the result then holds what was found until then.
func (s *System) Adverts(ctx context.Context) (*Adverts, error) {
	mem := &watchedReader{Reader: s.Space.mem}
	a := newAdvertReader(s.through(mem))
	a.run(ctx)
	return a.out, mem.failure(ctx, "look for adverts")
}

// through returns s as it reads the guest by mem, with page tables that are
// read anew.
func (s *System) through(mem phys.Reader) *System {
	view := *s
	view.Space = s.Space.arch.AddressSpace(s.Space.paging, mem, s.Space.ram, s.Space.root)
	return &view
}

// failure returns why what was done with r did not see all of the guest's
// memory, nil if it did.
func (r *watchedReader) failure(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if r.err != nil {
		return fmt.Errorf("%s: %d reads of memory failed, the first: %w", what, r.failed, r.err)
	}
	return nil
}

// advertReader is the state of one Adverts.
type advertReader struct {
	sys     *System
	size    int        // of an entry, bytes
	now     VirtReader // of tables, which are whole only if each reading is one of memory
	out     *Adverts
	seen    map[phys.VirtAddr]bool   // bases of modules
	modules []*advertModule          // in load order
	tables  map[phys.VirtAddr]string // by address, the module that led there
	full    bool                     // there are more than maxAdvertTables

	entries int // that may still be taken
	retried int // entries that may still be read again
	pauses  int // that are left
}

func newAdvertReader(s *System) *advertReader {
	return &advertReader{
		sys: s, size: s.Space.arch.layout.removePages, now: s.Space.Anew(), out: &Adverts{}, seen: map[phys.VirtAddr]bool{}, tables: map[phys.VirtAddr]string{},
		entries: maxAdvertEntries, retried: maxAdvertRetried, pauses: maxAdvertPauses,
	}
}
