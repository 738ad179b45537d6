package guardian

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"snap/hv"
)

// Running fails as Start would with ErrLocked while a dump of the domain runs, or
// what one left is being undone, and where there can be no state files. It takes
// no lock, so that a dump that begins meanwhile finds nobody in its way.
func Running(id hv.Identity) error {
	dir, err := Dir()
	if err != nil {
		return err
	}
	return running(dir, id)
}

func running(dir string, id hv.Identity) error {
	r := &Run{URI: id.URI, Name: id.Name, UUID: id.UUID, Host: id.Host}
	other, err := load(r.path(dir))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case other.Snap.Alive():
		return fmt.Errorf("domain %q: %w: process %d since %s", r.Name, ErrLocked, other.Snap.PID, other.Began.Format(time.RFC3339))
	case other.Guardian != Process{} && other.Guardian.Alive():
		return fmt.Errorf("domain %q: %w: process %d was killed, and its guardian, process %d, is undoing it",
			r.Name, ErrLocked, other.Snap.PID, other.Guardian.PID)
	}
	return nil
}
