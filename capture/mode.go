package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"snap/hv"
)

// Mode is a way to get a guest's memory and processors. Each is a file beside
// this one, and a line in Modes.
type Mode interface {
	// Name is what operators call it, and manifests.
	Name() string

	// Doc says in a line what it does to the guest.
	Doc() string

	// Auto reports whether it may be chosen for an operator who asked for none.
	Auto() bool

	// Consistent reports whether all pages are of one point in time. Of a guest
	// that somebody else has paused, all modes that promise that are the same.
	Consistent() bool

	// Check fails with hv.ErrUnsupported, and says why, where it can't be taken
	// of this guest. It is quick and changes nothing.
	Check(ctx context.Context, vm hv.VM) error

	// Estimate says what it would take, the way that Acquire would choose first
	// and, if s.Thorough, others that options could choose. It changes nothing.
	// That the mode can't be taken is no error but Estimate.Why.
	Estimate(ctx context.Context, s *Session) ([]Estimate, error)

	// Acquire gets the guest's memory. e is what Estimate gave, nil if nobody
	// asked yet. It fails with a *PauseError or hv.ErrUnsupported, and the guest
	// was not touched, where it must not be begun. When it fails the guest does
	// what it did before, unless errors.Is(err, hv.ErrStillPaused).
	Acquire(ctx context.Context, s *Session, e *Estimate) (*Moment, error)
}

// Modes returns all modes, in the order in which auto tries them.
func Modes() []Mode {
	return []Mode{
		Pause{},
		Snapshot{},
		Live{},
	}
}

// ModeAuto is the name for no mode in particular.
const ModeAuto = "auto"

// ModeByName returns the mode of a name, nil for ModeAuto.
func ModeByName(name string) (Mode, error) {
	names := []string{ModeAuto}
	for _, m := range Modes() {
		if m.Name() == name {
			return m, nil
		}
		names = append(names, m.Name())
	}
	if name == ModeAuto {
		return nil, nil
	}
	return nil, fmt.Errorf("mode %q: it can be one of %q", name, names)
}

// Estimate is what a dump would take in one mode.
type Estimate struct {
	Mode   string
	Why    error // that it can't be taken, an hv.ErrUnsupported; nil if it can
	Copied bool  // pages are copied first: the guest stands still, if at all, for that only

	StandsStill time.Duration // the guest, as long as this process holds it; 0 if not at all
	Takes       time.Duration // in all, as far as it is known: see Session.Thorough
	Consistent  bool          // all pages are of one point in time

	// Pause is what StandsStill is made of, in mode pause.
	Pause *PauseEstimate

	populated uint64 // pages when it was made
}

// Reject returns why the dump must not be begun if the guest may stand still for
// limit at most, 0 for no limit: nil if it may.
func (e *Estimate) Reject(limit time.Duration) error {
	switch {
	case e.Why != nil:
		return e.Why
	case limit <= 0 || e.StandsStill <= limit:
		return nil
	case e.Pause != nil:
		return &PauseError{Estimate: *e.Pause, Limit: limit}
	}
	return fmt.Errorf("no %s: %w: about %s, and %s are allowed", e.Mode, ErrPauseTooLong, rounded(e.StandsStill), limit)
}

// Acquire gets the guest's memory and processors by the mode that was asked for.
// The caller ends with Moment.Release.
func (s *Session) Acquire(ctx context.Context) (*Moment, error) {
	mode := s.Options.Mode
	if mode != nil && !mode.Consistent() {
		return mode.Acquire(ctx, s, nil)
	}
	state, err := s.VM.State(ctx)
	if err != nil {
		return nil, err
	}
	if state == hv.StatePaused {
		return acquirePausedByOthers(ctx, s)
	}
	if mode != nil {
		return mode.Acquire(ctx, s, nil)
	}
	return s.acquireFirst(ctx, Modes())
}

// acquireFirst acquires by the first mode that auto may choose and that doesn't
// have to be rejected.
func (s *Session) acquireFirst(ctx context.Context, modes []Mode) (*Moment, error) {
	var rejected error
	for _, mode := range modes {
		if !mode.Auto() {
			continue
		}
		e, err := mode.Estimate(ctx, s)
		if err != nil {
			return nil, err
		}
		why := e[0].Reject(s.Options.MaxPause)
		if why == nil {
			var m *Moment
			if m, err = mode.Acquire(ctx, s, &e[0]); err == nil || !notBegun(err) {
				return m, err
			}
			why = err
		}
		s.Options.debug(ctx, "mode rejected", "mode", mode.Name(), "why", why)
		if rejected == nil {
			rejected = why
		} else {
			rejected = fmt.Errorf("%w; and %w", rejected, why)
		}
	}
	return nil, rejected
}

// notBegun reports whether err says that a mode was not begun, so that another
// may be tried.
func notBegun(err error) bool {
	e, ok := errors.AsType[*PauseError](err)
	return ok && e.Stood == 0
}

// Estimates says what each mode would take, those that auto may choose first. A
// sample of the guest's pages is read and compressed for it; nothing is changed.
func (s *Session) Estimates(ctx context.Context) ([]Estimate, error) {
	sample, err := s.Sample(ctx)
	if err != nil {
		return nil, err
	}
	state, err := s.VM.State(ctx)
	if err != nil {
		return nil, err
	}
	if state == hv.StatePaused {
		return []Estimate{{Mode: Pause{}.Name(), Takes: sample.Duration, Consistent: true}}, nil
	}
	s.Thorough = true
	var all []Estimate
	for _, mode := range Modes() {
		e, err := mode.Estimate(ctx, s)
		if err != nil {
			return nil, err
		}
		all = append(all, e...)
	}
	return slices.Clip(all), nil
}
