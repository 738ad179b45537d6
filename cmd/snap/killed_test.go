package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/internal/lab"
)

// killedWay is a way to take a dump, and how often one that goes that way is
// killed.
type killedWay struct {
	name  string
	flags []string
	kills int
	// until waits for when to kill it, soon after; nil is at any moment.
	until func(*heldGuest, *testing.T, *running)
}

// killedGuests are the guests whose dumps are killed, each way on the one that
// can be dumped so.
var killedGuests = []struct {
	spec lab.Spec
	ways []killedWay
}{
	{lab.Spec{Name: "killed", MemoryMiB: 128, CPUs: 1, FillMiB: 48, Seed: 11}, []killedWay{
		{"pause by peek", []string{"--source", "peek"}, 2, nil},
		{"pause by peek, held", []string{"--source", "peek"}, 4, (*heldGuest).untilHeld},
		{"pause by direct", []string{"--source", "direct"}, 11, nil},
		{"pause by direct, held", []string{"--source", "direct", "--spool", "off", "--level", "best"}, 8, (*heldGuest).untilHeld},
		{"live", []string{"--mode", "live", "--source", "direct"}, 9, nil},
	}},
	{lab.Spec{Name: "killed-snapshot", NewerQEMU: true, MemoryMiB: 512, CPUs: 1, FillMiB: 48, Seed: 12}, []killedWay{
		{"snapshot", []string{"--mode", "snapshot", "--source", "auto"}, 8, nil},
		{"snapshot, saving", []string{"--mode", "snapshot", "--source", "auto"}, 8, (*heldGuest).untilSaving},
	}},
}

// TestKilled kills snap at 50 random moments, from its start to its end.
func TestKilled(t *testing.T) {
	userfaultfd(t, true)
	kills := 0
	for _, tt := range killedGuests {
		for _, w := range tt.ways {
			kills += w.kills
		}
		t.Run(tt.spec.Name, func(t *testing.T) {
			t.Parallel()
			g := upHeldWith(t, tt.spec)
			for _, w := range tt.ways {
				t.Run(w.name, func(t *testing.T) { g.killOften(t, w) })
			}
			g.unharmed(t)
		})
	}
	if kills < 50 {
		t.Errorf("%d dumps were killed; want 50 at least", kills)
	}
}

// killOften kills dumps that go one way.
func (g *heldGuest) killOften(t *testing.T, w killedWay) {
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	// One that nobody kills says how long they take. It may be degraded.
	began := time.Now()
	whole := g.start(t, w.flags...)
	if r := whole.wait(t); r.code != exitOK && r.code != exitDegraded {
		r.want(t, exitOK)
	}
	within := time.Since(began)
	g.wholeOrNone(t)
	for range w.kills {
		r := g.start(t, w.flags...)
		wait := within
		if w.until != nil {
			w.until(g, t, r)
			wait = 100 * time.Millisecond
		}
		time.Sleep(time.Duration(random.Int64N(int64(wait))))
		killed := time.Now()
		r.kill()
		g.wholeOrNone(t)
		g.undone(t, hv.StateRunning, killed)
	}
}

// unharmed holds the guest to what can be done with any other: libvirt dumps it,
// saves it and restores it, snap dumps it, and it runs.
func (g *heldGuest) unharmed(t *testing.T) {
	t.Helper()
	mustRun(t, g.Guest)
	takeCore(t, g.Guest, "after.elf")
	virsh(t, g.Connection, "dump", g.Name, filepath.Join(g.Dir(), "after.save"))
	runSnap(t, g.Connection, "recover", g.Name).want(t, exitOK)
	if left := g.left(t, hv.StateRunning); len(left) > 0 {
		t.Errorf("after snap recover: %q", left)
	}
	runSnap(t, g.Connection, "dump", g.Name, "-o", filepath.Join(g.folder, "after.dmp.zst"), "-q").want(t, exitOK)
	before, err := g.Heartbeats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(g.Dir(), "saved")
	virsh(t, g.Connection, "save", g.Name, saved)
	virsh(t, g.Connection, "restore", saved)
	mustRun(t, g.Guest)
	after, err := g.Heartbeats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range after {
		if after[i] <= before[i] {
			t.Errorf("processor %d counts %d after it was restored, and %d before it was saved", i, after[i], before[i])
		}
	}
}

// wholeOrNone removes the dump that a killed snap had finished already. A file
// that has the final name must be whole.
func (g *heldGuest) wholeOrNone(t *testing.T) {
	t.Helper()
	path := filepath.Join(g.folder, "out.dmp.zst")
	if _, err := os.Stat(path); err != nil {
		return
	}
	runSnap(t, g.Connection, "verify", path).want(t, exitOK)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(path + ".json") // it is written last
}

// TestKilledWithGuardian kills both processes: snap recover undoes the dump, from
// its state file or, if that is lost, from the domain's mark.
func TestKilledWithGuardian(t *testing.T) {
	g := upHeld(t, "killed-both")
	for _, lost := range []bool{false, true} {
		r := g.start(t, "--spool", "off")
		g.untilHeld(t, r)
		run, path := g.runFile(t)
		if err := unix.Kill(run.Guardian.PID, unix.SIGKILL); err != nil {
			t.Fatalf("kill the guardian: %v", err)
		}
		done := runSnap(t, g.Connection, "recover", g.Name).want(t, exitOK)
		if !strings.Contains(done.stdout, "left alone") {
			t.Errorf("snap recover says %q of a dump that runs; want that it is left alone", done.stdout)
		}
		r.kill()
		if s, err := g.vm.State(t.Context()); s != hv.StatePaused || err != nil {
			t.Fatalf("the guest is %s (%v) with nobody to resume it; want paused", s, err)
		}
		if lost {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			for _, f := range run.Files {
				_ = os.Remove(f) // nothing knows of them any more
			}
		}
		done = runSnap(t, g.Connection, "recover").want(t, exitOK)
		if !strings.Contains(done.stdout, g.Name+": resumed the guest") {
			t.Errorf("snap recover says %q; want that it resumed the guest", done.stdout)
		}
		if left := g.left(t, hv.StateRunning); len(left) > 0 {
			t.Errorf("after snap recover: %q", left)
		}
	}
	runSnap(t, g.Connection, "recover", "snap-lab-nobody").want(t, exitNoDomain)
	mustRun(t, g.Guest)
}

// TestKilledWithGuardianHeld: a guest that is held for a moment goes on by itself
// when both processes are gone, and snap recover removes the rest.
func TestKilledWithGuardianHeld(t *testing.T) {
	g := upHeldWith(t, lab.Spec{Name: "killed-job", MemoryMiB: 128, CPUs: 1, FillMiB: 64, Seed: 14})
	for _, lost := range []bool{false, true} {
		r := g.start(t)
		g.untilHeld(t, r)
		run, path := g.runFile(t)
		if err := unix.Kill(run.Guardian.PID, unix.SIGKILL); err != nil {
			t.Fatalf("kill the guardian: %v", err)
		}
		killed := time.Now()
		r.kill()
		for {
			asked := time.Now()
			s, err := g.vm.State(t.Context())
			if s == hv.StateRunning && err == nil {
				break
			}
			if asked.After(killed.Add(runsAgainIn)) {
				t.Fatalf("the guest is %s (%v) %v after both were killed; want running", s, err, asked.Sub(killed))
			}
		}
		if lost {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			for _, f := range run.Files {
				_ = os.Remove(f) // nothing knows of them any more
			}
		}
		runSnap(t, g.Connection, "recover").want(t, exitOK)
		if left := g.left(t, hv.StateRunning); len(left) > 0 {
			t.Errorf("after snap recover: %q", left)
		}
	}
	mustRun(t, g.Guest)
}

// TestKilledOfPaused: a guest that somebody else paused stays so.
func TestKilledOfPaused(t *testing.T) {
	t.Parallel()
	g := upHeld(t, "killed-paused")
	virsh(t, g.Connection, "suspend", g.Name)
	r := g.start(t)
	g.untilWriting(t, r)
	killed := time.Now()
	r.kill()
	g.undone(t, hv.StatePaused, killed)
	virsh(t, g.Connection, "resume", g.Name)
}
