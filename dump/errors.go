package dump

import (
	"errors"
	"fmt"
)

// Classes of failure that callers act on; test with errors.Is. A destination
// that is full shows as syscall.ENOSPC, one that exists as fs.ErrExist.
var (
	// ErrFormat: a file is not a dump, or is damaged. Every FormatError is one.
	ErrFormat = errors.New("damaged or not a dump")
	// ErrSequential: the file's container can only be read from its start, as
	// gzip that other programs write. Expand it first.
	ErrSequential = errors.New("container has no random access; expand the dump first")
	// ErrSource: the guest's memory as a whole could not be read, as opposed
	// to single pages of it.
	ErrSource = errors.New("guest memory can't be read")
	// ErrEncoding: what a frame was compressed to doesn't hold what is in it.
	ErrEncoding = errors.New("compressed pages are not those of the guest")
	// ErrPlan: a Plan contradicts itself.
	ErrPlan = errors.New("inconsistent dump plan")
)

// FormatError says what is wrong with a file, and where.
type FormatError struct {
	Off    int64  // byte offset in the file as it is stored, -1 where none applies
	Field  string // the part of the file that is wrong
	Reason string
	Err    error // the cause, or nil
}

func (e *FormatError) Error() string {
	s := e.Field
	if e.Off >= 0 {
		s = fmt.Sprintf("%s at file offset %#x", e.Field, e.Off)
	}
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is makes every FormatError an ErrFormat.
func (e *FormatError) Is(target error) bool { return target == ErrFormat }

// Unwrap returns the cause.
func (e *FormatError) Unwrap() error { return e.Err }

func formatError(off int64, field, format string, args ...any) *FormatError {
	return &FormatError{Off: off, Field: field, Reason: fmt.Sprintf(format, args...)}
}
