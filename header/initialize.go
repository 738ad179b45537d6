package header

import (
	"errors"
	"fmt"

	"snap/phys"
)

// Limits of a header that InitializeCrashDumpHeader makes.
const (
	// MaxProcessors is the most that any Windows supports (Windows Server 2022
	// and later, 2048 logical processors).
	MaxProcessors = 2048
	// MaxComment is the longest comment: the field has 128 bytes and ends with a NUL.
	MaxComment = 127
)

// What the kernel's routine writes as exception of a header that belongs to no
// crash (seen in the real dumps in testdata).
const (
	statusBreakpoint        uint32 = 0x80000003 // STATUS_BREAKPOINT, ntstatus.h
	exceptionNoncontinuable uint32 = 1          // EXCEPTION_NONCONTINUABLE, winnt.h
)

// InitializeCrashDumpHeader writes the header of a full dump of the guest that
// facts describes into buffer, as the KeInitializeCrashDumpHeader routine
// (wdm.h) does in a guest's kernel. The caller then appends the pages of
// facts.Runs in order, now or later. If the guest's memory changes in between,
// which Header.Describes notices, the header must be made again.
//
// The contract is the routine's: dumpType must be DumpTypeFull and flags 0; the
// header names the System process's page tables whatever process runs; it
// holds no exception of a crash, no secondary data. needed is the size of the
// header, and is valid whenever dumpType, flags and facts.Machine are; buffer
// may be longer, and what is past needed stays. On failure buffer is as it was.
//
// Beyond the routine it sets RequiredDumpSpace, WriterStatus and
// KdSecondaryVersion, which the kernel sets when it writes a dump; and the
// context, the exception's address and a comment, if the facts have them.
//
// Errors are *StatusError: STATUS_INVALID_PARAMETER for the arguments and for
// facts that no reader could work with (errors.As finds the *FactError),
// STATUS_BUFFER_TOO_SMALL for the buffer. The buffer is checked first, so that
// an empty one asks for the size.
func InitializeCrashDumpHeader(dumpType, flags uint32, buffer []byte, facts *Facts) (needed int, err error) {
	if dumpType != uint32(DumpTypeFull) {
		return 0, &StatusError{StatusInvalidParameter, fmt.Errorf("dump type %d: only %d (full) is valid", dumpType, DumpTypeFull)}
	}
	if flags != 0 {
		return 0, &StatusError{StatusInvalidParameter, fmt.Errorf("flags %#x: only 0 is valid", flags)}
	}
	if facts == nil {
		return 0, &StatusError{StatusInvalidParameter, errors.New("no facts about the guest")}
	}
	w, err := facts.width()
	if err != nil {
		return 0, &StatusError{StatusInvalidParameter, err}
	}
	needed = w.Size()
	if len(buffer) < needed {
		return needed, &StatusError{StatusBufferTooSmall, fmt.Errorf("buffer of %#x bytes: a header has %#x", len(buffer), needed)}
	}
	if err := facts.checkFull(w); err != nil {
		return needed, &StatusError{StatusInvalidParameter, err}
	}
	h := facts.header(w)
	facts.memory(h)
	img, err := h.Encode()
	if err != nil {
		return needed, &StatusError{StatusInvalidParameter, err}
	}
	copy(buffer, img)
	return needed, nil
}

// header makes the header from facts that check has accepted, all but the
// physical memory.
func (f *Facts) header(w Width) *Header {
	h := blank(w)
	h.MajorVersion = f.NtBuildNumber >> 28
	h.MinorVersion = f.NtBuildNumber & 0xFFFF
	h.DirectoryTableBase = f.tableBase()
	if f.PfnDatabase != 0 {
		h.PfnDataBase = f.address(f.PfnDatabase)
	}
	h.PsLoadedModuleList = f.address(f.PsLoadedModuleList)
	h.PsActiveProcessHead = f.address(f.PsActiveProcessHead)
	h.KdDebuggerDataBlock = f.address(f.KdDebuggerDataBlock)
	h.MachineImageType = f.Machine
	h.NumberProcessors = f.NumberProcessors
	h.BugCheckCode = f.BugCheckCode
	h.BugCheckParameter = f.BugCheckParameter
	f.exception(h)
	h.SystemTime = f.SystemTime
	h.SystemUpTime = f.SystemUpTime
	h.ProductType = f.ProductType
	h.SuiteMask = f.SuiteMask
	h.BootID = f.BootID
	h.Comment = f.Comment
	h.Attributes = 0
	h.WriterStatus = 0
	h.KdSecondaryVersion = KdSecondaryVersionDefault
	if f.Machine == MachineAMD64 {
		h.KdSecondaryVersion = KdSecondaryVersionAMD64Context
	}
	if w == Width32 {
		h.PaeEnabled = 0
		if f.PAE {
			h.PaeEnabled = 1
		}
	}
	return h
}

// memory makes h that of a full dump of the runs.
func (f *Facts) memory(h *Header) {
	h.DumpType = DumpTypeFull
	h.Runs = append([]phys.Run(nil), f.Runs...)
	h.NumberOfPages = 0
	for _, r := range f.Runs {
		h.NumberOfPages += r.Pages
	}
	h.RequiredDumpSpace = uint64(h.Width.Size()) + h.NumberOfPages<<phys.PageShift
}

// exception sets the context and the exception record: a breakpoint at the
// context's instruction, at 0 without a context, as the kernel's routine has it.
func (f *Facts) exception(h *Header) {
	clear(h.ContextRecord)
	copy(h.ContextRecord, f.Context)
	x := &h.ExceptionRecord
	x.ExceptionCode = statusBreakpoint
	x.ExceptionFlags = exceptionNoncontinuable
	x.ExceptionRecord = 0
	x.ExceptionAddress = 0
	x.NumberParameters = 0
	if f.Context != nil {
		c, _ := f.context() // check has decoded it
		x.ExceptionAddress = phys.VirtAddr(c.Rip)
	}
}
