package store

import (
	"errors"
	"fmt"
)

// Error says that a place failed at what was asked of it, so that a full or
// forbidden place can be told from anything else that is full or forbidden.
type Error struct {
	Doing string // a verb: open, create, write, read, commit
	Path  string // of the file or folder, as Place.Path has it
	Err   error  // why; an error of the system or one of those below
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Doing, e.Path, e.Err) }

// Unwrap returns why.
func (e *Error) Unwrap() error { return e.Err }

// Reasons why a name can't be given to a file, beside those of the system.
var (
	// ErrNotRegular: what has the name is no file that could be replaced, but a
	// folder, a device, a symbolic link. The error is fs.ErrExist too, and
	// Options.Force changes nothing.
	ErrNotRegular = errors.New("what has that name is not a regular file")

	// ErrNotFolder: what stands where a folder must be is none.
	ErrNotFolder = errors.New("not a folder")

	// ErrName: no file can have that name.
	ErrName = errors.New("not a file name")
)
