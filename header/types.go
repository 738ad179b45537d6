package header

import (
	"fmt"
	"time"

	"snap/phys"
)

// Width is the size of a kernel pointer in a header, in bits.
type Width int

// The two layouts of a dump header.
const (
	Width32 Width = 32 // DUMP_HEADER32
	Width64 Width = 64 // DUMP_HEADER64
)

// Address returns the canonical form of a kernel virtual address that a header of width
// w holds: of 32 bits, it is sign-extended.
func (w Width) Address(a phys.VirtAddr) phys.VirtAddr {
	if w == Width32 {
		return phys.VirtAddr(int64(int32(a)))
	}
	return a
}

// Sizes of a header in bytes; in a dump of type DumpTypeFull the first page of
// memory follows at once.
const (
	Size32 = 0x1000
	Size64 = 0x2000
)

// Size returns the number of bytes in a header of width w, 0 for a width that
// does not exist.
func (w Width) Size() int {
	switch w {
	case Width32:
		return Size32
	case Width64:
		return Size64
	}
	return 0
}

// Magic words of a header, as little-endian integers.
const (
	Signature   uint32 = 0x45474150 // 'PAGE', the first word of every header
	ValidDump64 uint32 = 0x34365544 // 'DU64', second word of a DUMP_HEADER64
	ValidDump32 uint32 = 0x504D5544 // 'DUMP', second word of a DUMP_HEADER32
)

// validDump returns the second word of a header of width w.
func (w Width) validDump() uint32 {
	if w == Width32 {
		return ValidDump32
	}
	return ValidDump64
}

// What an integer field holds that nobody has set: Windows fills the header
// with 'PAGE' first.
const (
	Unset32 uint32 = 0x45474150
	Unset64 uint64 = 0x4547415045474150
)

// DumpType says what a dump file holds and where (the DUMP_TYPE constants of
// the dump header; names of 8 to 10 from kdmp-parser).
type DumpType uint32

// Dump types. Those without a comment of their own are files that some
// Windows or debugger writes.
const (
	DumpTypeInvalid             DumpType = 0xFFFFFFFF
	DumpTypeUnknown             DumpType = 0
	DumpTypeFull                DumpType = 1 // runs of pages right after the header
	DumpTypeSummary             DumpType = 2 // kernel dump before Windows 8
	DumpTypeHeader              DumpType = 3 // no memory at all
	DumpTypeTriage              DumpType = 4 // minidump
	DumpTypeBitmapFull          DumpType = 5 // bitmap of pages, 'FDMP'
	DumpTypeBitmapKernel        DumpType = 6 // bitmap of pages, 'SDMP'
	DumpTypeAutomatic           DumpType = 7 // a setting; files of it carry 5 or 6
	DumpTypeKernelMemory        DumpType = 8 // the debugger's .dump /k
	DumpTypeKernelAndUserMemory DumpType = 9 // the debugger's .dump /ka
	DumpTypeCompleteMemory      DumpType = 10
)

// String returns a short name, or the number of a type that has none.
func (t DumpType) String() string {
	switch t {
	case DumpTypeInvalid:
		return "invalid"
	case DumpTypeUnknown:
		return "unknown"
	case DumpTypeFull:
		return "full"
	case DumpTypeSummary:
		return "summary"
	case DumpTypeHeader:
		return "header only"
	case DumpTypeTriage:
		return "triage"
	case DumpTypeBitmapFull:
		return "bitmap full"
	case DumpTypeBitmapKernel:
		return "bitmap kernel"
	case DumpTypeAutomatic:
		return "automatic"
	case DumpTypeKernelMemory:
		return "kernel memory"
	case DumpTypeKernelAndUserMemory:
		return "kernel and user memory"
	case DumpTypeCompleteMemory:
		return "complete memory"
	}
	return fmt.Sprintf("type %#x", uint32(t))
}

// file reports whether a file can carry t: the others are settings or mark a
// header that was never finished.
func (t DumpType) file() bool {
	return t >= DumpTypeFull && t <= DumpTypeCompleteMemory && t != DumpTypeAutomatic
}

// Machine is MachineImageType: an IMAGE_FILE_MACHINE constant of the PE format.
type Machine uint32

// Machines that a Windows dump can come from.
const (
	MachineI386  Machine = 0x014C
	MachineARMNT Machine = 0x01C4
	MachineIA64  Machine = 0x0200
	MachineAMD64 Machine = 0x8664
	MachineARM64 Machine = 0xAA64
)

// String returns the usual short name, or the number of an unknown machine.
func (m Machine) String() string {
	switch m {
	case MachineI386:
		return "x86"
	case MachineARMNT:
		return "ARM"
	case MachineIA64:
		return "IA-64"
	case MachineAMD64:
		return "AMD64"
	case MachineARM64:
		return "ARM64"
	}
	return fmt.Sprintf("machine %#x", uint32(m))
}

// Width returns which header layout a machine has, and false for an unknown one.
func (m Machine) Width() (Width, bool) {
	switch m {
	case MachineI386, MachineARMNT:
		return Width32, true
	case MachineAMD64, MachineARM64, MachineIA64:
		return Width64, true
	}
	return 0, false
}

// Bug check codes that a dump of a guest that did not crash may carry
// (Microsoft's bug check code reference).
const (
	BugCheckLiveSystemDump         uint32 = 0x161 // LIVE_SYSTEM_DUMP
	BugCheckManuallyInitiatedCrash uint32 = 0xE2  // MANUALLY_INITIATED_CRASH
)

// KdSecondaryVersion says which layout of CONTEXT a dump uses (wdbgexts.h,
// KD_SECONDARY_VERSION_*); machines other than AMD64 have one layout only.
const (
	KdSecondaryVersionDefault      uint8 = 0
	KdSecondaryVersionAMD64Context uint8 = 2
)

// filetimeUnix is the FILETIME of 1970-01-01 in seconds: 369 years with 89 leap days.
const filetimeUnix = (369*365 + 89) * 86400

// FileTime converts a FILETIME (units of 100 ns since 1601-01-01 UTC) to UTC.
func FileTime(v uint64) time.Time {
	return time.Unix(int64(v/1e7)-filetimeUnix, int64(v%1e7)*100).UTC()
}
