package guest

import (
	"snap/phys"
)

// System is a Windows guest as its memory describes it: all that a dump header
// says, and the roots from which more can be read. Its fields are read once,
// by Discover or Open; its methods read the guest's memory anew. It is safe for
// concurrent use as long as nobody changes the fields.
type System struct {
	Arch          uint16 // IMAGE_FILE_MACHINE of the kernel image
	NtBuildNumber uint32 // nt!NtBuildNumber: build in the low 16 bits, 0xF or 0xC (free, checked) in the top 4

	// DirectoryTableBase is the physical address of the System process's
	// top-level page table, without PCID and flags.
	DirectoryTableBase phys.Addr
	// Witness says what led to the guest's page tables, such as "vCPU 2 CR3".
	Witness string
	// SelfMapSlot is the index of the top-level page table's entry for itself.
	SelfMapSlot int
	// Space translates by DirectoryTableBase.
	Space *AddressSpace

	Kernel *Image
	KDBG   KDBG
	KUSER  KUSER

	PsLoadedModuleList     phys.VirtAddr // list head
	PsActiveProcessHead    phys.VirtAddr // list head
	PsInitialSystemProcess phys.VirtAddr // EPROCESS of System

	MmPfnDatabase   phys.VirtAddr // value of nt!MmPfnDatabase
	MmPfnDatabaseAt phys.VirtAddr // address of the variable

	// PhysicalMemory is nt!MmPhysicalMemoryBlock as far as it lies in the RAM
	// map, ascending and disjoint; nil where the block can't be used, and then
	// a warning says why.
	PhysicalMemory []phys.Run
	// PhysicalMemoryOutside is what the block claims beyond the RAM map.
	PhysicalMemoryOutside []phys.Run

	// BugCheck is nt!KiBugcheckData: the code and its four parameters, all zero
	// while the guest runs.
	BugCheck [5]uint64

	Processors []Processor // by Windows processor number

	// Warnings are what was found odd and could be worked around.
	Warnings []string
	// Origins names, by dump header field, where its value comes from.
	Origins map[string]string
}

// Build returns the build number without flags, such as 19045.
func (s *System) Build() uint32 { return s.NtBuildNumber & 0xffff }

// Processor is one active processor as Windows knows it.
type Processor struct {
	Number int           // Windows' processor number, over all groups
	PRCB   phys.VirtAddr // KPRCB
	KPCR   phys.VirtAddr
	// ContextAt is where a debugger looks for the processor's CONTEXT in a
	// dump: 0 if no usable address was found.
	ContextAt phys.VirtAddr
	// VCPU is the index, in the registers given to Discover, of the virtual
	// processor that is this one; -1 if none could be told.
	VCPU int
}

// Module is an entry of nt!PsLoadedModuleList.
type Module struct {
	Entry      phys.VirtAddr // KLDR_DATA_TABLE_ENTRY
	Base       phys.VirtAddr
	Size       uint32 // bytes
	EntryPoint phys.VirtAddr
	Name       string // BaseDllName; empty if its text isn't in memory
	Path       string // FullDllName; empty if its text isn't in memory
}

// Process is an entry of nt!PsActiveProcessHead.
type Process struct {
	EPROCESS           phys.VirtAddr
	PID                uint64
	Name               string // ImageFileName, at most 15 bytes
	DirectoryTableBase phys.Addr
}
