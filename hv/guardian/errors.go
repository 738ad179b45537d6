package guardian

import (
	"errors"
	"fmt"
)

// ErrProcess is the class of a guardian that was ended, or can't do its part: nobody
// would undo what is done to the guest.
var ErrProcess = errors.New("the guardian doesn't stand ready")

// FolderError says that the folder of locks and state files can't be used: without
// them nobody could undo a dump whose snap is killed, and so none begins.
type FolderError struct {
	Doing string // a verb and what it is done to
	Dir   string
	Err   error // why
}

func (e *FolderError) Error() string { return fmt.Sprintf("%s in %s: %v", e.Doing, e.Dir, e.Err) }

// Unwrap returns why.
func (e *FolderError) Unwrap() error { return e.Err }
