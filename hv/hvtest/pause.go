package hvtest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"snap/hv"
)

// PauseOptions say which way to hold a guest still the suite is about.
type PauseOptions struct {
	// Pause is that way; nil is VM.Pause.
	Pause func(ctx context.Context, vm hv.VM) (hv.Hold, error)
}

// TestPause runs what every pause must do. open is called for each part of it and
// must return a VM whose guest runs, which the suite closes. When the suite ends the
// guest runs.
func TestPause(t *testing.T, open func(t *testing.T) hv.VM, o PauseOptions) {
	t.Helper()
	if o.Pause == nil {
		o.Pause = vmPause
	}
	parts := []struct {
		name string
		run  func(*testing.T, hv.VM, PauseOptions)
	}{
		{"stops and goes on", testPauseStops},
		{"again", testPauseAgain},
		{"released twice", testReleasedTwice},
		{"paused already", testPausedAlready},
		{"after its context", testReleaseAfterContext},
		{"cancelled", testPauseCancelled},
		{"released together", testReleasedTogether},
	}
	for _, p := range parts {
		t.Run(p.name, func(t *testing.T) {
			vm := open(t)
			defer func() {
				if err := vm.Close(); err != nil {
					t.Errorf("Close() failed: %v", err)
				}
			}()
			wantState(t, vm, hv.StateRunning, "before")
			p.run(t, vm, o)
			wantState(t, vm, hv.StateRunning, "in the end")
		})
	}
}

// vmPause is VM.Pause as a function.
func vmPause(ctx context.Context, vm hv.VM) (hv.Hold, error) { return vm.Pause(ctx) }

// wantState demands that the guest is in a state.
func wantState(t *testing.T, vm hv.VM, want hv.State, when string) {
	t.Helper()
	// The test's own context may have been ended by the part.
	ctx, cancel := context.WithTimeout(context.Background(), prompt)
	defer cancel()
	if got, err := vm.State(ctx); err != nil || got != want {
		t.Errorf("%s the guest is %s (%v); want %s", when, got, err, want)
	}
}

// wantStopped demands that the guest stands still.
func wantStopped(t *testing.T, vm hv.VM, when string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), prompt)
	defer cancel()
	if got, err := vm.State(ctx); err != nil || !got.Stopped() {
		t.Errorf("%s the guest is %s (%v); want it to stand still", when, got, err)
	}
}

// pause holds the guest still, and demands that it stands.
func pause(t *testing.T, vm hv.VM, how func(context.Context, hv.VM) (hv.Hold, error)) hv.Hold {
	t.Helper()
	h, err := how(t.Context(), vm)
	if err != nil {
		t.Fatalf("pause failed: %v", err)
	}
	wantStopped(t, vm, "during the pause")
	return h
}

// released demands that a Release resumed the guest, and returns how long it stood.
func released(t *testing.T, h hv.Hold) time.Duration {
	t.Helper()
	stood, err := h.Release()
	if err != nil || stood <= 0 {
		t.Errorf("Release() = %v, %v; want how long it stood", stood, err)
	}
	return stood
}

// testPauseStops: a pause stops the guest, and Release has it go on and says how
// long it stood, which is no longer than it can have.
func testPauseStops(t *testing.T, vm hv.VM, o PauseOptions) {
	began := time.Now()
	h := pause(t, vm, o.Pause)
	if stood, most := released(t, h), time.Since(began); stood > most {
		t.Errorf("Release() says that it stood for %v; want at most %v, which all of it took", stood, most)
	}
}

// testPauseAgain: a guest that was paused once can be paused again.
func testPauseAgain(t *testing.T, vm hv.VM, o PauseOptions) {
	for range 2 {
		released(t, pause(t, vm, o.Pause))
		wantState(t, vm, hv.StateRunning, "after the pause")
	}
}

// testReleasedTwice: a second Release returns what the first did and touches
// nothing, also not what another Hold keeps paused by then.
func testReleasedTwice(t *testing.T, vm hv.VM, o PauseOptions) {
	first := pause(t, vm, o.Pause)
	stood := released(t, first)
	second := pause(t, vm, o.Pause)
	if again, err := first.Release(); again != stood || err != nil {
		t.Errorf("second Release() = %v, %v; want the first one's %v", again, err, stood)
	}
	wantStopped(t, vm, "after a late Release of another Hold")
	released(t, second)
}

// testPausedAlready: a pause of a guest that stands still leaves it so.
func testPausedAlready(t *testing.T, vm hv.VM, o PauseOptions) {
	outer := pause(t, vm, vmPause)
	inner := pause(t, vm, o.Pause)
	for range 2 {
		if stood, err := inner.Release(); stood != 0 || err != nil {
			t.Errorf("Release() of a guest that was paused already = %v, %v; want 0", stood, err)
		}
		wantStopped(t, vm, "after the inner Release")
	}
	released(t, outer)
}

// testReleaseAfterContext: a Release owes nothing to the context of the pause.
func testReleaseAfterContext(t *testing.T, vm hv.VM, o PauseOptions) {
	ctx, cancel := context.WithCancel(t.Context())
	h := pause(t, vm, func(_ context.Context, vm hv.VM) (hv.Hold, error) { return o.Pause(ctx, vm) })
	cancel()
	wantStopped(t, vm, "after the context's end")
	released(t, h)
}

// testPauseCancelled: a context that has ended fails the pause, and the guest runs.
func testPauseCancelled(t *testing.T, vm hv.VM, o PauseOptions) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h, err := o.Pause(ctx, vm)
	if !errors.Is(err, context.Canceled) || errors.Is(err, hv.ErrStillPaused) {
		t.Errorf("pause with an ended context = %v; want %v", err, context.Canceled)
	}
	if err == nil {
		_, _ = h.Release() // the state in the end tells
	}
}

// testReleasedTogether: of many at once who release, all get the same.
func testReleasedTogether(t *testing.T, vm hv.VM, o PauseOptions) {
	h := pause(t, vm, o.Pause)
	var all sync.WaitGroup
	results := make([]time.Duration, 8)
	for i := range results {
		all.Go(func() { results[i] = released(t, h) })
	}
	all.Wait()
	for _, r := range results[1:] {
		if r != results[0] {
			t.Errorf("Release() of many at once = %v; want the same for all", results)
			break
		}
	}
}
