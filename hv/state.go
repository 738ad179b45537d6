package hv

import (
	"errors"
	"fmt"
)

// State is what a domain does right now and, where that matters to a dump, why.
// It is what list and check print, and the key of States.
type State string

// States of a domain, as States describes them.
const (
	StateRunning  State = "running"
	StatePaused   State = "paused" // by an operator, or by a program of theirs
	StateCrashed  State = "crashed"
	StateIOError  State = "paused (I/O error)"
	StateWatchdog State = "paused (watchdog)"
	StateShutdown State = "in shutdown"
	StateAsleep   State = "suspended" // by the guest itself (S3)

	StateStarting State = "starting"
	StateMoving   State = "migrating"
	StateSaving   State = "being saved or dumped"
	StateSplit    State = "post-copy failed"

	StateOff        State = "shut off"
	StateOffCrashed State = "shut off (crashed)"
	StateSaved      State = "shut off (saved)"
	StateOther      State = "other"
)

// Use is what can be done with the memory of a domain.
type Use int

// Uses.
const (
	// UseNothing: there is no memory, or it must not be read.
	UseNothing Use = iota
	// UseRunning: the guest runs, and every mode may be tried.
	UseRunning
	// UseStill: the guest stands still already, and not by our doing. It is read as
	// it stands, which is one point in time, and is neither paused nor resumed.
	UseStill
	// UseLive: it may go on at any time and can't be kept from it, so that only a
	// mode that promises nothing can read it.
	UseLive
)

// Condition is what a state means to a dump.
type Condition struct {
	State State
	Use   Use

	// Says is what there is to say of the domain, as the end of a sentence that
	// begins with its name.
	Says string
	// Next is what an operator does. {domain} stands for its name, {virsh} for virsh
	// with the connection. Empty if there is nothing to do.
	Next string
	// Err is the class of the error of what can't be dumped, or only in mode live.
	Err error
}

// States returns the condition of each state: whether a domain in it can be dumped,
// how, and what an operator is told.
func States() []Condition {
	const stays = "; the dump leaves it so"
	return []Condition{
		{StateRunning, UseRunning, "is running", "", nil},
		{StatePaused, UseStill, "is paused" + stays, "", nil},
		{
			StateCrashed, UseStill, "has crashed and is kept as it is for a dump" + stays,
			"take the dump before anything else: a resume, reset or destroy ends what it shows", nil,
		},
		{
			StateIOError, UseStill, "is paused by an I/O error of one of its disks" + stays,
			"mend the disk ({virsh} domblkerror {domain} names it), then {virsh} resume {domain}", nil,
		},
		{
			StateWatchdog, UseStill, "is paused by its watchdog: the guest hung" + stays,
			"take the dump, then {virsh} reset {domain} and {virsh} resume {domain}", nil,
		},
		{
			StateShutdown, UseStill, "has shut down, and its memory is still there for now",
			"take the dump at once: its process can end at any time", nil,
		},
		{
			StateAsleep, UseLive, "sleeps (S3) and may wake at any time",
			"take it as it sleeps (snap dump --mode live {domain}), or wake it first: {virsh} dompmwakeup {domain}", ErrUnsupported,
		},
		{
			StateStarting, UseNothing, "is starting: its memory is not the guest's yet",
			"try again when it runs ({virsh} domstate {domain})", ErrBusy,
		},
		{
			StateMoving, UseNothing, "is being migrated: its memory is on the move",
			"wait for the end of the migration ({virsh} domjobinfo {domain}), then dump it where it runs", ErrBusy,
		},
		{
			StateSaving, UseNothing, "is stopped by a save, a dump or a snapshot that goes on",
			"wait for the other job to end ({virsh} domjobinfo {domain}), then try again", ErrBusy,
		},
		{
			StateSplit, UseNothing, "is in a post-copy migration that failed: its memory is on two hosts, and reading what is missing would hang",
			"complete the migration first: migrate again from the source host with --postcopy --postcopy-resume", ErrBusy,
		},
		{
			StateOff, UseNothing, "is shut off and has no memory",
			"start it first: {virsh} start {domain}", ErrNotRunning,
		},
		{
			StateOffCrashed, UseNothing, "crashed and was ended: its memory is gone",
			"look for a dump inside of the guest; to keep the next crash, give the domain a panic device and <on_crash>preserve</on_crash> ({virsh} edit {domain})", ErrNotRunning,
		},
		{
			StateSaved, UseNothing, "was saved to disk and has no memory here",
			"restore it first: {virsh} start {domain}, or {virsh} restore the file that it was saved to", ErrNotRunning,
		},
		{
			StateOther, UseNothing, "is in a state that isn't known to be safe to read",
			"look at it first: {virsh} domstate --reason {domain}", ErrUnsupported,
		},
	}
}

// Condition returns what s means to a dump: that of StateOther if it is unknown.
func (s State) Condition() Condition {
	var other Condition
	for _, c := range States() {
		switch c.State {
		case s:
			return c
		case StateOther:
			other = c
		}
	}
	return other
}

// Still reports whether the guest stands still already, and not by our doing.
func (s State) Still() bool { return s.Condition().Use == UseStill }

// Stopped reports whether the guest's processors stand still, also if that is for a
// job of the hypervisor's, such as that by which a JobPauser holds it.
func (s State) Stopped() bool { return s.Still() || s == StateSaving }

// Readable reports whether there is memory that may be read.
func (s State) Readable() bool { return s.Condition().Use != UseNothing }

// Off reports whether the domain has ended: there is no memory any more.
func (s State) Off() bool { return errors.Is(s.Condition().Err, ErrNotRunning) }

// Check fails with a *StateError unless the domain of id can be dumped in this state.
// live says that it is read in a mode that doesn't promise one point in time.
func (s State) Check(id Identity, live bool) error {
	switch c := s.Condition(); {
	case c.Use == UseNothing, c.Use == UseLive && !live:
		return &StateError{ID: id, State: s}
	}
	return nil
}

// StateError says that a domain can't be dumped, or only in mode live, because of
// the state that it is in. errors.Is finds the class that States gives the state.
type StateError struct {
	ID    Identity
	State State
}

func (e *StateError) Error() string {
	c := e.State.Condition()
	return fmt.Sprintf("domain %q %s: %v", e.ID.Name, c.Says, c.Err)
}

// Unwrap returns the class.
func (e *StateError) Unwrap() error { return e.State.Condition().Err }
