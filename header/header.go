package header

import (
	"snap/phys"
)

// Header is a dump header of either width. Fields hold what the bytes hold: an
// integer that nobody set is Unset32, or Unset64 where it has 8 bytes, and
// [Header.IsSet] tells. In a 32-bit header addresses are zero-extended.
//
// A decoded Header keeps the bytes it came from, so that reserved areas,
// padding and what follows a text survive Encode.
type Header struct {
	Width Width

	Signature           uint32
	ValidDump           uint32
	MajorVersion        uint32        // 0xF free build, 0xC checked build
	MinorVersion        uint32        // build number
	DirectoryTableBase  phys.Addr     // top-level page table of the System process, as stored: low bits may be set
	PfnDataBase         phys.VirtAddr // value of MmPfnDatabase; some writers store the variable's address
	PsLoadedModuleList  phys.VirtAddr // of the list head
	PsActiveProcessHead phys.VirtAddr // of the list head
	MachineImageType    Machine
	NumberProcessors    uint32 // active processors of all groups
	BugCheckCode        uint32
	BugCheckParameter   [4]uint64
	VersionUser         string // up to the first NUL, "" if not set
	PaeEnabled          uint8  // 32-bit only: 1 with PAE paging
	KdSecondaryVersion  uint8
	KdDebuggerDataBlock phys.VirtAddr // of KDDEBUGGER_DATA64

	// Runs is the physical memory in file order: ascending, disjoint. It is
	// nil where the descriptor holds none, as in triage and bitmap dumps.
	Runs          []phys.Run
	NumberOfPages uint64 // sum of the runs in a full dump

	ContextRecord   []byte // the whole area, longer than any CONTEXT
	ExceptionRecord ExceptionRecord

	DumpType           DumpType
	RequiredDumpSpace  uint64 // bytes
	SystemTime         uint64 // FILETIME, UTC
	SystemUpTime       uint64 // units of 100 ns
	Comment            string // up to the first NUL, "" if not set
	MiniDumpFields     uint32
	SecondaryDataState uint32
	ProductType        uint32 // 1 workstation, 2 domain controller, 3 server
	SuiteMask          uint32
	WriterStatus       uint32
	Attributes         uint32
	BootID             uint32

	raw  []byte            // the image that Encode writes over; nil stands for 'PAGE' everywhere
	from map[string]string // by field, where its value in raw comes from; only of a header that was made
}

// ExceptionRecord is EXCEPTION_RECORD64, or EXCEPTION_RECORD32 zero-extended
// (winnt.h).
type ExceptionRecord struct {
	ExceptionCode        uint32
	ExceptionFlags       uint32
	ExceptionRecord      phys.VirtAddr // of a nested record, 0 for none
	ExceptionAddress     phys.VirtAddr
	NumberParameters     uint32
	ExceptionInformation [15]uint64
}
