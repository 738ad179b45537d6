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
	// that stands still already, all modes that promise that are the same.
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

	StandsStill Span          // the guest, as long as this process holds it; 0 if not at all
	Takes       time.Duration // in all, as far as it is known: see Session.Thorough
	Consistent  bool          // all pages are of one point in time

	// Pause is what StandsStill is made of, in mode pause.
	Pause *PauseEstimate

	populated uint64 // pages when it was made
}

// Reject returns why the dump must not be begun if the guest may stand still for
// limit at most, 0 for no limit: nil if it may. The pessimistic end has to fit.
func (e *Estimate) Reject(limit time.Duration) error {
	switch {
	case e.Why != nil:
		return e.Why
	case limit <= 0 || e.StandsStill.Most <= limit:
		return nil
	case e.Pause != nil:
		return &PauseError{Estimate: *e.Pause, Limit: limit}
	}
	return fmt.Errorf("no %s: %w: about %s, and %s are allowed", e.Mode, ErrPauseTooLong, e.StandsStill, limit)
}

// Acquire gets the guest's memory and processors by the mode that was asked for.
// The caller ends with Moment.Release.
func (s *Session) Acquire(ctx context.Context) (*Moment, error) {
	others, modes, err := s.candidates(ctx)
	switch {
	case err != nil:
		return nil, err
	case others:
		return acquireStill(ctx, s)
	}
	return s.acquireFirst(ctx, modes)
}

// MayAcquire fails as Acquire would before it touches the guest.
func (s *Session) MayAcquire(ctx context.Context) error {
	others, modes, err := s.candidates(ctx)
	if err != nil || others {
		return err
	}
	return s.eachMode(ctx, modes, func(Mode, *Estimate) error { return nil })
}

// candidates returns the modes that Acquire may choose among, in their order, or
// that the guest stands still already, and has only to be left so.
func (s *Session) candidates(ctx context.Context) (others bool, modes []Mode, err error) {
	mode := s.Options.Mode
	if mode != nil && !mode.Consistent() {
		return false, []Mode{mode}, nil
	}
	state, err := s.VM.State(ctx)
	switch {
	case err != nil:
		return false, nil, err
	case state.Check(s.VM.Identity(), false) != nil:
		return false, nil, state.Check(s.VM.Identity(), false)
	case state.Still():
		return true, nil, nil
	case mode != nil:
		return false, []Mode{mode}, nil
	}
	for _, m := range Modes() {
		if m.Auto() {
			modes = append(modes, m)
		}
	}
	return false, modes, nil
}

// acquireFirst acquires by the first of modes that doesn't have to be rejected.
func (s *Session) acquireFirst(ctx context.Context, modes []Mode) (m *Moment, err error) {
	err = s.eachMode(ctx, modes, func(mode Mode, e *Estimate) (err error) {
		m, err = mode.Acquire(ctx, s, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// eachMode has begin begin by the first of modes that doesn't have to be rejected,
// and by the next where that turns out only then. The error has why each was.
func (s *Session) eachMode(ctx context.Context, modes []Mode, begin func(Mode, *Estimate) error) error {
	var rejected error
	for _, mode := range modes {
		e, why, err := s.judge(ctx, mode)
		if err != nil {
			return err
		}
		if e != nil {
			s.Options.debug(ctx, "mode estimated", "mode", mode.Name(), "stands_still", e.StandsStill.String(),
				"allowed", s.Options.MaxPause.String(), "takes", e.Takes.String(), "copied_first", e.Copied)
		}
		if why == nil {
			if err = begin(mode, e); err == nil || !notBegun(err) {
				return err
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
	return rejected
}

// judge returns what a dump in a mode would take, and why it must not be begun. A
// mode that doesn't hold the guest still isn't estimated: the Estimate is nil.
func (s *Session) judge(ctx context.Context, mode Mode) (e *Estimate, why, err error) {
	if !mode.Consistent() {
		err := mode.Check(ctx, s.VM)
		if errors.Is(err, hv.ErrUnsupported) {
			return nil, err, nil
		}
		return nil, nil, err
	}
	all, err := mode.Estimate(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	return &all[0], all[0].Reject(s.Options.MaxPause), nil
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
	if state.Still() {
		return []Estimate{{Mode: Pause{}.Name(), Takes: sample.writing(), Consistent: true}}, nil
	}
	s.Thorough = true
	var all []Estimate
	for _, mode := range Modes() {
		if err := state.Check(s.VM.Identity(), !mode.Consistent()); err != nil {
			all = append(all, Estimate{Mode: mode.Name(), Why: err, Consistent: mode.Consistent()})
			continue
		}
		e, err := mode.Estimate(ctx, s)
		if err != nil {
			return nil, err
		}
		all = append(all, e...)
	}
	return slices.Clip(all), nil
}
