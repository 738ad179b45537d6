package main

import (
	"strings"
	"testing"
	"time"

	"snap/hv"
	"snap/internal/lab"
)

// TestOperatorResumes: a resume in the middle ends the dump, and a pause after it
// is the operator's.
func TestOperatorResumes(t *testing.T) {
	g := upHeld(t, "operator")
	r := g.start(t)
	g.untilHeld(t, r)
	virsh(t, g.Connection, "resume", g.Name)
	if got := r.wait(t).want(t, exitFailed); !strings.Contains(got.stderr, "somebody resumed it") {
		t.Errorf("stderr is %q; want that somebody resumed the guest", got.stderr)
	}
	g.undone(t, hv.StateRunning, time.Now())

	for _, kill := range []bool{false, true} {
		r = g.start(t)
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

// TestOperatorSuspends: a pause while snap holds nothing is the operator's and
// stays: before snap's, and when the dump is written from the spool.
func TestOperatorSuspends(t *testing.T) {
	g := upHeldWith(t, lab.Spec{Name: "suspends", MemoryMiB: 128, CPUs: 1, FillMiB: 64, Seed: 12})
	for _, tt := range []struct {
		name string
		when func(*testing.T, *running)
	}{
		{"while snap looks at it", g.untilKnown},
		{"while snap writes the copy", g.untilWritingSpooled},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := g.start(t, "--source", "direct", "--level", "best")
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
