package capture

import (
	"context"
	"fmt"
	"reflect"

	"snap/guest"
	"snap/phys"
)

// coreFacts are what one reading of a guest's core says: all that has to be the
// same in two readings for them to agree, but for the page tables' entries.
type coreFacts struct {
	Pages  phys.Runs // the whole core
	Tables phys.Runs // of these, the page tables

	Root       phys.Addr
	KernelBase phys.VirtAddr
	KernelSize uint32
	KDBGAt     phys.VirtAddr
	KDBG       []byte
	BugCheck   [5]uint64
	Memory     []phys.Run

	System     phys.VirtAddr // EPROCESS
	PFNs       phys.VirtAddr // MmPfnDatabase
	Processors []guest.Processor
	Modules    []guest.Module
	Processes  []guest.Process

	// Broken is where a list or table could not be followed. It is the guest's
	// doing if it stays so.
	Broken []string
}

// coreOf sorts the pages that a debugger needs.
func coreOf(protected []guest.ProtectedPages) *coreFacts {
	f := new(coreFacts)
	for _, p := range protected {
		if p.Reason == guest.ProtectedPageTable {
			f.Tables = p.Pages
		}
		f.Pages = f.Pages.Union(p.Pages)
	}
	return f
}

// readCoreFacts reads a guest's core from mem. An error says that there is no
// Windows to be seen there, or that ctx ended.
func readCoreFacts(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers) (*coreFacts, error) {
	sys, err := guest.Discover(ctx, mem, ram, cpus)
	if err != nil {
		return nil, fmt.Errorf("find Windows in guest memory: %w", err)
	}
	protected, protectedErr := sys.Protected(ctx)
	f := coreOf(protected)
	f.Root, f.KernelBase, f.KernelSize = sys.DirectoryTableBase, sys.Kernel.Base, sys.Kernel.Size
	f.KDBGAt, f.KDBG, f.BugCheck, f.Memory = sys.KDBG.At, sys.KDBG.Block, sys.BugCheck, sys.PhysicalMemory
	f.System, f.PFNs = sys.PsInitialSystemProcess, sys.MmPfnDatabase
	for _, p := range sys.Processors {
		p.VCPU = 0 // follows from registers, which are of no point in time
		f.Processors = append(f.Processors, p)
	}
	var modulesErr, processesErr error
	f.Modules, modulesErr = sys.Modules(ctx)
	f.Processes, processesErr = sys.Processes(ctx)
	for _, err := range []error{protectedErr, modulesErr, processesErr} {
		if err != nil {
			f.Broken = append(f.Broken, err.Error())
		}
	}
	return f, ctx.Err()
}

func (f *coreFacts) equal(g *coreFacts) bool { return reflect.DeepEqual(f, g) }
