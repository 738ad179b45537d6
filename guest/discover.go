package guest

import (
	"context"
	"errors"

	"snap/guest/phys"
)

var errUnfinished = errors.New("internal error: not built yet")

// Discover finds the Windows guest in mem, of which only ram is read. cpus are
// the registers of its virtual processors, in any order; none are needed if
// the memory itself leads to the page tables. Without a Windows that is
// understood the error is of class ErrNotWindows, or ErrFiveLevel, and says
// what was tried.
func Discover(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers) (*System, error) {
	return nil, errUnfinished
}

// Open reads the Windows guest whose kernel page table and KDBG are already
// known and in plain form, as in a crash dump: root is the header's
// DirectoryTableBase and kdbg its KdDebuggerDataBlock.
func Open(ctx context.Context, mem phys.Reader, ram phys.Runs, root phys.Addr, kdbg phys.VirtAddr) (*System, error) {
	return nil, errUnfinished
}

// Modules walks nt!PsLoadedModuleList in load order. On a broken list it
// returns what it read so far and an error.
func (s *System) Modules(ctx context.Context) ([]Module, error) { return nil, errUnfinished }

// Processes walks nt!PsActiveProcessHead. On a broken list it returns what it
// read so far and an error.
func (s *System) Processes(ctx context.Context) ([]Process, error) { return nil, errUnfinished }
