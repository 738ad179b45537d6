package guest

import (
	"context"
	"errors"

	"snap/guest/phys"
)

// ProtectedPages are pages of one kind without which a debugger could not open
// a dump.
type ProtectedPages struct {
	Reason string // what they are, such as "page table"
	Pages  phys.Runs
}

// Protected returns the pages that must be in every dump of the guest, so that
// a debugger can open it and list modules, processes and processors, whatever
// else is left out. The sets are disjoint, lie in the RAM map and are in a fixed
// order; one that is empty is left out.
//
// They are the page tables of the kernel's half of the System process's address
// space, headers and directories of the kernel image, the KDBG,
// KUSER_SHARED_DATA, the processors' KPCR, KPRCB and CONTEXT, the lists of
// modules and of processes with their heads and entries, and the kernel's
// variables that lead to them.
//
// Page tables are read anew, each of the upper three levels once and those of
// the lowest level, which are nearly all, not at all: some hundred pages for a
// guest of usual size. What the guest broke is protected as far as it can be
// followed.
//
// With an error the result is what was found until then, and nothing should be
// left out of the dump by the guest's word: ctx ended, memory could not be
// read, or the guest has more page tables than its RAM makes plausible, which
// is an error of class ErrMalformed.
func (s *System) Protected(ctx context.Context) ([]ProtectedPages, error) {
	return nil, errors.Join(ctx.Err(), errors.New("protected pages are not looked for yet"))
}
