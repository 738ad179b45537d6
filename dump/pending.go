package dump

import (
	"errors"
	"os"
)

// Pending is a file that doesn't have its final name yet.
type Pending struct{}

// Create makes a new, empty file beside path that only its owner may read. If
// something has the name path already, that is an error of class fs.ErrExist,
// unless force is set and it is a regular file.
func Create(path string, force bool) (*Pending, error) { return nil, errors.ErrUnsupported }

// File returns the file, open for reading and writing. Pending closes it.
func (p *Pending) File() *os.File { return nil }

// Commit syncs the file, gives it its final name and syncs the folder. Without
// force it replaces nothing, even if the name was taken meanwhile. After a
// failure the file is gone, as after Abort.
func (p *Pending) Commit() error { return errors.ErrUnsupported }

// Abort removes the file. After Commit it does nothing.
func (p *Pending) Abort() error { return errors.ErrUnsupported }
