package guest

import (
	"context"
	"reflect"

	"snap/phys"
)

// Metadata is what one reading of a guest's kernel metadata says, the pages that a
// debugger can't do without: all that has to be the same in two readings for them
// to agree, but for the entries of page tables, which Paging.SameTable compares. A
// program that reads a running guest reads them until two readings agree, see
// Equal.
type Metadata struct {
	Pages  phys.Runs // all of them: what Protected returns
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

// MetadataOf returns a Metadata that says nothing but which pages it is on, from
// what Protected returned.
func MetadataOf(protected []ProtectedPages) *Metadata {
	c := new(Metadata)
	for _, p := range protected {
		if p.Reason == ProtectedPageTable {
			c.Tables = p.Pages
		}
		c.Pages = c.Pages.Union(p.Pages)
	}
	return c
}

// ReadMetadata reads a guest's kernel metadata from mem, of which only ram is read.
// The errors are those of Discover, and that of ctx.
func ReadMetadata(ctx context.Context, mem phys.Reader, ram phys.Runs, cpus []phys.Registers) (*Metadata, error) {
	sys, err := Discover(ctx, mem, ram, cpus)
	if err != nil {
		return nil, err
	}
	return sys.metadata(ctx)
}

// metadata reads the rest.
func (s *System) metadata(ctx context.Context) (*Metadata, error) {
	protected, protectedErr := s.Protected(ctx)
	c := MetadataOf(protected)
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
func (c *Metadata) Equal(d *Metadata) bool { return reflect.DeepEqual(c, d) }
