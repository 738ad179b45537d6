package guest

import (
	"encoding/binary"
	"fmt"

	"snap/phys"
)

// Published is a dump header that the guest itself made and handed to its hypervisor, as
// virtio-win's FwCfg driver does by QEMU's vmcoreinfo device (QEMU docs/specs/vmcoreinfo.rst
// and dump/win_dump.c). It is of when the driver started. It is the guest's word and no
// more: what was found is found without believing it.
type Published struct {
	// Err says why it could not be used; then the rest is empty.
	Err error
	// Differs are sentences on what it says otherwise than the guest's memory.
	Differs []string
}

// Offsets in DUMP_HEADER64 (QEMU include/qemu/win_dump_defs.h).
const (
	publishedSize        = 0x2000
	publishedSignature   = 0x00
	publishedBuild       = 0x0C
	publishedTable       = 0x10
	publishedPFNDatabase = 0x18
	publishedModules     = 0x20
	publishedProcesses   = 0x28
	publishedMachine     = 0x30
	publishedProcessors  = 0x34
	publishedKDBG        = 0x80
	publishedPages       = 0x90

	publishedMark = "PAGEDU64"
)

// publishedHeader is what of a published header leads into the guest.
type publishedHeader struct {
	table                                 uint64
	pfnDatabase, modules, processes, kdbg phys.VirtAddr
	build, machine, processors            uint32
	pages                                 uint64
}

// readPublished reads the descriptor of a note. Nothing in it is believed yet.
func readPublished(note []byte) (*publishedHeader, error) {
	if len(note) != publishedSize {
		return nil, fmt.Errorf("%w: a note of %d bytes; a dump header of 64-bit Windows has %d", ErrMalformed, len(note), publishedSize)
	}
	if mark := note[publishedSignature : publishedSignature+len(publishedMark)]; string(mark) != publishedMark {
		return nil, fmt.Errorf("%w: it begins with %q, not %q", ErrMalformed, mark, publishedMark)
	}
	le := binary.LittleEndian
	at := func(off int) phys.VirtAddr { return phys.VirtAddr(le.Uint64(note[off:])) }
	return &publishedHeader{
		table: le.Uint64(note[publishedTable:]), pfnDatabase: at(publishedPFNDatabase),
		modules: at(publishedModules), processes: at(publishedProcesses), kdbg: at(publishedKDBG),
		build: le.Uint32(note[publishedBuild:]), machine: le.Uint32(note[publishedMachine:]),
		processors: le.Uint32(note[publishedProcessors:]), pages: le.Uint64(note[publishedPages:]),
	}, nil
}

// comparePublished holds what the guest published against what was found.
func (s *System) comparePublished(note []byte) {
	if len(note) == 0 {
		return
	}
	p := &Published{}
	s.Published = p
	h, err := readPublished(note)
	if err != nil {
		p.Err = err
		s.warn("the guest published no dump header that could be used: %v", err)
		return
	}
	differ := func(field string, published, found uint64) {
		if published != found {
			p.Differs = append(p.Differs, fmt.Sprintf("%s is %#x; found was %#x", field, published, found))
		}
	}
	differ("DirectoryTableBase", uint64(s.Space.paging.root(h.table)), uint64(s.DirectoryTableBase.Value))
	differ("PsLoadedModuleList", uint64(h.modules), uint64(s.PsLoadedModuleList.Value))
	differ("PsActiveProcessHead", uint64(h.processes), uint64(s.PsActiveProcessHead.Value))
	if s.KdDebuggerDataBlock.Value != 0 {
		differ("KdDebuggerDataBlock", uint64(h.kdbg), uint64(s.KdDebuggerDataBlock.Value))
	}
	// Kernels write the variable's value or its address.
	if v := s.MmPfnDatabase.Value; v != 0 && h.pfnDatabase != s.MmPfnDatabaseAt {
		differ("PfnDataBase", uint64(h.pfnDatabase), uint64(v))
	}
	differ("MinorVersion", uint64(h.build), uint64(s.Build()))
	differ("MachineImageType", uint64(h.machine), uint64(s.Machine.Value))
	differ("NumberProcessors", uint64(h.processors), uint64(len(s.Processors)))
	if runs := phys.Runs(s.PhysicalMemory.Value); len(runs) > 0 {
		differ("NumberOfPages", h.pages, runs.Pages()+s.PhysicalMemoryOutside)
	}
	for _, d := range p.Differs {
		s.warn("the header that the guest published when its driver started differs from what it is now: %s", d)
	}
}
