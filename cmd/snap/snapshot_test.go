package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/internal/lab"
	"snap/internal/lab/labtest"
	"snap/internal/ntlab/boot"
)

// snapshotSummary is what a dump's summary says of a snapshot.
type snapshotSummary struct {
	Mode, Source string
	Consistent   bool
	PauseMS      float64  `json:"pause_ms"`
	DowntimeMS   *float64 `json:"downtime_ms"`
	StallMS      *float64 `json:"stall_ms"`
	Warnings     []string
}

// userfaultfd allows or forbids it for the test.
func userfaultfd(t *testing.T, allowed bool) {
	t.Helper()
	labtest.NeedsDaemons(t)
	release, err := lab.Userfaultfd(allowed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	})
}

// snapshotsOn reports whether QEMU's capability is on.
func snapshotsOn(t *testing.T, g *lab.Guest) bool {
	t.Helper()
	var caps struct {
		Return []struct {
			Capability string
			State      bool
		}
	}
	text := virsh(t, g.Connection, "qemu-monitor-command", g.Name, `{"execute":"query-migrate-capabilities"}`)
	if err := json.Unmarshal([]byte(text), &caps); err != nil {
		t.Fatal(err)
	}
	for _, c := range caps.Return {
		if c.Capability == "background-snapshot" {
			return c.State
		}
	}
	t.Fatalf("capabilities are %q; want background-snapshot among them", text)
	return false
}

// snapshotOff demands that the capability is off and the domain bears no mark.
func snapshotOff(t *testing.T, g *lab.Guest) {
	t.Helper()
	if snapshotsOn(t, g) {
		t.Error("the capability is still on")
	}
	if _, err := g.Virsh(t.Context(), "metadata", g.Name, "urn:snap:hold:1"); err == nil {
		t.Error("the domain still bears the mark")
	}
}

// TestSnapshotOnePoint takes dumps of a guest whose processors write all the time,
// and go on to: each must be of one moment.
func TestSnapshotOnePoint(t *testing.T) {
	userfaultfd(t, true)
	g := upGuest(t, lab.Spec{Name: "snaponepoint", NewerQEMU: true, MemoryMiB: 128, CPUs: 2, Mode: boot.Busy, FillMiB: 16, Seed: 41})
	takesSnapshots(t, g, 20)
}

// takesSnapshots takes so many dumps of a guest by snapshots, while it writes.
func takesSnapshots(t *testing.T, g *lab.Guest, n int) {
	t.Helper()
	out := filepath.Join(g.Dir(), "out.dmp.zst")
	var last []uint64
	for i := range n {
		r := runSnap(t, g.Connection, "dump", g.Name, "--mode", "snapshot", "--max-pause", "60s", "--json", "--force", "-o", out).want(t, exitOK)
		var sum snapshotSummary
		if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
			t.Fatal(err)
		}
		if !sum.Consistent || sum.Mode != "snapshot" || sum.PauseMS != 0 || len(sum.Warnings) != 0 {
			t.Errorf("dump %d: summary is %+v", i, sum)
		}
		if sum.DowntimeMS == nil || *sum.DowntimeMS <= 0 || sum.StallMS == nil || *sum.StallMS <= 0 {
			t.Errorf("dump %d: QEMU's downtime and the guest's stall are %v and %v; want both", i, sum.DowntimeMS, sum.StallMS)
		}
		if c := chainsIn(t, g, out); !c.OnePoint {
			t.Errorf("dump %d: pages are from different times, up to %d rounds apart", i, c.Smear)
		}
		now, err := g.Heartbeats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(now) == fmt.Sprint(last) {
			t.Errorf("dump %d: the guest did nothing since the one before", i)
		}
		last = now
	}
	snapshotOff(t, g)
	mustRun(t, g)
}

// TestSnapshotRefused demands a reason, and a guest that nothing was done to.
func TestSnapshotRefused(t *testing.T) {
	for _, tt := range []struct {
		name    string
		spec    lab.Spec
		allowed bool
		want    string
	}{
		{"old", lab.Spec{}, true, "QEMU "},
		{"memfd", lab.Spec{NewerQEMU: true, Backing: lab.Memfd}, true, "memfd"},
		{"userfaultfd", lab.Spec{NewerQEMU: true}, false, "vm.unprivileged_userfaultfd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.Name, tt.spec.MemoryMiB, tt.spec.CPUs, tt.spec.Seed = "snaprefused-"+tt.name, 128, 1, 42
			g := upGuest(t, tt.spec)
			userfaultfd(t, tt.allowed)
			dir := t.TempDir()
			r := runSnap(t, g.Connection, "dump", g.Name, "--mode", "snapshot", "--log-format", "console", "-o", filepath.Join(dir, "x.dmp.zst")).want(t, exitUnsupported)
			if !strings.Contains(r.stderr, tt.want) || !strings.Contains(r.stderr, "\nnext: ") {
				t.Errorf("stderr is %q; want %q in it, and what to do", r.stderr, tt.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("%v was left behind (%v)", left, err)
			}
			if got := virsh(t, g.Connection, "domstate", "--reason", g.Name); got != "running (booted)" {
				t.Errorf("the guest is %s; want running (booted), as before", got)
			}
			snapshotOff(t, g)
			mustRun(t, g)

			if got := listedModes(t, g); got != "pause live" {
				t.Errorf("snap list says that modes %q work; want pause and live", got)
			}

			// Left to itself, snap says of both modes why not.
			r = runSnap(t, g.Connection, "dump", g.Name, "--max-pause", "1ms", "--log-format", "console", "-o", filepath.Join(dir, "x.dmp.zst")).want(t, exitTooLong)
			for _, want := range []string{"not paused", tt.want, "--max-pause"} {
				if !strings.Contains(r.stderr, want) {
					t.Errorf("stderr is %q; want %q in it", r.stderr, want)
				}
			}
			if got := virsh(t, g.Connection, "domstate", "--reason", g.Name); got != "running (booted)" {
				t.Errorf("the guest is %s; want running (booted), as before", got)
			}
		})
	}
}

// TestAutoMode: a pause where it fits, else a snapshot, and check says so before.
func TestAutoMode(t *testing.T) {
	userfaultfd(t, true)
	g := upGuest(t, lab.Spec{Name: "automode", NewerQEMU: true, MemoryMiB: 256, CPUs: 1, FillMiB: 96, Seed: 43})
	const peek = "--source peek" // by which a pause takes seconds
	stalls := 0.0                // the longest that a snapshot may take, which is all the same whatever is measured
	for _, m := range checkedModes(t, g, strings.Fields(peek)) {
		if m.Mode == "snapshot" {
			stalls = m.PauseMaxMS
		}
	}
	for _, tt := range []struct{ flags, mode string }{
		{"--max-pause " + longPause.String(), "pause"},
		{fmt.Sprintf("--max-pause %fms %s", stalls+1, peek), "snapshot"},
	} {
		flags := strings.Fields(tt.flags)
		first := ""
		modes := checkedModes(t, g, flags)
		for _, m := range modes {
			if m.Fits && first == "" {
				first = m.Mode
			}
		}
		if first != tt.mode {
			t.Errorf("%s: check prefers %q of %+v; want %s", tt.flags, first, modes, tt.mode)
		}
		args := append([]string{g.Name, "--json", "-o", filepath.Join(t.TempDir(), "x.dmp.zst")}, flags...)
		r := runSnap(t, g.Connection, "dump", args...).want(t, exitOK)
		var sum snapshotSummary
		if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
			t.Fatal(err)
		}
		if sum.Mode != tt.mode || !sum.Consistent || (sum.PauseMS > 0) != (tt.mode == "pause") || (sum.DowntimeMS != nil) != (tt.mode == "snapshot") {
			t.Errorf("%s: summary is %+v; want mode %s", tt.flags, sum, tt.mode)
		}
	}
	snapshotOff(t, g)
	if got := listedModes(t, g); got != "pause snapshot live" {
		t.Errorf("snap list says that modes %q work; want pause, snapshot and live", got)
	}
	mustRun(t, g)
}

// checkedModes are what snap check estimates.
func checkedModes(t *testing.T, g *lab.Guest, flags []string) []modeEstimate {
	t.Helper()
	r := runSnap(t, g.Connection, "check", append([]string{g.Name, "--json"}, flags...)...).want(t, exitOK)
	var check struct{ Modes []modeEstimate }
	if err := json.Unmarshal([]byte(r.stdout), &check); err != nil {
		t.Fatal(err)
	}
	return check.Modes
}

// listedModes are the modes that snap list says work.
func listedModes(t *testing.T, g *lab.Guest) string {
	t.Helper()
	var list []struct {
		Name  string
		Modes []string
	}
	r := runSnap(t, g.Connection, "list", "--json").want(t, exitOK)
	if err := json.Unmarshal([]byte(r.stdout), &list); err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if d.Name == g.Name {
			return strings.Join(d.Modes, " ")
		}
	}
	t.Fatalf("snap list doesn't show %s: %s", g.Name, r.stdout)
	return ""
}

// TestOperatorDuringSnapshot: what an operator does to the guest meanwhile stays,
// and the dump is of the moment before.
func TestOperatorDuringSnapshot(t *testing.T) {
	userfaultfd(t, true)
	held := upHeldWith(t, lab.Spec{Name: "snapoperator", NewerQEMU: true, MemoryMiB: 2048, CPUs: 2, Mode: boot.Busy, FillMiB: 64, Seed: 44})
	g := held.Guest
	for _, do := range [][]string{{"suspend"}, {"suspend", "resume"}} {
		r := held.start(t, "--mode", "snapshot", "--source", "auto", "--force")
		held.untilSaving(t, r)
		for _, what := range do {
			virsh(t, g.Connection, what, g.Name)
		}
		r.wait(t).want(t, exitOK)
		want := map[string]string{"suspend": "paused", "resume": "running"}[do[len(do)-1]]
		if got := virsh(t, g.Connection, "domstate", g.Name); got != want {
			t.Errorf("after %v during the snapshot the guest is %s; want %s", do, got, want)
		}
		snapshotOff(t, g)
		if c := chainsIn(t, g, filepath.Join(held.folder, "out.dmp.zst")); !c.OnePoint {
			t.Errorf("after %v: pages are from different times, up to %d rounds apart", do, c.Smear)
		}
		if want == "paused" {
			virsh(t, g.Connection, "resume", g.Name)
		}
	}
	mustRun(t, g)
}

// TestSnapshotOfPaused: a guest that stands still already needs no snapshot, and
// stands still afterwards.
func TestSnapshotOfPaused(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "snappaused", MemoryMiB: 128, CPUs: 1, FillMiB: 16, Seed: 45})
	virsh(t, g.Connection, "suspend", g.Name)
	for _, mode := range []string{"snapshot", "auto"} {
		out := filepath.Join(t.TempDir(), "x.dmp.zst")
		r := runSnap(t, g.Connection, "dump", g.Name, "--mode", mode, "--json", "-o", out).want(t, exitOK)
		var sum snapshotSummary
		if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
			t.Fatal(err)
		}
		if sum.Mode != "pause" || !sum.Consistent || sum.PauseMS != 0 || sum.DowntimeMS != nil || len(sum.Warnings) != 0 {
			t.Errorf("--mode %s: summary is %+v", mode, sum)
		}
		if got := virsh(t, g.Connection, "domstate", g.Name); got != "paused" {
			t.Errorf("--mode %s: the guest is %s; want paused", mode, got)
		}
	}
}

// upSaved starts a guest that QEMU saves for long enough to be interfered with.
func upSaved(t *testing.T, name string) *heldGuest {
	t.Helper()
	userfaultfd(t, true)
	return upHeldWith(t, lab.Spec{Name: name, NewerQEMU: true, MemoryMiB: 1024, CPUs: 1, FillMiB: 64, Seed: 46})
}

// TestSnapshotKilledWithGuardian kills both processes while QEMU saves: snap
// recover puts it right, from the state file or, if that is lost, from the mark.
func TestSnapshotKilledWithGuardian(t *testing.T) {
	g := upSaved(t, "snapkilledboth")
	for _, lost := range []bool{false, true} {
		r := g.start(t, "--mode", "snapshot", "--source", "auto")
		g.untilSaving(t, r)
		run, path := g.runFile(t)
		if err := unix.Kill(run.Guardian.PID, unix.SIGKILL); err != nil {
			t.Fatalf("kill the guardian: %v", err)
		}
		r.kill()
		if lost {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			for _, f := range run.Files {
				_ = os.Remove(f) // nothing knows of them any more
			}
		}
		done := runSnap(t, g.Connection, "recover").want(t, exitOK)
		if !strings.Contains(done.stdout, g.Name+": ended the snapshot") {
			t.Errorf("snap recover says %q; want that it ended the snapshot", done.stdout)
		}
		if left := g.left(t, hv.StateRunning); len(left) > 0 {
			t.Errorf("after snap recover: %q", left)
		}
		snapshotOff(t, g.Guest)
	}
	mustRun(t, g.Guest)
}

// TestDomainEndsDuringSnapshot: that is why the dump failed, and nothing is left.
func TestDomainEndsDuringSnapshot(t *testing.T) {
	g := upSaved(t, "snapends")
	r := g.start(t, "--mode", "snapshot", "--source", "auto")
	g.untilSaving(t, r)
	virsh(t, g.Connection, "destroy", g.Name)
	if got := r.wait(t).want(t, exitNoDomain); !strings.Contains(got.stderr, "destroyed") {
		t.Errorf("stderr is %q; want that the domain was destroyed", got.stderr)
	}
	for _, glob := range []string{g.folder + "/*", g.stateFiles("")} {
		if files, err := filepath.Glob(glob); err != nil || len(files) > 0 {
			t.Errorf("%v was left behind (%v)", files, err)
		}
	}
}

// untilSaving waits until QEMU saves the guest, which runs again by then: the guest
// is started before its first page is saved.
func (g *heldGuest) untilSaving(t *testing.T, r *running) {
	t.Helper()
	for {
		var m struct {
			Return struct {
				Status string
				RAM    struct{ Normal uint64 } // pages that are saved
			}
		}
		text := virsh(t, g.Connection, "qemu-monitor-command", g.Name, `{"execute":"query-migrate"}`)
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Fatal(err)
		}
		if m.Return.Status == "active" && m.Return.RAM.Normal > 0 {
			return
		}
		select {
		case <-r.ended:
			t.Fatalf("snap ended before QEMU was seen to save the guest: %s", r.stderr.String())
		case <-time.After(time.Millisecond):
		}
	}
}
