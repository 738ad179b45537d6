package hvtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"snap/hv"
)

// undoFor bounds an attempt to undo a pause.
const undoFor = 30 * time.Second

// aRun names the dump that the suite makes out to take, as a dump's name is: who looks
// for marks meanwhile finds that of a dump on another host.
const aRun = "hvtesthvtesthvte"

// TestGuard runs what every VM must do that another process can have a look after.
// open is called several times for each part and must return a VM of its own each
// time, all of the same guest, which runs and bears no marker. The suite closes
// them. When it ends the guest is as it was.
func TestGuard(t *testing.T, open func(t *testing.T) hv.Guardable) {
	t.Helper()
	parts := []struct {
		name string
		run  func(*testing.T, hv.Guardable, hv.Guardable)
	}{
		{"kept", testKept},
		{"refused", testKeeperRefuses},
		{"for a time", testKeptForATime},
		{"overdue", testKeptTooLong},
		{"undone", testUndone},
		{"somebody else's", testUndoLeaves},
		{"nothing to undo", testUndoNothing},
		{"watched", testWatched},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			vm, other := open(t), open(t)
			defer func() {
				if err := errors.Join(vm.Close(), other.Close()); err != nil {
					t.Errorf("Close() failed: %v", err)
				}
			}()
			p.run(t, vm, other)
			wantState(t, vm, hv.StateRunning, "in the end")
			wantMarker(t, vm, "", "in the end")
		})
	}
}

// wantMarker demands that the VM bears the marker of a run, none if it is empty.
func wantMarker(t *testing.T, vm hv.Guardable, run, when string) {
	t.Helper()
	m, err := vm.Marker(t.Context())
	if err != nil {
		t.Errorf("%s Marker() failed: %v", when, err)
		return
	}
	if m == nil {
		m = &hv.Marker{}
	}
	if m.Run != run {
		t.Errorf("%s the VM bears the marker of run %q; want %q", when, m.Run, run)
	}
}

// keeper is a Keeper that notes what it is told, and what the guest does then.
type keeper struct {
	t    *testing.T
	look hv.Guardable // another VM of the same guest
	fail error        // of Hold
	late error        // of Freed

	said []string
}

func (k *keeper) note(what string) {
	ctx, cancel := context.WithTimeout(context.Background(), prompt)
	defer cancel()
	s, err := k.look.State(ctx)
	m, merr := k.look.Marker(ctx)
	if err := errors.Join(err, merr); err != nil {
		k.t.Errorf("look at the guest: %v", err)
	}
	k.said = append(k.said, fmt.Sprintf("%s: %s, marked %v", what, s, m != nil))
}

// Hold implements hv.Keeper.
func (k *keeper) Hold(_ context.Context, why hv.Reason, until time.Time) error {
	what := "hold for " + string(why)
	if !until.IsZero() {
		what += ", for a time"
	}
	k.note(what)
	return k.fail
}

// Progressed implements hv.Keeper.
func (k *keeper) Progressed() { k.note("progressed") }

// Freed implements hv.Keeper.
func (k *keeper) Freed() error { k.note("freed"); return k.late }

// guarded puts vm under a keeper.
func guarded(t *testing.T, vm, other hv.Guardable) (k *keeper, w hv.Watch) {
	t.Helper()
	w, err := vm.Watch(t.Context())
	if err != nil {
		t.Fatalf("Watch() failed: %v", err)
	}
	t.Cleanup(w.Close)
	k = &keeper{t: t, look: other}
	vm.Guard(hv.Guard{Keeper: k, Watch: w, Marker: hv.Marker{Run: aRun, Host: "host", Boot: "boot", Namespace: 9, PID: 7, Start: 8}})
	return k, w
}

// testKept: keeper and marker stand around a pause.
func testKept(t *testing.T, vm, other hv.Guardable) {
	k, _ := guarded(t, vm, other)
	h := pause(t, vm, vmPause)
	m, err := other.Marker(t.Context())
	if err != nil || m == nil {
		t.Fatalf("Marker() during the pause = %v, %v; want one", m, err)
	}
	want := hv.Marker{Run: aRun, Host: "host", Boot: "boot", Namespace: 9, PID: 7, Start: 8, Since: m.Since, Was: hv.StateRunning, Why: hv.ForPause}
	if *m != want || time.Since(m.Since).Abs() > time.Hour {
		t.Errorf("Marker() during the pause = %+v; want %+v, of now", *m, want)
	}
	released(t, h)
	if want := []string{"hold for pause: running, marked false", "freed: running, marked false"}; !slices.Equal(k.said, want) {
		t.Errorf("the keeper was told %q; want %q", k.said, want)
	}
}

// testKeeperRefuses: what nobody would undo isn't done.
func testKeeperRefuses(t *testing.T, vm, other hv.Guardable) {
	errNo := errors.New("the test's keeper refuses")
	k, _ := guarded(t, vm, other)
	k.fail = errNo
	if _, err := vm.Pause(t.Context()); !errors.Is(err, errNo) || errors.Is(err, hv.ErrStillPaused) {
		t.Errorf("Pause() whose keeper refuses = %v; want %v", err, errNo)
	}
}

// testKeptForATime: the keeper knows of a pause's deadline, and of its progress.
func testKeptForATime(t *testing.T, vm, other hv.Guardable) {
	k, _ := guarded(t, vm, other)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	h, err := vm.Pause(ctx)
	if err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	h.Progressed()
	released(t, h)
	want := []string{"hold for pause, for a time: running, marked false", "progressed: paused, marked true", "freed: running, marked false"}
	if !slices.Equal(k.said, want) {
		t.Errorf("the keeper was told %q; want %q", k.said, want)
	}
}

// testKeptTooLong: that the keeper let the guest go is what Release says, and for
// how long it stood until then.
func testKeptTooLong(t *testing.T, vm, other hv.Guardable) {
	k, _ := guarded(t, vm, other)
	h := pause(t, vm, vmPause)
	if did, err := undo(t, other, hv.Left{Run: aRun, Why: hv.ForPause}); err != nil || did == "" {
		t.Errorf("Undo() of a pause = %q, %v; want what was done", did, err)
	}
	k.late = &hv.OverdueError{Held: 7 * time.Millisecond, Why: "the test's keeper says so"}
	if stood, err := h.Release(); !errors.Is(err, hv.ErrOverdue) || errors.Is(err, hv.ErrDisturbed) || stood != 7*time.Millisecond {
		t.Errorf("Release() of a pause that its keeper ended = %v, %v; want 7ms and %v", stood, err, hv.ErrOverdue)
	}
}

// undo undoes as another process would.
func undo(t *testing.T, vm hv.Guardable, l hv.Left) (did string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), undoFor)
	defer cancel()
	return vm.Undo(ctx, l)
}

// testUndone: another process resumes the guest, leaves the marker to be removed
// last, and who paused the guest learns of it.
func testUndone(t *testing.T, vm, other hv.Guardable) {
	guarded(t, vm, other)
	h := pause(t, vm, vmPause)
	if did, err := undo(t, other, hv.Left{Run: aRun, Why: hv.ForPause}); err != nil || did == "" {
		t.Errorf("Undo() of a pause = %q, %v; want what was done", did, err)
	}
	wantState(t, other, hv.StateRunning, "after Undo()")
	wantMarker(t, other, aRun, "after Undo()")
	if did, err := undo(t, other, hv.Left{Run: aRun, Why: hv.ForPause}); err != nil || did != "" {
		t.Errorf("second Undo() = %q, %v; want that nothing was to be done", did, err)
	}
	if err := errors.Join(other.ClearMarker(t.Context()), other.ClearMarker(t.Context())); err != nil {
		t.Errorf("ClearMarker(), twice, failed: %v", err)
	}
	if _, err := h.Release(); !errors.Is(err, hv.ErrDisturbed) {
		t.Errorf("Release() after somebody else resumed the guest = %v; want %v", err, hv.ErrDisturbed)
	}
}

// testUndoLeaves: a guest that another one paused, with a marker of its own or with
// none, is left alone.
func testUndoLeaves(t *testing.T, vm, other hv.Guardable) {
	guarded(t, vm, other)
	h := pause(t, vm, vmPause)
	if did, err := undo(t, other, hv.Left{Run: "another dump", Why: hv.ForPause}); !errors.Is(err, hv.ErrDisturbed) || did != "" {
		t.Errorf("Undo() of another dump's pause = %q, %v; want %v", did, err, hv.ErrDisturbed)
	}
	wantState(t, other, hv.StatePaused, "after Undo() of another dump's")
	released(t, h)
	h = pause(t, other, vmPause) // which stands under no keeper
	if did, err := undo(t, vm, hv.Left{Run: aRun, Why: hv.ForPause}); !errors.Is(err, hv.ErrDisturbed) || did != "" {
		t.Errorf("Undo() of an operator's pause = %q, %v; want %v", did, err, hv.ErrDisturbed)
	}
	wantState(t, vm, hv.StatePaused, "after Undo() of an operator's")
	released(t, h)
}

// testUndoNothing: there need not be anything to undo, whatever for.
func testUndoNothing(t *testing.T, vm, _ hv.Guardable) {
	for _, why := range []hv.Reason{hv.ForPause, hv.ForJob} {
		if _, err := undo(t, vm, hv.Left{Run: aRun, Why: why}); err != nil {
			t.Errorf("Undo() for %s of nothing = %v; want no error", why, err)
		}
		wantState(t, vm, hv.StateRunning, "after Undo() of nothing")
	}
}

// testWatched: a Watch sees that the guest was paused and resumed, and only what
// came after Reset.
func testWatched(t *testing.T, vm, other hv.Guardable) {
	w, err := other.Watch(t.Context())
	if err != nil {
		t.Fatalf("Watch() failed: %v", err)
	}
	defer w.Close()
	if w.Resumed() || w.Ended() != nil {
		t.Errorf("a new Watch has seen a resume: %v, or an end: %v; want neither", w.Resumed(), w.Ended())
	}
	released(t, pause(t, vm, vmPause))
	for began := time.Now(); !w.Resumed(); time.Sleep(time.Millisecond) {
		if time.Since(began) > prompt {
			t.Fatal("the Watch doesn't see the resume")
		}
	}
	w.Reset(false)
	if w.Resumed() {
		t.Error("Resumed() after Reset() = true; want false")
	}
	select {
	case <-w.Over():
		t.Errorf("the Watch says that the guest ended: %v", w.Ended())
	default:
	}
}
