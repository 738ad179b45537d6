package header

import "fmt"

// FormatError says which field of a header, or of a CONTEXT, is wrong.
type FormatError struct {
	Field  string // name in the field table; "length" for the number of bytes
	Offset int    // of the field, in bytes from the start; -1 where it is no field
	Value  uint64 // what it holds; of a text or an area of bytes, its length
	Reason string
}

func (e *FormatError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("dump header: %s is %#x: %s", e.Field, e.Value, e.Reason)
	}
	return fmt.Sprintf("dump header: %s at offset %#x is %#x: %s", e.Field, e.Offset, e.Value, e.Reason)
}

// NTSTATUS is the status that a Windows kernel routine returns (ntstatus.h).
type NTSTATUS uint32

// Statuses that InitializeCrashDumpHeader fails with.
const (
	StatusInvalidParameter NTSTATUS = 0xC000000D
	StatusBufferTooSmall   NTSTATUS = 0xC0000023
)

// String returns the name of ntstatus.h, or the number.
func (s NTSTATUS) String() string {
	switch s {
	case StatusInvalidParameter:
		return "STATUS_INVALID_PARAMETER"
	case StatusBufferTooSmall:
		return "STATUS_BUFFER_TOO_SMALL"
	}
	return fmt.Sprintf("0x%08x", uint32(s))
}

// StatusError is a failure of a kernel routine's equivalent: the status that
// the routine would have returned, and why. The cause, where it is a fact
// about the guest, is a *FactError.
type StatusError struct {
	Status NTSTATUS
	Err    error
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("initialize crash dump header: %v (%v)", e.Err, e.Status)
}

// Unwrap returns the cause.
func (e *StatusError) Unwrap() error { return e.Err }

// FactError says which field of Facts can't go into a header.
type FactError struct {
	Field  string // of Facts, with an index where it has several values
	Value  uint64
	Reason string
}

func (e *FactError) Error() string {
	return fmt.Sprintf("%s is %#x: %s", e.Field, e.Value, e.Reason)
}
