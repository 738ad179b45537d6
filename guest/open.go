package guest

import (
	"context"
	"fmt"

	"snap/phys"
)

// Open reads the Windows guest whose kernel page table and KDBG are already
// known and in plain form, as in a crash dump: root is the header's
// DirectoryTableBase and kdbg its KdDebuggerDataBlock. It searches nothing. No
// Processor of the result has a VCPU.
//
// The result's DirectoryTableBase is root; a System process that has another
// one, or can't be found, is a warning. For a finer verdict use the parts:
// FindAddressSpace, ReadKUSER, ReadKDBG and ReadImage.
//
// A kdbg of 0 is of a dump without a KDBG that could be used: then the kernel is
// looked for in what root maps, and the result is as Discover's.
func Open(ctx context.Context, mem phys.Reader, ram phys.Runs, root phys.Addr, kdbg phys.VirtAddr) (*System, error) {
	if kdbg == 0 {
		return openWithoutKDBG(ctx, mem, ram, root)
	}
	space, err := FindAddressSpace(ctx, mem, ram, root)
	if err != nil {
		return nil, err
	}
	if !ram.Has(space.Root().PFN()) {
		return nil, fmt.Errorf("page table %#x: %w", uint64(root), phys.ErrNotRAM)
	}
	k, err := ReadKDBG(ctx, space, kdbg)
	if err != nil {
		return nil, err
	}
	kernel, err := ReadImage(ctx, space, k.KernBase())
	if err != nil {
		return nil, fmt.Errorf("read the kernel image: %w", err)
	}
	if !isKernel(ctx, space.arch, kernel) {
		return nil, malformed("kernel image", kernel.Base, "neither export name nor PDB is an NT kernel's")
	}
	if err := k.check(space.arch, kernel.Size); err != nil {
		return nil, err
	}
	s := &System{
		Space: space, Kernel: kernel, KDBG: k, DirectoryTableBase: phys.Know(space.Root(), "given"), SelfMapSlot: -1,
		Witness: "given page table", KernBase: phys.Known[phys.VirtAddr]{From: "KDBG KernBase"},
	}
	if s.SelfMapSlot, err = selfMapSlot(ctx, space, &k); err != nil {
		s.warn("page table %#x: %v", uint64(root), err)
		s.SelfMapSlot = -1
	}
	if err := s.openSystemProcess(ctx); err != nil {
		s.warn("%v", err)
	}
	if err := s.fill(ctx); err != nil {
		return s, err
	}
	return s, s.fillProcessors(ctx)
}

// openWithoutKDBG is a Discover that is led by root alone.
func openWithoutKDBG(ctx context.Context, mem phys.Reader, ram phys.Runs, root phys.Addr) (*System, error) {
	given := finder{
		Finder: Finder{Name: "given page table", Cost: "reads nothing", Trust: "the caller's word"},
		find: func(_ context.Context, d *discovery, try func(candidate) bool) (string, error) {
			return offer([]candidate{{root: d.arch.pagings[0].root(uint64(root)), from: "given page table"}}, try, ""), nil
		},
	}
	return discover(ctx, mem, ram, nil, []finder{given}, Options{})
}

func (s *System) openSystemProcess(ctx context.Context) error {
	eprocess, _, err := systemProcess(ctx, s.Space, s.Kernel, &s.KDBG)
	if err != nil {
		return err
	}
	s.PsInitialSystemProcess = eprocess
	root, err := processRoot(ctx, s.Space, eprocess, &s.KDBG)
	if err != nil {
		return err
	}
	if root != s.DirectoryTableBase.Value {
		return malformed("System process", eprocess, "its page table is %#x, not %#x",
			uint64(root), uint64(s.DirectoryTableBase.Value))
	}
	return nil
}
