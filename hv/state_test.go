package hv_test

import (
	"errors"
	"strings"
	"testing"

	"snap/hv"
)

// TestStates holds the list together: every state once, with a sentence, and with a
// class and a next step exactly where something can't be done.
func TestStates(t *testing.T) {
	seen := map[hv.State]bool{}
	for _, c := range hv.States() {
		if seen[c.State] {
			t.Errorf("%s is there twice", c.State)
		}
		seen[c.State] = true
		if c.Says == "" {
			t.Errorf("%s: nothing is said of it", c.State)
		}
		refuses := c.Use == hv.UseNothing || c.Use == hv.UseLive
		if refuses != (c.Err != nil) || refuses && c.Next == "" {
			t.Errorf("%s: use %d, class %v, next %q; want class and next step where it is refused", c.State, c.Use, c.Err, c.Next)
		}
		if c.State.Condition() != c {
			t.Errorf("%s.Condition() = %+v; want %+v", c.State, c.State.Condition(), c)
		}
	}
	if got := hv.State("on the moon").Condition(); got.State != hv.StateOther || got.Use != hv.UseNothing {
		t.Errorf("Condition() of an unknown state = %+v; want that of %q", got, hv.StateOther)
	}
}

// TestStateOfACrash: nothing that is said of a guest that stopped by itself sends an
// operator to resume it before the dump.
func TestStateOfACrash(t *testing.T) {
	for _, c := range hv.States() {
		before, _, _ := strings.Cut(c.Next, ", then")
		if c.State.Still() && (strings.Contains(before, "{virsh} resume") || strings.Contains(before, "start")) {
			t.Errorf("%s: next is %q; want no resume or start first", c.State, c.Next)
		}
	}
}

func TestStateCheck(t *testing.T) {
	id := hv.Identity{Name: "web01"}
	tests := []struct {
		state       hv.State
		live, other error // of a dump in mode live, and in another
	}{
		{hv.StateRunning, nil, nil},
		{hv.StatePaused, nil, nil},
		{hv.StateCrashed, nil, nil},
		{hv.StateIOError, nil, nil},
		{hv.StateWatchdog, nil, nil},
		{hv.StateShutdown, nil, nil},
		{hv.StateAsleep, nil, hv.ErrUnsupported},
		{hv.StateStarting, hv.ErrBusy, hv.ErrBusy},
		{hv.StateMoving, hv.ErrBusy, hv.ErrBusy},
		{hv.StateSaving, hv.ErrBusy, hv.ErrBusy},
		{hv.StateSplit, hv.ErrBusy, hv.ErrBusy},
		{hv.StateOff, hv.ErrNotRunning, hv.ErrNotRunning},
		{hv.StateOffCrashed, hv.ErrNotRunning, hv.ErrNotRunning},
		{hv.StateSaved, hv.ErrNotRunning, hv.ErrNotRunning},
		{hv.StateOther, hv.ErrUnsupported, hv.ErrUnsupported},
	}
	if len(tests) != len(hv.States()) {
		t.Errorf("%d states are tried; there are %d", len(tests), len(hv.States()))
	}
	for _, tt := range tests {
		for live, want := range map[bool]error{true: tt.live, false: tt.other} {
			err := tt.state.Check(id, live)
			if !errors.Is(err, want) || (want == nil) != (err == nil) {
				t.Errorf("%s.Check(live %t) = %v; want %v", tt.state, live, err, want)
			}
			if e, ok := errors.AsType[*hv.StateError](err); err != nil && (!ok || e.State != tt.state || !strings.Contains(err.Error(), `"web01"`)) {
				t.Errorf("%s.Check(live %t) = %#v; want a *hv.StateError of it", tt.state, live, err)
			}
		}
	}
}
