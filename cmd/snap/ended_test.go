package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"snap/capture"
	"snap/guest"
	"snap/hv"
	"snap/phys"
	"snap/store"
)

// endedGuest is a domain that was destroyed, or is still there.
type endedGuest struct {
	hv.VM // nothing else is asked for

	why error
}

// endedWatch follows one.
type endedWatch struct {
	hv.Watch // nothing else is asked for

	why error
}

func (w endedWatch) Ended() error { return w.why }

func (g endedGuest) Registers(context.Context) ([]phys.Registers, error) {
	if g.why != nil {
		return nil, hv.ErrUnreachable
	}
	return nil, nil
}

// TestWhyEnded: whatever fails because a domain was destroyed in the middle, that is
// what the operator is told; what has a reason of its own keeps it.
func TestWhyEnded(t *testing.T) {
	for _, tt := range []struct {
		err   error
		cause bool // it can be
	}{
		{hv.ErrNotRunning, true},
		{hv.ErrNoDomain, true},
		{hv.ErrBusy, true},
		{hv.ErrDenied, true},
		{hv.ErrUnreachable, true},
		{hv.ErrNoAnswer, true},
		{hv.ErrUnsupported, true},
		{hv.ErrStillPaused, true},
		{hv.ErrDisturbed, true},
		{guest.ErrNotWindows, true},
		{capture.ErrPauseTooLong, true},
		{phys.ErrNotRAM, true},
		{context.Canceled, false}, // somebody's wish, unless the domain's end was it
		{&store.Error{Doing: "write", Path: "x", Err: syscall.ENOSPC}, false},
		{usageError("wrong"), false},
		{hv.ErrConfidential, false},
	} {
		for _, ended := range []error{fmt.Errorf("destroyed: %w", hv.ErrNotRunning), nil} {
			g := endedGuest{why: ended}
			h := &held{vm: g, watch: endedWatch{why: g.why}}
			want := ended
			if !tt.cause {
				want = nil
			}
			if got := h.whyEnded(fmt.Errorf("dump: %w", tt.err)); !errors.Is(got, want) || (got == nil) != (want == nil) {
				t.Errorf("whyEnded(%v) of a domain that ended with %v = %v; want %v", tt.err, ended, got, want)
			}
		}
	}
	g := endedGuest{why: hv.ErrNotRunning}
	h := &held{vm: g, watch: endedWatch{why: g.why}}
	h.cut.Store(true)
	if got := h.whyEnded(context.Canceled); !errors.Is(got, hv.ErrNotRunning) {
		t.Errorf("whyEnded() of a dump that was ended because its domain had = %v; want %v", got, hv.ErrNotRunning)
	}
}
