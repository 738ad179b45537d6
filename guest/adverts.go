package guest

import (
	"context"
	"errors"

	"snap/guest/phys"
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

// Adverts looks through the modules of nt!PsLoadedModuleList for tables that
// drivers export as SnapRemovePages, reads those and the ones that they lead
// to, and looks through the modules' writable data for callbacks of drivers
// without a table.
//
// Page tables are read anew. On a guest that runs, each table is whole for
// itself: it was not changed while it was read.
//
// What the guest did wrong is in Problems. The error is that ctx ended or that
// memory could not be read; the result then holds what was found until then.
func (s *System) Adverts(ctx context.Context) (*Adverts, error) {
	return &Adverts{}, errors.Join(ctx.Err(), errors.New("adverts are not read yet"))
}
