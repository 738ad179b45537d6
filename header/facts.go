package header

import "snap/guest/phys"

// Facts is what a header says about a guest. The caller fills it from the
// guest's memory; the package has no other source.
type Facts struct {
	Machine Machine // MachineAMD64 or MachineI386

	// NtBuildNumber is the kernel variable of that name with its flags: the
	// build number in the low 16 bits, 0xF (free) or 0xC (checked) in the top four.
	NtBuildNumber uint32

	// DirectoryTableBase is the System process's, as KPROCESS holds it. Bits
	// that are no part of the address are cleared.
	DirectoryTableBase phys.Addr

	PAE bool // MachineI386 only: paging uses PAE

	// Kernel virtual addresses. On MachineI386 they may be sign-extended, as
	// in the KDBG, or zero-extended.
	PfnDatabase         phys.VirtAddr // value of MmPfnDatabase, 0 if unknown
	PsLoadedModuleList  phys.VirtAddr // of the list head
	PsActiveProcessHead phys.VirtAddr // of the list head
	KdDebuggerDataBlock phys.VirtAddr // where the dump's memory will hold the decoded KDBG

	NumberProcessors uint32 // active processors of all groups, 1 to MaxProcessors

	// Runs is the memory that will follow the header, in file order:
	// ascending, disjoint, at most MaxRuns (MaxRuns32 on MachineI386). It is
	// copied.
	Runs []phys.Run

	// BugCheckCode and BugCheckParameter: KiBugcheckData of a guest that has
	// crashed, else BugCheckLiveSystemDump or another code and any parameters.
	BugCheckCode      uint32
	BugCheckParameter [4]uint64

	SystemTime   uint64 // FILETIME, UTC: KUSER_SHARED_DATA.SystemTime
	SystemUpTime uint64 // units of 100 ns: KUSER_SHARED_DATA.InterruptTime
	ProductType  uint32 // KUSER_SHARED_DATA.NtProductType
	SuiteMask    uint32 // KUSER_SHARED_DATA.SuiteMask
	BootID       uint32 // KUSER_SHARED_DATA.BootId, 0 where Windows is too old to have one

	// Comment is printable ASCII of at most MaxComment characters; empty
	// leaves the field unset.
	Comment string

	// Context is the CONTEXT of the processor that a debugger shows first, as
	// ContextAMD64 or ContextI386 makes it. Nil leaves the area zero, which is
	// what the kernel's routine does. It is copied.
	Context []byte
}
