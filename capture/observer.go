package capture

import (
	"context"
	"log/slog"
	"time"

	"snap/dump"
)

// Phase is a part of taking a dump.
type Phase string

// Phases, in the order in which they come; a dump doesn't have all of them.
const (
	PhaseLook     Phase = "looking"        // at the guest while it runs; counts what of its RAM is scanned, if it comes to that
	PhaseEstimate Phase = "estimating"     // how long the guest would stand still
	PhaseReserve  Phase = "getting memory" // of the host, for a copy of the guest's
	PhasePaused   Phase = "paused"         // the guest stands still, by this process
	PhaseRunning  Phase = "running"        // the guest goes on; Event.Stood says how long it stood still
	PhaseSave     Phase = "saving"         // the hypervisor saves the guest, which runs
	PhaseCopy     Phase = "copying"        // the memory of a guest that runs
	PhaseWrite    Phase = "writing"        // pages are read, compressed and written
	PhaseVerify   Phase = "verifying"      // the file is read back; nothing is needed of the guest any more
)

// Event says that a phase begins.
type Event struct {
	Phase Phase
	// Held: the guest stands still, by this process, until the phase ends.
	Held bool
	// Stood is how long the guest stood still; of PhaseRunning only.
	Stood time.Duration
	// Expect is how long the phase is expected to take, 0 if nothing is known of
	// that. What Progress measures tells more as soon as there is some.
	Expect time.Duration
	// Progress counts the bytes of the phase and goes on being kept up to date;
	// nil if the phase counts nothing.
	Progress *dump.Progress
}

// Observer hears how far a dump is. Its methods are called one at a time, and
// what it does delays the dump: during a pause, the guest too. So an observer that
// writes anywhere hands that to a goroutine of its own.
type Observer interface {
	// Begins is called when a phase begins, which ends the one before.
	Begins(Event)
}

// ObserverFunc is an Observer.
type ObserverFunc func(Event)

// Begins implements Observer.
func (f ObserverFunc) Begins(e Event) { f(e) }

// discard is a log that nobody reads.
var discard = slog.New(slog.DiscardHandler)

// tell tells the observer, if there is one.
func (o *Options) tell(e Event) {
	if o.Observer != nil {
		o.Observer.Begins(e)
	}
}

// tellLook tells that the guest is looked at from now on, and how far that is.
func (o *Options) tellLook() {
	if o.Look.Progress == nil {
		o.Look.Progress = new(dump.Progress)
	}
	o.tell(Event{Phase: PhaseLook, Progress: o.Look.Progress})
}

// debug logs what was tried and decided.
func (o *Options) debug(ctx context.Context, msg string, args ...any) {
	log := o.Log
	if log == nil {
		log = discard
	}
	log.DebugContext(ctx, msg, args...)
}
