package hv

import (
	"context"
	"time"
)

// Hold keeps a guest paused.
type Hold interface {
	// Release resumes the guest if Pause stopped it, and returns how long it
	// stood still, 0 if it had been paused by somebody else. Later calls
	// return the first one's result. It works after the context of Pause has
	// ended and after the connection was lost; if the guest could not be
	// resumed, errors.Is(err, ErrStillPaused). If somebody else resumed the
	// guest meanwhile, errors.Is(err, ErrDisturbed); if whoever keeps the pause
	// let it go because it took longer than promised, errors.Is(err,
	// ErrOverdue). Without an error the guest stood still from Pause to Release.
	Release() (time.Duration, error)

	// Progressed says that what the guest is held for goes on. Whoever keeps the
	// pause lets the guest go when nobody says so for hv.Patience. It doesn't
	// wait; once in a second is often enough.
	Progressed()
}

// JobPauser is a VM that can be held still by a job of the hypervisor's own.
type JobPauser interface {
	VM

	// PauseByJob is Pause, by a job that ends with this process if not before: the
	// hypervisor then lets the guest go on. Suspends and resumes by others wait
	// for its end and are carried out then, so it is for a moment only. The error
	// is ErrUnsupported, and the guest runs as before, where it can't be done. As
	// with Pause, ctx's deadline is that of the Hold as well.
	PauseByJob(ctx context.Context) (Hold, error)
}
