package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"snap/phys"
)

// What is known of EPROCESS without symbols.
const (
	// processObject is DISPATCHER_HEADER.Type of a process (KOBJECTS, ntddk.h
	// and public ntkrnlmp symbols).
	processObject = 3
	systemPID     = 4

	imageFileNameSize = 15
	maxEProcess       = 0x2000 // SizeEProcess of known kernels is 0x258 to 0xC80
	minEProcess       = 0x200
	maxProcesses      = 1 << 16
)

// agreesWithExports checks a KDBG against the kernel's export of
// PsLoadedModuleList, and reports whether that can be read.
func agreesWithExports(ctx context.Context, kernel *Image, k *KDBG) (exported bool, err error) {
	at, err := kernel.Export(ctx, "PsLoadedModuleList")
	if err != nil {
		return false, ctx.Err() // older kernels don't have it, and it may be paged out
	}
	if got := k.va(kdbgPsLoadedModuleList); got != at {
		return true, malformed("KDBG", k.At, "PsLoadedModuleList is %#x, but the kernel exports it at %#x",
			uint64(got), uint64(at))
	}
	return true, nil
}

// eprocessSize returns SizeEProcess, as far as it is credible.
func (k *KDBG) eprocessSize() int {
	if n := k.offset(kdbgSizeEProcess, 0); n >= minEProcess && n <= maxEProcess {
		return n
	}
	return maxEProcess
}

// systemProcess returns the EPROCESS of System and what led to it.
func systemProcess(ctx context.Context, space *AddressSpace, kernel *Image, k *KDBG) (phys.VirtAddr, string, error) {
	p, from, exportErr := exportedProcess(ctx, space, kernel)
	if exportErr == nil {
		return p, from, nil
	}
	p, err := firstProcess(ctx, space, k.va(kdbgPsActiveProcessHead), k)
	if err != nil {
		return 0, "", errors.Join(exportErr, err)
	}
	return p, "PsActiveProcessHead", nil
}

// exportedProcess returns the EPROCESS of System that the kernel exports.
func exportedProcess(ctx context.Context, space *AddressSpace, kernel *Image) (phys.VirtAddr, string, error) {
	const name = "PsInitialSystemProcess"
	at, err := kernel.Export(ctx, name)
	if err != nil {
		return 0, "", err
	}
	p, err := readVA(ctx, space, name, at)
	if err == nil {
		err = alignedPointer(space, name, p)
	}
	return p, name, err
}

// firstProcess returns the EPROCESS of System by the list of processes at head,
// which it is the first of. The list links its middle; its start is where there is
// the header of a process object and a page table that maps itself.
func firstProcess(ctx context.Context, space *AddressSpace, head phys.VirtAddr, k *KDBG) (phys.VirtAddr, error) {
	const what = "PsActiveProcessHead"
	link, err := readKernelVariable(ctx, space, what, head)
	if err != nil {
		return 0, err
	}
	if err := alignedPointer(space, what, link); err != nil {
		return 0, err
	}
	size := k.eprocessSize()
	buf := make([]byte, size)
	start := link - phys.VirtAddr(size)
	if _, err := readSparse(ctx, space, buf, start); err != nil {
		return 0, err
	}
	var found []phys.VirtAddr
	for off := 0; off < size; off += space.arch.pointer {
		if buf[off] != processObject {
			continue
		}
		at := start + phys.VirtAddr(off)
		root, err := processRoot(ctx, space, at, k)
		if err != nil {
			continue
		}
		if _, err := selfMapSlot(ctx, space.at(root), k); err == nil {
			found = append(found, at)
		}
	}
	if len(found) != 1 {
		return 0, malformed(what, link, "%d places before it may be a process, not one", len(found))
	}
	return found[0], nil
}

// processRoot returns the page table of a process.
func processRoot(ctx context.Context, space *AddressSpace, eprocess phys.VirtAddr, k *KDBG) (phys.Addr, error) {
	at := eprocess + phys.VirtAddr(k.offset(kdbgOffsetEprocessDirectoryTableBase, space.arch.layout.kprocessDirectoryTableBase))
	v, err := readVA(ctx, space, "DirectoryTableBase", at)
	if err != nil {
		return 0, err
	}
	root := space.paging.root(uint64(v))
	if root == 0 || !space.ram.Has(root.PFN()) {
		return 0, fmt.Errorf("DirectoryTableBase %#x at %#x: %w", uint64(v), uint64(at), phys.ErrNotRAM)
	}
	return root, nil
}

// processLayout is where in an EPROCESS things are, as System's shows.
type processLayout struct {
	links int // ActiveProcessLinks
	pid   int // UniqueProcessId
	name  int // ImageFileName
}

// processLayout works the layout out from System's EPROCESS: it is the first
// in the list, its id is 4, and it is called System. UniqueProcessId is right
// before ActiveProcessLinks in every Windows.
func (s *System) processLayout(ctx context.Context) (processLayout, error) {
	const what = "EPROCESS of System"
	first, err := readVA(ctx, s.Space, "PsActiveProcessHead", s.PsActiveProcessHead.Value)
	if err != nil {
		return processLayout{}, err
	}
	size := s.KDBG.eprocessSize()
	arch := s.Space.arch
	word := int64(arch.pointer)
	links := int64(first - s.PsInitialSystemProcess)
	if links < word || links > int64(size-arch.ListEntrySize()) || links%word != 0 {
		return processLayout{}, malformed(what, s.PsInitialSystemProcess,
			"the first process, %#x, is not it", uint64(first))
	}
	r := &record{arch: arch, what: what, at: s.PsInitialSystemProcess, b: make([]byte, size)}
	if _, err := readSparse(ctx, s.Space, r.b, r.at); err != nil {
		return processLayout{}, err
	}
	l := processLayout{links: int(links), pid: int(links - word)}
	if pid := r.word(l.pid); pid != systemPID {
		return processLayout{}, malformed(what, r.at, "its process id is %d", pid)
	}
	name := make([]byte, imageFileNameSize)
	copy(name, "System")
	if l.name = bytes.Index(r.b, name); l.name < 0 {
		return processLayout{}, malformed(what, r.at, "no image file name in its %#x bytes", size)
	}
	return l, nil
}

// Processes walks nt!PsActiveProcessHead. On a broken list it returns what it
// read so far and an error.
func (s *System) Processes(ctx context.Context) ([]Process, error) {
	if s.PsInitialSystemProcess == 0 {
		return nil, fmt.Errorf("EPROCESS of System: %w", ErrNotFound)
	}
	l, err := s.processLayout(ctx)
	if err != nil {
		return nil, err
	}
	dtb := s.KDBG.offset(kdbgOffsetEprocessDirectoryTableBase, s.Space.arch.layout.kprocessDirectoryTableBase)
	size := max(l.links, l.name+imageFileNameSize, dtb+8)
	var out []Process
	err = walkList(ctx, s.Space, "PsActiveProcessHead", s.PsActiveProcessHead.Value, maxProcesses, func(entry phys.VirtAddr) error {
		at := entry - phys.VirtAddr(l.links)
		r, err := readRecord(ctx, s.Space, "EPROCESS", at, size)
		if err != nil {
			return err
		}
		out = append(out, Process{
			EPROCESS:           at,
			PID:                r.word(l.pid),
			Name:               cString(r.bytes(l.name, imageFileNameSize)),
			DirectoryTableBase: s.Space.paging.root(r.word(dtb)),
		})
		return r.err
	})
	return out, err
}
