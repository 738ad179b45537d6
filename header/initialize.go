package header

import (
	"errors"
	"fmt"
)

// Limits of a header that InitializeCrashDumpHeader makes.
const (
	// MaxProcessors is the most that any Windows supports (Windows Server 2022
	// and later, 2048 logical processors).
	MaxProcessors = 2048
	// MaxComment is the longest comment: the field has 128 bytes and ends with a NUL.
	MaxComment = 127
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
	_, img, err := facts.makeFull(w)
	if err != nil {
		return needed, &StatusError{StatusInvalidParameter, err}
	}
	copy(buffer, img)
	return needed, nil
}
