package guest

import (
	"context"
	"reflect"

	"snap/phys"
)

// Core is what one reading of a guest's core says: all that has to be the same
// in two readings for them to agree, but for the entries of page tables, which
// Arch.SameTable compares. A program that reads a running guest reads its core
// until two readings agree, see Equal.
type Core struct {
	Pages  phys.Runs // the whole core: what Protected returns
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
	Processors []Processor   // without VCPU, which follows from registers
	Modules    []Module
	Processes  []Process

	// Broken is where a list or table could not be followed. It is the guest's
	// doing if it stays so.
	Broken []string
}

// CoreOf returns a Core that says nothing but which pages it is on, from what
// Protected returned.
func CoreOf(protected []ProtectedPages) *Core {
	c := new(Core)
	for _, p := range protected {
		if p.Reason == ProtectedPageTable {
			c.Tables = p.Pages
		}
		c.Pages = c.Pages.Union(p.Pages)
	}
	return c
}

// ReadCore reads a guest's core from mem, of which only ram is read. The errors
// are those of Discover, and that of ctx.
func ReadCore(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers) (*Core, error) {
	sys, err := Discover(ctx, mem, ram, cpus)
	if err != nil {
		return nil, err
	}
	return sys.core(ctx)
}

// core reads the rest of the core.
func (s *System) core(ctx context.Context) (*Core, error) {
	protected, protectedErr := s.Protected(ctx)
	c := CoreOf(protected)
	c.Root, c.KernelBase, c.KernelSize = s.DirectoryTableBase.Value, s.Kernel.Base, s.Kernel.Size
	c.KDBGAt, c.KDBG = s.KDBG.At, s.KDBG.Block
	c.BugCheck, c.Memory = s.BugCheck.Values(), s.PhysicalMemory.Value
	c.System, c.PFNs = s.PsInitialSystemProcess, s.MmPfnDatabase.Value
	for _, p := range s.Processors {
		p.VCPU = 0 // follows from registers, which are of no point in time
		c.Processors = append(c.Processors, p)
	}
	var modulesErr, processesErr error
	c.Modules, modulesErr = s.Modules(ctx)
	c.Processes, processesErr = s.Processes(ctx)
	for _, err := range []error{protectedErr, modulesErr, processesErr} {
		if err != nil {
			c.Broken = append(c.Broken, err.Error())
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// Equal reports whether two readings say the same.
func (c *Core) Equal(d *Core) bool { return reflect.DeepEqual(c, d) }
