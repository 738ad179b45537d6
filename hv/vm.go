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
	// A guest that is already paused stays so: its Hold does nothing.
	// When Pause returns an error the guest runs as before, unless
	// errors.Is(err, ErrStillPaused). It is ErrBusy or ErrNotRunning as CheckJob
	// has it, and ErrUnsupported of a guest that sleeps (S3): it may wake.
	Pause(ctx context.Context) (Hold, error)

	// RAM asks for the guest's RAM map as it is right now, without opening its
	// memory: it changes when memory is plugged or taken away.
	RAM(ctx context.Context) (phys.Runs, error)

	// CheckJob fails with ErrBusy while something else moves the guest's memory
	// or will resume it by itself (a migration, a save, a dump), and with
	// ErrNotRunning if there is no guest any more.
	CheckJob(ctx context.Context) error

	// Warnings returns what in the guest's configuration can make a dump of it
	// less consistent or less complete, as sentences for an operator. It changes
	// nothing.
	Warnings(ctx context.Context) ([]string, error)
}

// State is what a domain does right now.
type State string

// States of a domain.
const (
	StateRunning State = "running"
	StatePaused  State = "paused"
	StateOff     State = "shut off"
	StateCrashed State = "crashed"
	StateAsleep  State = "suspended" // by the guest itself (S3)
	StateOther   State = "other"
)
