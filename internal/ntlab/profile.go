package ntlab

import (
	"fmt"
	"slices"
)

// profile is one Windows generation as data: what differs between kernels as
// far as somebody who reads their memory can tell.
type profile struct {
	row                 *kernelRow // that it is made of; nil if it was written by hand
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

	selectors kdbgSelectors
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
	numberSize        int    // 1: a byte, 4: a dword
	group             uint32 // KPRCB.Group, 0: not set
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

// kdbgSelectors are what a KDBG says of the GDT, and where a KPCR has its own address.
type kdbgSelectors struct {
	kernelCode, kernelData, userCode, userData, tss, compatCode, compatTEB uint16
	pcrSelf                                                                uint16
}

// kuserLayout says which of KUSER_SHARED_DATA's later fields there are.
type kuserLayout struct {
	size           uint32 // sizeof, 0: what is beyond the last field is left zero
	buildNumber    bool   // NtBuildNumber at 0x260
	bootID         bool   // BootId at 0x2C4
	processorCount bool   // ActiveProcessorCount at 0x3C0
}

var profiles = []*profile{&win10, &ws2003}

// Profiles returns the names of the two profiles that were written by hand in full:
// the newest and the oldest that differ most.
func Profiles() []string {
	out := make([]string, len(profiles))
	for i, p := range profiles {
		out[i] = p.name
	}
	return out
}

// Generations returns the names of the profiles that are made of the tables in
// testdata/windows, one or two for each generation of 64-bit Windows, the oldest
// first. Config.Profile may have any of them, of Generations32 and of Profiles.
func Generations() []string { return rowsFor(false) }

// Generations32 is Generations of 32-bit Windows.
func Generations32() []string { return rowsFor(true) }

func rowsFor(x86 bool) []string {
	var out []string
	for i := range kernelRows {
		if kernelRows[i].x86 == x86 {
			out = append(out, kernelRows[i].profile)
		}
	}
	return out
}

func findProfile(name string) (*profile, error) {
	if i := slices.IndexFunc(profiles, func(p *profile) bool { return p.name == name }); i >= 0 {
		return profiles[i], nil
	}
	if i := slices.IndexFunc(kernelRows, func(k kernelRow) bool { return k.profile == name }); i >= 0 {
		return profileOf(&kernelRows[i]), nil
	}
	if name == Unknown {
		k := unknownRow()
		return profileOf(&k), nil
	}
	return nil, fmt.Errorf("no profile %q; there are %v", name, slices.Concat(Profiles(), Generations(), Generations32()))
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
