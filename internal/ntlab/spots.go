package ntlab

import (
	"fmt"

	"snap/phys"
)

// Spot is a structure of an image, or a part of one, by its name: where a fuzzer
// edits. Spots of virtual memory are mapped by the System process's tables as the
// image was built.
type Spot struct {
	Name string
	VA   phys.VirtAddr // 0 for page tables
	PA   phys.Addr     // of the first byte
	Size uint64        // bytes, within a page
}

// Spots returns the structures of the image that decide what a reader finds, in an
// order that is the same for all images of a profile and number of levels.
func (im *Image) Spots() []Spot {
	s := &spots{im: im}
	t := &im.Truth
	s.virtual("KUSER_SHARED_DATA", kuserKernel, 0x3D0)
	s.virtual("kernel headers", t.KernelBase, 0x400)
	exports := t.KernelBase + im.deref(t.KernelBase+peExports)&0xffffffff
	s.virtual("export directory", exports, 0x400)
	s.virtual("debug directory", t.KernelBase+im.deref(t.KernelBase+peDebug)&0xffffffff, 0x40)
	s.virtual("KDBG", t.KDBG, uint64(len(t.KDBGPlain)))
	for _, name := range []string{
		"PsLoadedModuleList", "PsActiveProcessHead", "KiBugCheckData", "PsInitialSystemProcess", "NtBuildNumber",
		"MmPfnDatabase", "MmPhysicalMemoryBlock", "KiProcessorBlock", "KdpDebuggerDataListHead",
	} {
		s.virtual(name, im.symbols[name], 0x40)
	}
	s.virtual("the list of memory", im.symbols["*MmPhysicalMemoryBlock"], 0x50)
	for i := range min(4, len(t.Processors)) {
		p := &t.Processors[i]
		s.virtual(fmt.Sprintf("KPCR %d", i), p.KPCR, 0x280)
		s.virtual(fmt.Sprintf("KPRCB %d", i), p.KPRCB+phys.VirtAddr(im.contextField()), 0x40)
		s.virtual(fmt.Sprintf("CONTEXT %d", i), p.Context, 0x100)
	}
	for i := range min(5, len(t.Processes)) {
		s.virtual(fmt.Sprintf("EPROCESS %d", i), t.Processes[i].EPROCESS, 0x600)
	}
	entry := t.PsLoadedModuleList
	for i := range min(5, len(t.Modules)) {
		entry = im.deref(entry)
		s.virtual(fmt.Sprintf("module %d", i), entry, ldrEntrySize)
	}
	s.physical("top-level table", t.DirectoryTableBase+phys.PageSize/2, phys.PageSize/2)
	for _, va := range []struct {
		of string
		va phys.VirtAddr
	}{
		{"the kernel", t.KernelBase},
		{"KUSER_SHARED_DATA", kuserKernel},
		{"System", t.SystemProcess},
		{"the KDBG", t.KDBG},
	} {
		for level := im.levels() - 1; level > 0; level-- {
			if at, ok := im.EntryAddr(va.va, level); ok {
				s.physical(fmt.Sprintf("entry of level %d for %s", level, va.of), at, 8)
			}
		}
	}
	if t.LowStub != 0 {
		s.physical("low stub", t.LowStub, 0x100)
	}
	return s.list
}

// contextField returns where in a KPRCB the pointer to its context is, 0 where there
// is none.
func (im *Image) contextField() uint32 {
	p, err := findProfile(im.Config.Profile)
	if err != nil {
		return 0
	}
	return p.processor.contextPointer
}

type spots struct {
	im   *Image
	list []Spot
}

// virtual adds n bytes at va, a spot for each page.
func (s *spots) virtual(name string, va phys.VirtAddr, n uint64) {
	for n > 0 {
		size := min(n, phys.PageSize-va.Offset())
		if at, ok := s.im.Translate(va); ok && s.im.ram.Has(at.PFN()) {
			s.list = append(s.list, Spot{Name: name, VA: va, PA: at, Size: size})
		}
		va += phys.VirtAddr(size)
		n -= size
	}
}

func (s *spots) physical(name string, at phys.Addr, n uint64) {
	s.list = append(s.list, Spot{Name: name, PA: at, Size: n})
}
