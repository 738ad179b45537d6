package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"snap/internal/lab"
	"snap/internal/lab/labtest"
	"snap/internal/ntlab/boot"
)

// kvmKills are dumps of a guest under KVM that are killed, one each.
var kvmKills = []struct {
	name string
	way  soakWay
	do   func(*heldGuest, *testing.T, *soaked)
}{
	{"snap, of a suspended guest", soakWay{flags: []string{"--source", "direct", "--spool", "off"}, until: (*heldGuest).atPause}, (*heldGuest).killSnap},
	{"snap, of one that a job holds", soakWay{flags: []string{"--source", "peek"}, until: (*heldGuest).atPause}, (*heldGuest).killSnap},
	{"both, at the hold's birth", soakWay{flags: []string{"--source", "direct"}, until: (*heldGuest).atBirth}, (*heldGuest).killBoth},
	{"snap, saving", soakWay{flags: []string{"--mode", "snapshot", "--source", "auto"}, until: (*heldGuest).atSaving}, (*heldGuest).killSnap},
	{"both, saving", soakWay{flags: []string{"--mode", "snapshot", "--source", "auto"}, until: (*heldGuest).atSaving}, (*heldGuest).killBoth},
	{"snap, live", soakWay{flags: []string{"--mode", "live", "--source", "direct"}}, (*heldGuest).killSnap},
}

// TestUnderKVM takes dumps of a guest under KVM, where that works, in all modes, and
// kills some: what the host does to a guest differs there. It starts beside other
// tests, slowly, and is one guest for all of this.
func TestUnderKVM(t *testing.T) {
	labtest.NeedsDaemons(t)
	wait := lab.UpBeside(t.Context(), lab.Spec{
		Name: unique("kvm"), Accel: lab.WhereKVM, NewerQEMU: true, Mode: boot.Busy, MemoryMiB: 64, CPUs: 1, FillMiB: 2, Seed: 61,
	})
	t.Cleanup(func() {
		if g, err := wait(); err == nil {
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Parallel()
	guest, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("accelerator: %s", guest.Spec.Accel)
	userfaultfd(t, true)
	g := holdable(t, guest)
	t.Run("equal to libvirt's core", func(t *testing.T) { equalsCore(t, g.Guest) })
	t.Run("pause", func(t *testing.T) { isOnePoint(t, g.Guest) })
	t.Run("snapshot", func(t *testing.T) { takesSnapshots(t, g.Guest, 3) })
	for _, k := range kvmKills {
		t.Run(k.name, func(t *testing.T) { g.endure(t, k.way, k.do) })
	}
	mustRun(t, g.Guest)
}

// isOnePoint dumps a guest that is held still and has been writing until then.
func isOnePoint(t *testing.T, g *lab.Guest) {
	t.Helper()
	out := filepath.Join(g.Dir(), "pause.dmp.zst")
	r := runSnap(t, g.Connection, "dump", g.Name, "--mode", "pause", "--max-pause", longPause.String(), "--json", "-o", out).want(t, exitOK)
	var sum struct {
		Consistent bool
		PauseMS    float64 `json:"pause_ms"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
		t.Fatal(err)
	}
	if !sum.Consistent || sum.PauseMS <= 0 {
		t.Errorf("consistent %v, pause %v ms; want a dump of one moment, and a pause", sum.Consistent, sum.PauseMS)
	}
	if c := chainsIn(t, g, out); !c.OnePoint {
		t.Errorf("a dump of a guest that stood still is smeared by %d rounds", c.Smear)
	}
	mustRun(t, g)
}
