package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/internal/lab"
)

// stallFor is how long destinations take nothing.
const stallFor = 10 * time.Second

// shortPause ends before a stall does, unless an estimate needs more.
const shortPause = 7 * time.Second

// fittingPause is a limit for the pause of a dump with such flags, at least so long, that
// its estimate fits, also where the machine is busier when it is made again.
func (g *heldGuest) fittingPause(t *testing.T, least time.Duration, flags ...string) time.Duration {
	t.Helper()
	modes := checkedModes(t, g.Guest, append(flags, "--max-pause", longPause.String()))
	for _, m := range modes {
		if m.Mode == "pause" && m.Spooled != slices.Contains(flags, "off") && m.PauseMaxMS > 0 {
			return max(least, time.Duration(3*m.PauseMaxMS*float64(time.Millisecond)))
		}
	}
	t.Fatalf("snap check %q estimates %+v; want such a pause among them", flags, modes)
	return 0
}

// Requests of linux/fs.h: stop and start writes to a file system.
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// stalled is a dump whose destination takes nothing until it is told to.
type stalled struct {
	*running
	resume func()             // the destination takes more
	whole  func()             // what was written is a dump
	limit  time.Duration      // of the pause
	began  time.Time          // the stall
	full   func(t *testing.T) // waits until snap stands in a write, where that can be told
}

// TestDestinationStalls: while a destination takes nothing for 10 s the guest
// isn't held for longer than allowed, and the dump ends when the stall does.
func TestDestinationStalls(t *testing.T) {
	t.Parallel()
	pipe := func(g *heldGuest, t *testing.T, flags []string) *stalled {
		p := g.startPiped(t, flags...)
		return &stalled{
			running: p.running, began: time.Now(), full: p.untilFull,
			resume: func() { p.read(t) }, whole: func() { p.whole(t, g.Connection) },
		}
	}
	for i, dest := range []struct {
		name  string
		start func(*heldGuest, *testing.T, []string) *stalled
		done  int // the exit code of a dump that was written
	}{
		{"pipe", pipe, exitOK},
		{"file system", (*heldGuest).startFrozen, exitOK},
	} {
		for j, tt := range []struct {
			name  string
			flags []string
			check func(*testing.T, *heldGuest, *stalled)
			code  int
		}{
			{"spooled", nil, ranOn, dest.done},
			{"not spooled, short pause", []string{"--spool", "off"}, wasLetGo, exitTooLong},
			{"not spooled, long pause", []string{"--spool", "off"}, stoodStill, dest.done},
		} {
			t.Run(dest.name+", "+tt.name, func(t *testing.T) {
				t.Parallel()
				g := upHeldWith(t, lab.Spec{Name: fmt.Sprintf("stall-%d-%d", i, j), MemoryMiB: 128, CPUs: 1, FillMiB: 48, Seed: 41})
				limit, flags := longPause, append([]string{"--source", "direct"}, tt.flags...)
				if tt.code == exitTooLong {
					limit = g.fittingPause(t, shortPause, flags...)
				}
				s := dest.start(g, t, append(flags, "--max-pause", limit.String()))
				s.limit = limit
				tt.check(t, g, s)
				select {
				case <-s.ended:
					t.Fatalf("snap ended during the stall: %s", s.stderr.String())
				default:
				}
				s.resume()
				thawed := time.Now()
				r := s.wait(t).want(t, tt.code)
				if tt.code == exitTooLong {
					if !strings.Contains(r.stderr, "--max-pause") {
						t.Errorf("stderr is %q; want --max-pause as the next step", r.stderr)
					}
				} else {
					s.whole()
				}
				g.undone(t, hv.StateRunning, thawed)
				mustRun(t, g.Guest)
			})
		}
	}
}

// atTheEnd waits until the stall has lasted long enough.
func (s *stalled) atTheEnd() { time.Sleep(time.Until(s.began.Add(stallFor))) }

// ranOn: the guest stood still for its copy, and runs while snap can't write it.
func ranOn(t *testing.T, g *heldGuest, s *stalled) {
	t.Helper()
	s.full(t)
	s.atTheEnd()
	if got := virsh(t, g.Connection, "domstate", "--reason", g.Name); got != "running (unpaused)" {
		t.Errorf("the guest is %s during the stall; want running (unpaused), after its copy", got)
	}
	mustRun(t, g.Guest)
}

// wasLetGo: the guest runs when its time is up, and not when the stall is over.
func wasLetGo(t *testing.T, g *heldGuest, s *stalled) {
	t.Helper()
	g.untilHeld(t, s.running)
	held := time.Now()
	var machine pace
	for state := hv.StatePaused; state != hv.StateRunning; {
		asked := time.Now()
		var err error
		if state, err = g.vm.State(t.Context()); err != nil {
			t.Fatal(err)
		}
		if state != hv.StateRunning && machine.over(asked, held, s.limit+runsAgainIn) {
			t.Fatalf("the guest is %s after %v of %v that were allowed", state, asked.Sub(held), s.limit)
		}
	}
	mustRun(t, g.Guest)
	s.atTheEnd()
}

// stoodStill: the guest may stand for longer than the stall, and does.
func stoodStill(t *testing.T, g *heldGuest, s *stalled) {
	t.Helper()
	g.untilHeld(t, s.running)
	s.full(t)
	s.atTheEnd()
	if state, err := g.vm.State(t.Context()); !state.Stopped() || err != nil {
		t.Errorf("the guest is %s (%v) at the end of the stall; want paused", state, err)
	}
}

// startFrozen begins a dump to a file system that stops taking writes when snap
// has made its partial file there.
func (g *heldGuest) startFrozen(t *testing.T, flags []string) *stalled {
	t.Helper()
	image, at := filepath.Join(g.Dir(), "image"), filepath.Join(g.Dir(), "mounted")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := os.Truncate(image, 256<<20); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s (root is needed): %v: %s", strings.Join(args, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	g.folder = filepath.Join(at, "dumps")
	if err := os.Mkdir(g.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	s := &stalled{running: g.start(t, flags...), full: func(*testing.T) {}}
	s.until(t, "its file was there", func() bool { return g.written() >= 0 })
	if err := unix.IoctlSetInt(int(dir.Fd()), fiFreeze, 0); err != nil {
		t.Fatalf("freeze %s: %v", at, err)
	}
	s.began = time.Now()
	frozen := true
	s.resume = func() {
		if !frozen {
			return
		}
		frozen = false
		dir, err := os.Open(at)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		if err := unix.IoctlSetInt(int(dir.Fd()), fiThaw, 0); err != nil {
			t.Errorf("thaw %s: %v", at, err)
		}
	}
	t.Cleanup(s.resume) // before its writer is killed, which would wait for it
	s.whole = func() {
		path := filepath.Join(g.folder, "out.dmp.zst")
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		g.wholeOrNone(t)
	}
	return s
}
