package ntlab

import (
	"fmt"
	"slices"
)

// profile is one Windows generation as data: what differs between kernels as
// far as somebody who reads their memory can tell.
type profile struct {
	name                string
	major, minor, build uint32
	productType         uint32 // KUSER_SHARED_DATA.NtProductType
	suiteMask           uint32
	buildLab            string // NtBuildLab
	userLimit           uint64 // end of user address space
	systemStart         uint64 // MmSystemRangeStart
	processes           []string

	sizeOfImage uint32
	sections    []section
	kernelBase  uint64 // fixed image base, 0: random and 2 MiB aligned
	largePages  bool   // the kernel is mapped by 2 MiB pages
	moduleBase  uint64 // where drivers load, 0: beside the kernel
	modules     []moduleSpec
	exports     []string // routines, besides those that every kernel has
	dataExports []string // variables, likewise

	selfMapSlot int  // fixed PML4 self-map slot, 0: random
	fixedLayout bool // system address space regions lie where they always do
	lowStub     bool // PROCESSOR_START_BLOCK stays in low memory
	swizzle     bool // the software entries carry the L1TF swizzle bit

	kdbg      kdbgLayout
	encrypts  bool // the KDBG is kept encoded unless a debugger was enabled
	processor processorLayout
	process   processLayout
	thread    threadLayout
	kuser     kuserLayout
}

// section is a section of the kernel image as it is mapped.
type section struct {
	name      string
	rva, size uint32
	flags     uint32
}

// moduleSpec is a driver to load.
type moduleSpec struct {
	path string // FullDllName; the base name is its last element
	size uint32
}

// processLayout holds offsets in EPROCESS, bytes.
type processLayout struct {
	size               uint32
	directoryTableBase uint32
	userDirectoryTable uint32 // 0: this kernel has none
	uniqueProcessID    uint32
	links              uint32 // ActiveProcessLinks
	peb                uint32
	parentID           uint32
	imageFileName      uint32
	createTime         uint32
	threadListHead     uint32
	objectType         byte // DISPATCHER_HEADER.Type
}

// threadLayout holds offsets in ETHREAD, bytes.
type threadLayout struct {
	size, initialStack, stackLimit, kernelStack, stackBase uint32
	apcProcess, teb, state                                 uint32
	nextProcessor                                          uint32
}

// processorLayout holds offsets in KPCR and KPRCB, bytes.
type processorLayout struct {
	sizePCR, sizePRCB uint32
	containedPRCB     uint32
	number            uint32
	numberSize        int // 1: a byte, 4: a dword
	specialRegisters  uint32
	stateContext      uint32 // the CONTEXT in ProcessorState
	contextPointer    uint32 // KPRCB.Context, 0: no such field
	vendorString      uint32
	mhz               uint32
	kernelDTB         uint32 // KernelDirectoryTableBase, 0: none
	maxProcessors     int    // entries of KiProcessorBlock
	cr4               uint64
	// bootPCRInImage: processor 0's KPCR is a variable of the kernel image.
	bootPCRInImage bool
}

// kuserLayout says which of KUSER_SHARED_DATA's later fields there are.
type kuserLayout struct {
	buildNumber    bool // NtBuildNumber at 0x260
	bootID         bool // BootId at 0x2C4
	processorCount bool // ActiveProcessorCount at 0x3C0
}

var profiles = []*profile{&win10, &ws2003}

// Profiles returns the names that Config.Profile may have.
func Profiles() []string {
	out := make([]string, len(profiles))
	for i, p := range profiles {
		out[i] = p.name
	}
	return out
}

func findProfile(name string) (*profile, error) {
	i := slices.IndexFunc(profiles, func(p *profile) bool { return p.name == name })
	if i < 0 {
		return nil, fmt.Errorf("no profile %q; there are %v", name, Profiles())
	}
	return profiles[i], nil
}

// section returns the section of that name, which the profile must have.
func (p *profile) section(name string) section {
	for _, s := range p.sections {
		if s.name == name {
			return s
		}
	}
	panic("ntlab: internal error: profile " + p.name + " has no section " + name)
}

// hasSection reports whether the profile has a section of that name.
func (p *profile) hasSection(name string) bool {
	return slices.ContainsFunc(p.sections, func(s section) bool { return s.name == name })
}
