package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/internal/lab"
)

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
// its state file or, if that is lost, from the domain's mark. That of another domain is
// damaged, which is told, stands between nobody and his undoing, and has nothing done to
// the domain.
func TestKilledWithGuardian(t *testing.T) {
	g := upHeld(t, "killed-both")
	beside := upGuest(t, lab.Spec{Name: "killed-beside", MemoryMiB: 64, CPUs: 1, Seed: 62})
	virsh(t, beside.Connection, "suspend", beside.Name) // as an operator may
	virsh(t, beside.Connection, "metadata", beside.Name, "urn:snap:hold:1", "--key", "snap", "--set", `<hold pid="many"/>`, "--live")
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
		done = runSnap(t, g.Connection, "recover", "--log-format", "console").want(t, exitFailed)
		if !strings.Contains(done.stderr, beside.Name) || !strings.Contains(done.stderr, "snap recover --force") {
			t.Errorf("snap recover says %q; want what to do about the mark of %s", done.stderr, beside.Name)
		}
		if state := virsh(t, g.Connection, "domstate", beside.Name); state != string(hv.StatePaused) {
			t.Errorf("the guest beside it is %s; want paused, as it was left", state)
		}
		if !strings.Contains(done.stdout, g.Name+": resumed the guest") {
			t.Errorf("snap recover says %q; want that it resumed the guest", done.stdout)
		}
		if left := g.left(t, hv.StateRunning); len(left) > 0 {
			t.Errorf("after snap recover: %q", left)
		}
	}
	runSnap(t, g.Connection, "recover", "--force", beside.Name).want(t, exitOK)
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
		var machine pace
		for {
			asked := time.Now()
			s, err := g.vm.State(t.Context())
			if s == hv.StateRunning && err == nil {
				break
			}
			if machine.over(asked, killed, runsAgainIn) {
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
