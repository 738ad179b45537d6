package capture

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"snap/hv"
	"snap/internal/ntlab"
)

// borrowed is a mode that somebody adds: it reads a guest that is known not to
// change. All of it is this one value.
type borrowed struct {
	why  error // that it can't be taken
	took *int
}

func (borrowed) Name() string                         { return "borrowed" }
func (borrowed) Doc() string                          { return "nobody uses the guest meanwhile" }
func (borrowed) Auto() bool                           { return true }
func (borrowed) Consistent() bool                     { return true }
func (b borrowed) Check(context.Context, hv.VM) error { return b.why }

func (b borrowed) Estimate(context.Context, *Session) ([]Estimate, error) {
	return []Estimate{{Mode: "borrowed", Why: b.why, Takes: time.Second, Consistent: true}}, nil
}

func (b borrowed) Acquire(ctx context.Context, s *Session, _ *Estimate) (*Moment, error) {
	*b.took++
	cpus, err := s.VM.Registers(ctx)
	if err != nil {
		return nil, err
	}
	return NewMoment(ctx, s.Memory, cpus, s.Account(b), nil), nil
}

// TestAddMode: a mode is one type and, to be found by its name, one line in Modes.
// Asked for, it takes the dump; auto takes it where it stands before others, and
// passes it by where it can't be taken.
func TestAddMode(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 71})
	var took int
	mode := borrowed{took: &took}
	res, err := (&job{vm: vm, Options: Options{Mode: mode}}).take(t.Context(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if res.Mode != "borrowed" || res.Manifest.Mode != "borrowed" || took != 1 || vm.holds != 0 {
		t.Errorf("mode %q, in the manifest %q, acquired %d times, %d pauses", res.Mode, res.Manifest.Mode, took, vm.holds)
	}

	s, err := Open(t.Context(), vm, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	refused := borrowed{why: errors.Join(errors.New("somebody does"), hv.ErrUnsupported), took: &took}
	for _, tt := range []struct {
		name  string
		modes []Mode
		want  string // empty: none
	}{
		{"first", []Mode{mode, Pause{}}, "borrowed"},
		{"rejected", []Mode{refused, Pause{}}, "pause"},
		{"the only one", []Mode{refused}, ""},
	} {
		m, err := s.acquireFirst(t.Context(), tt.modes)
		if tt.want == "" {
			if !errors.Is(err, hv.ErrUnsupported) {
				t.Errorf("%s: error is %v; want %v", tt.name, err, hv.ErrUnsupported)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if m.Account.Mode != tt.want {
			t.Errorf("%s: mode is %q; want %q", tt.name, m.Account.Mode, tt.want)
		}
		if err := m.Release(nil); err != nil {
			t.Errorf("%s: Release(nil) = %v", tt.name, err)
		}
	}
}

// TestCandidates: auto chooses among the modes that may be chosen unasked, and
// nothing but keeping it so is left to do with a guest that others have paused.
func TestCandidates(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 72})
	names := func(mode Mode) (bool, string) {
		s, err := Open(t.Context(), vm, Options{Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		others, modes, err := s.candidates(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, m := range modes {
			all = append(all, m.Name())
		}
		return others, strings.Join(all, " ")
	}
	for _, tt := range []struct {
		mode   Mode
		paused bool
		others bool
		want   string
	}{
		{nil, false, false, "pause snapshot"},
		{Pause{}, false, false, "pause"},
		{Snapshot{}, false, false, "snapshot"},
		{Live{}, false, false, "live"},
		{nil, true, true, ""},
		{Pause{}, true, true, ""},
		{Snapshot{}, true, true, ""},
		{Live{}, true, false, "live"},
	} {
		vm.paused.Store(tt.paused)
		if others, got := names(tt.mode); others != tt.others || got != tt.want {
			t.Errorf("mode %v, paused by others %v: %v, %q; want %v, %q", tt.mode, tt.paused, others, got, tt.others, tt.want)
		}
	}
}

// TestModes: each mode is found by its name and says what it does.
func TestModes(t *testing.T) {
	seen := map[string]bool{ModeAuto: true}
	for _, m := range Modes() {
		if seen[m.Name()] {
			t.Errorf("two modes are called %q", m.Name())
		}
		seen[m.Name()] = true
		if m.Doc() == "" || strings.Contains(m.Doc(), "\n") {
			t.Errorf("mode %s is documented as %q; want a line", m.Name(), m.Doc())
		}
		if got, err := ModeByName(m.Name()); err != nil || got != m {
			t.Errorf("ModeByName(%q) = %v, %v", m.Name(), got, err)
		}
	}
	if m, err := ModeByName(ModeAuto); m != nil || err != nil {
		t.Errorf("ModeByName(%q) = %v, %v; want none", ModeAuto, m, err)
	}
	if _, err := ModeByName("sideways"); err == nil || !strings.Contains(err.Error(), "snapshot") {
		t.Errorf("ModeByName(sideways) = %v; want an error that names the modes", err)
	}
}

// TestReleaseTwice: letting a moment go again does nothing, and a result passes
// through.
func TestReleaseTwice(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 72})
	s, err := Open(t.Context(), vm, Options{Mode: Pause{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !vm.paused.Load() || !m.Account.Held {
		t.Errorf("the guest is paused: %v, held: %v; want both", vm.paused.Load(), m.Account.Held)
	}
	why := errors.New("why")
	if err := m.Release(why); !errors.Is(err, why) || vm.paused.Load() || m.Account.Held || m.Account.Pause == 0 {
		t.Errorf("Release(why) = %v, paused %v, account %+v", err, vm.paused.Load(), m.Account)
	}
	if err := m.Release(nil); err != nil {
		t.Errorf("second Release(nil) = %v", err)
	}
}

// TestPhases: an observer hears the phases in their order, and whether the guest
// is held.
func TestPhases(t *testing.T) {
	held := []Phase{PhaseLook, PhaseEstimate, PhasePaused, PhaseWrite, PhaseRunning}
	for name, tt := range map[string]struct {
		o    Options
		want []Phase
		held bool // while pages are written
	}{
		"copy":    {Options{Mode: Pause{}, MemoryCopy: spoolSize}, []Phase{PhaseLook, PhaseEstimate, PhaseReserve, PhasePaused, PhaseRunning, PhaseWrite}, false},
		"no copy": {Options{Mode: Pause{}}, held, true},
		"auto":    {Options{}, held, true},
		"live":    {Options{Mode: Live{}, MemoryCopy: spoolSize}, []Phase{PhaseLook, PhaseReserve, PhaseCopy, PhaseWrite}, false},
	} {
		t.Run(name, func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{Seed: 73})
			var got []Phase
			tt.o.Observer = ObserverFunc(func(e Event) {
				got = append(got, e.Phase)
				if paused := vm.paused.Load(); e.Held != paused {
					t.Errorf("in phase %s held is %v, and the guest is paused: %v", e.Phase, e.Held, paused)
				}
				if e.Phase == PhaseWrite && (e.Held != tt.held || e.Progress == nil) {
					t.Errorf("pages are written, held %v, progress %v; want %v and some", e.Held, e.Progress, tt.held)
				}
				if (e.Phase == PhaseRunning) != (e.Stood > 0) {
					t.Errorf("in phase %s the guest stood still for %v", e.Phase, e.Stood)
				}
			})
			if _, err := (&job{vm: vm, Options: tt.o}).take(t.Context(), io.Discard); err != nil {
				t.Fatal(err)
			}
			if len(got) != len(tt.want) {
				t.Fatalf("phases are %v; want %v", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Fatalf("phases are %v; want %v", got, tt.want)
				}
			}
		})
	}
}

// TestReject: a dump is begun if the guest's standing still fits the limit at its
// pessimistic end.
func TestReject(t *testing.T) {
	ms := time.Millisecond
	pause := &PauseEstimate{}
	for _, tt := range []struct {
		name  string
		e     Estimate
		limit time.Duration
		want  error
	}{
		{"fits likely, and not at worst", Estimate{StandsStill: Span{Likely: 100 * ms, Most: 300 * ms}}, 200 * ms, ErrPauseTooLong},
		{"of a pause", Estimate{StandsStill: Span{Likely: 100 * ms, Most: 300 * ms}, Pause: pause}, 200 * ms, ErrPauseTooLong},
		{"fits at worst", Estimate{StandsStill: Span{Likely: 100 * ms, Most: 300 * ms}, Pause: pause}, 300 * ms, nil},
		{"no limit", Estimate{StandsStill: Span{Likely: 100 * ms, Most: time.Hour}, Pause: pause}, 0, nil},
		{"doesn't stand still", Estimate{}, ms, nil},
		{"can't be taken", Estimate{Why: hv.ErrUnsupported}, time.Hour, hv.ErrUnsupported},
	} {
		if got := tt.e.Reject(tt.limit); !errors.Is(got, tt.want) {
			t.Errorf("%s: Reject(%v) = %v; want %v", tt.name, tt.limit, got, tt.want)
		}
	}
}
