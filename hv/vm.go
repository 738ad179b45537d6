package hv

import (
	"context"

	"snap/phys"
)

// VM is one run of a domain on a hypervisor: after it was stopped and started
// again, another Lookup is needed. Until then it is off (StateOff, ErrNotRunning).
type VM interface {
	Source

	// State asks the hypervisor what the domain does.
	State(ctx context.Context) (State, error)

	// Pause stops the guest's processors and returns what undoes just that.
	// A guest that stands still already (State.Still) stays so, in its very state:
	// nothing is asked of the hypervisor, and its Hold does nothing. A deadline of
	// ctx is that of the Hold as well: whoever keeps the pause (Guard) lets the
	// guest go soon after it, should this process not have done so. When Pause
	// returns an error the guest runs as before, unless
	// errors.Is(err, ErrStillPaused). It is a *StateError where the state forbids it.
	Pause(ctx context.Context) (Hold, error)

	// RAM asks for the guest's RAM map as it is right now, without opening its
	// memory: it changes when memory is plugged or taken away.
	RAM(ctx context.Context) (phys.Runs, error)

	// CheckJob fails with ErrBusy while something else moves the guest's memory
	// or will resume it by itself (a migration, a save, a dump), and with a
	// *StateError if the guest's memory can't be read in the state that it is in,
	// such as ErrNotRunning if there is no guest any more.
	CheckJob(ctx context.Context) error

	// Warnings returns what in the guest's configuration can make a dump of it
	// less consistent or less complete, as sentences for an operator. It changes
	// nothing.
	Warnings(ctx context.Context) ([]string, error)
}
