package hv

import (
	"context"

	"snap/phys"
)

// Source is a guest that can be read: a domain, or a file that holds one.
type Source interface {
	// Identity says which guest it is. It asks nobody, and stays the same.
	Identity() Identity

	// Registers returns the state of every processor, in the hypervisor's
	// order. A file that holds none returns an empty slice. While the guest
	// runs, each processor is sampled at a moment of its own.
	Registers(ctx context.Context) ([]phys.Registers, error)

	// OpenMemory opens the guest's memory. The caller closes it. The error is
	// ErrUnsupported where the mechanism can't be had safely, ErrDenied where the
	// host forbids it, ErrNotRunning or ErrBusy if the guest is off or on the move,
	// and ErrConfidential if its memory is encrypted.
	OpenMemory(ctx context.Context, m Mechanism) (Memory, error)

	// Close releases the source; it resumes nothing, and closes no connection.
	Close() error
}

// Noted is a Source that has to tell how it is read, where that was not certain.
type Noted interface {
	Source

	// Notes returns sentences for an operator, and for the account of a dump.
	Notes() []string
}

// Published is a Source that may have what the guest handed to its hypervisor for whoever
// dumps it (QEMU's vmcoreinfo device). It is the guest's word, and of any length up to
// MaxPublished.
type Published interface {
	Source

	// Published returns the descriptor of the guest's note, nil if there is none.
	Published() []byte
}

// MaxPublished bounds what a guest can publish, in bytes: longer notes are left out.
const MaxPublished = 64 << 10

// PublishedOf returns what the guest in src published, nil if that isn't known.
func PublishedOf(src Source) []byte {
	if p, ok := src.(Published); ok {
		return p.Published()
	}
	return nil
}

// NotesOf returns the notes of src, nil if it is not Noted.
func NotesOf(src Source) []string {
	if noted, ok := src.(Noted); ok {
		return noted.Notes()
	}
	return nil
}

// Identity says which guest a source belongs to, for names and reports.
type Identity struct {
	Name string // domain name, or the file's base name
	UUID string // empty for files
	ID   int    // the hypervisor's id of the running instance, 0 if none
	Host string // name of the host that runs the guest, as the hypervisor gives it
	URI  string // connection URI, empty for files
}
