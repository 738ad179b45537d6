package main

import (
	"strings"
	"testing"
	"time"

	"snap/hv"
	"snap/internal/lab"
)

// TestOperatorResumes: a resume in the middle of a pause that lasts until the dump
// is written ends the dump, and a pause after it is the operator's.
func TestOperatorResumes(t *testing.T) {
	t.Parallel()
	g := upHeld(t, "operator")
	r := g.start(t, "--spool", "off")
	g.untilHeld(t, r)
	virsh(t, g.Connection, "resume", g.Name)
	if got := r.wait(t).want(t, exitFailed); !strings.Contains(got.stderr, "somebody resumed it") {
		t.Errorf("stderr is %q; want that somebody resumed the guest", got.stderr)
	}
	g.undone(t, hv.StateRunning, time.Now())

	for _, kill := range []bool{false, true} {
		r = g.start(t, "--spool", "off")
		g.untilHeld(t, r)
		virsh(t, g.Connection, "resume", g.Name)
		virsh(t, g.Connection, "suspend", g.Name)
		killed := time.Now()
		if kill {
			r.kill()
		} else {
			r.wait(t).want(t, exitFailed)
			killed = time.Now()
		}
		g.undone(t, hv.StatePaused, killed)
		virsh(t, g.Connection, "resume", g.Name)
	}
	mustRun(t, g.Guest)
}

// TestOperatorResumesPaused: a guest that was paused before and is resumed in the
// middle, for good or for a moment, gives no dump and stays as the operator has it.
func TestOperatorResumesPaused(t *testing.T) {
	t.Parallel()
	g := upHeld(t, "resumed")
	for _, again := range []bool{false, true} {
		virsh(t, g.Connection, "suspend", g.Name)
		r := g.start(t)
		g.untilWriting(t, r)
		virsh(t, g.Connection, "resume", g.Name)
		state := hv.StateRunning
		if again {
			virsh(t, g.Connection, "suspend", g.Name)
			state = hv.StatePaused
		}
		if got := r.wait(t).want(t, exitFailed); !strings.Contains(got.stderr, "somebody resumed it") || !strings.Contains(got.stderr, "\nnext: ") {
			t.Errorf("stderr is %q; want that somebody resumed the guest, and a next step", got.stderr)
		}
		if left := g.left(t, state); len(left) > 0 {
			t.Errorf("after the dump was abandoned: %q", left)
		}
	}
	virsh(t, g.Connection, "resume", g.Name)
	mustRun(t, g.Guest)
}

// TestOperatorSuspends: an operator's pause stays, whenever in a dump it comes.
func TestOperatorSuspends(t *testing.T) {
	t.Parallel()
	g := upHeldWith(t, lab.Spec{Name: "suspends", MemoryMiB: 128, CPUs: 1, FillMiB: 64, Seed: 12})
	for _, tt := range []struct {
		name, source string
		when         func(*testing.T, *running)
	}{
		{"while snap looks at it", "direct", g.untilKnown},
		{"while snap holds it", "peek", g.untilHeld}, // which takes its time
		{"while snap writes the copy", "direct", g.untilWritingSpooled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := g.start(t, "--source", tt.source, "--level", "best")
			tt.when(t, r)
			virsh(t, g.Connection, "suspend", g.Name)
			r.wait(t).want(t, exitOK)
			g.wholeOrNone(t)
			if left := g.left(t, hv.StatePaused); len(left) > 0 {
				t.Errorf("after the dump: %q", left)
			}
			virsh(t, g.Connection, "resume", g.Name)
		})
	}
	mustRun(t, g.Guest)
}

// TestOperatorResumesHeld: a resume while the guest is held for a moment waits for
// the end of that, and spoils nothing.
func TestOperatorResumesHeld(t *testing.T) {
	t.Parallel()
	g := upHeldWith(t, lab.Spec{Name: "resumesheld", MemoryMiB: 128, CPUs: 1, FillMiB: 64, Seed: 13})
	r := g.start(t)
	g.untilHeld(t, r)
	if _, err := g.Virsh(t.Context(), "resume", g.Name); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("virsh resume = %v; want that the guest runs already", err)
	}
	r.wait(t).want(t, exitOK)
	g.wholeOrNone(t)
	if left := g.left(t, hv.StateRunning); len(left) > 0 {
		t.Errorf("after the dump: %q", left)
	}
	mustRun(t, g.Guest)
}
