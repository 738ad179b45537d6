package guest

import (
	"fmt"

	"snap/phys"
)

// System is a Windows guest as its memory describes it: all that a dump header
// says, each value with its origin, and the roots from which more can be read.
// Its fields are read once, by Discover or Open; its methods read the guest's
// memory anew. It is safe for concurrent use as long as nobody changes the
// fields.
type System struct {
	Arch          *Arch
	Machine       phys.Known[uint16] // IMAGE_FILE_MACHINE of the kernel image
	NtBuildNumber phys.Known[uint32] // nt!NtBuildNumber: build in the low 16 bits, 0xF or 0xC (free, checked) in the top 4

	// DirectoryTableBase is the physical address of the System process's
	// top-level page table, without PCID and flags.
	DirectoryTableBase phys.Known[phys.Addr]
	// Witness says what led to the guest's page tables, such as "vCPU 2 CR3".
	Witness string
	// Attempts are what Discover tried, in order, the last of them successfully:
	// at most 17, of which those between the first 16 and the last are left out.
	Attempts []Attempt
	// SelfMapSlot is the index of the top-level page table's entry for itself.
	SelfMapSlot int
	// Space translates by DirectoryTableBase.
	Space *AddressSpace

	Kernel   *Image
	KernBase phys.Known[phys.VirtAddr] // Kernel.Base, with what led to it

	// KDBG has no Block where none can be used: then it is among Lacks.
	KDBG                KDBG
	KdDebuggerDataBlock phys.Known[phys.VirtAddr] // KDBG.At, with how the block was found; 0 for none

	KUSER        KUSER
	SystemTime   phys.Known[uint64] // FILETIME: 100 ns units since 1601-01-01 UTC
	SystemUpTime phys.Known[uint64] // since boot, in 100 ns units
	ProductType  phys.Known[uint32] // 1 workstation, 2 domain controller, 3 server
	SuiteMask    phys.Known[uint32]
	BootID       phys.Known[uint32] // 0 where Windows is too old to have one

	PsLoadedModuleList     phys.Known[phys.VirtAddr] // list head
	PsActiveProcessHead    phys.Known[phys.VirtAddr] // list head
	PsInitialSystemProcess phys.VirtAddr             // EPROCESS of System

	MmPfnDatabase   phys.Known[phys.VirtAddr] // value of nt!MmPfnDatabase
	MmPfnDatabaseAt phys.VirtAddr             // address of the variable

	// PhysicalMemory is nt!MmPhysicalMemoryBlock as far as it lies in the RAM
	// map, ascending and disjoint; nil where the block can't be used, and then
	// a warning says why. DumpMemory says what to do then.
	PhysicalMemory phys.Known[[]phys.Run]
	// PhysicalMemoryOutside is how many pages the block claims beyond the RAM map.
	PhysicalMemoryOutside uint64

	// Published is what became of Options.Published, nil if it is empty.
	Published *Published

	// BugCheck is nt!KiBugcheckData.
	BugCheck BugCheck

	Processors []Processor // by Windows processor number
	// NumberProcessors is how many of them are sound: the length of Processors, or
	// what the guest says where none is, which is among Lacks.
	NumberProcessors phys.Known[uint32]

	// Lacks are what could not be read of what debuggers need: a dump of the guest is
	// degraded by it. Warnings have them too.
	Lacks []Lack
	// Warnings are what was found odd and could be worked around.
	Warnings []string
}

// Lack is something that debuggers need and that could not be read.
type Lack struct {
	What  string // in a few words
	Means string // in sentences: why, and what debuggers can't do
}

// BugCheck is why Windows stopped: all zero while the guest runs, and without
// an origin where it can't be read.
type BugCheck struct {
	Code      phys.Known[uint64]
	Parameter [4]phys.Known[uint64]
}

// Values returns the code and the parameters in the order in which the kernel
// has them.
func (b BugCheck) Values() [5]uint64 {
	p := &b.Parameter
	return [5]uint64{b.Code.Value, p[0].Value, p[1].Value, p[2].Value, p[3].Value}
}

// Build returns the build number without flags, such as 19045.
func (s *System) Build() uint32 { return s.NtBuildNumber.Value & 0xffff }

// Name returns the guest's Windows in a few words, such as "Windows 10.0.19045"
// or "Windows Server 6.3.9600".
func (s *System) Name() string {
	kind := "Windows"
	if s.ProductType.Value == 2 || s.ProductType.Value == 3 {
		kind = "Windows Server"
	}
	return fmt.Sprintf("%s %d.%d.%d", kind, s.KUSER.NtMajorVersion, s.KUSER.NtMinorVersion, s.Build())
}

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
