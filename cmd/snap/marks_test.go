package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"snap/hv"
	"snap/hv/guardian"
	"snap/internal/lab"
)

// TestMarksOfOthers: whatever is among a domain's metadata in place of a mark, or of a
// dump on another host, has nothing done to the domain, is told with a way out, and is
// removed by it.
func TestMarksOfOthers(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "marks", MemoryMiB: 128, CPUs: 1, FillMiB: 16, Seed: 61})
	self, err := guardian.Self()
	if err != nil {
		t.Fatal(err)
	}
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	mark := func(run, host, why string) string {
		boot := self.Boot
		if host != self.Host {
			boot = "00000000-0000-0000-0000-000000000000"
		}
		return `<hold run="` + run + `" host="` + host + `" boot="` + boot + `" pidns="7" pid="2" start="1" since="` +
			time.Now().UTC().Format(time.RFC3339) + `" was="running" why="` + why + `"/>`
	}
	for _, tt := range []struct {
		name, xml string
		code      int // of a dump
		says      string
	}{
		{"of a host that is gone", mark("abcdefgh234567xy", "gone", "pause"), exitLocked, "process 2 on host gone"},
		{"a path for a run", mark("x/../../../../../.."+victim, self.Host, "job"), exitFailed, "damaged or unknown format"},
		{"another reason", mark("abcdefgh234567xy", self.Host, "destroy"), exitFailed, "damaged or unknown format"},
		{"no mark at all", `<hold pid="many">` + strings.Repeat("x", 100) + `</hold>`, exitFailed, "damaged or unknown format"},
		{"a long one", `<hold>` + strings.Repeat("x", 5000) + `</hold>`, exitFailed, "damaged or unknown format"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			virsh(t, g.Connection, "suspend", g.Name) // as an operator may
			virsh(t, g.Connection, "metadata", g.Name, "urn:snap:hold:1", "--key", "snap", "--set", tt.xml, "--live")
			out := filepath.Join(g.Dir(), "x.dmp.zst")
			r := runSnap(t, g.Connection, "dump", g.Name, "-o", out, "--log-format", "console").want(t, tt.code)
			if !strings.Contains(r.stderr, tt.says) || !strings.Contains(r.stderr, "snap recover --force") {
				t.Errorf("snap dump says %q; want %q, and how to go on", r.stderr, tt.says)
			}
			r = runSnap(t, g.Connection, "recover", g.Name)
			if said := r.stdout + r.stderr; !strings.Contains(said, "snap recover --force") {
				t.Errorf("snap recover says %q; want how to go on", said)
			}
			state := virsh(t, g.Connection, "domstate", g.Name)
			if state != string(hv.StatePaused) {
				t.Errorf("the guest is %s; want paused, as it was left", state)
			}
			runSnap(t, g.Connection, "recover", "--force", g.Name).want(t, exitOK)
			if _, err := g.Virsh(t.Context(), "metadata", g.Name, "urn:snap:hold:1"); err == nil {
				t.Error("the mark is still there")
			}
			if _, err := os.Stat(victim); err != nil {
				t.Errorf("a file is gone: %v", err)
			}
			if virsh(t, g.Connection, "domstate", g.Name) == string(hv.StatePaused) {
				virsh(t, g.Connection, "resume", g.Name)
			}
		})
	}
	runSnap(t, g.Connection, "dump", g.Name, "-q", "-o", filepath.Join(g.Dir(), "x.dmp.zst")).want(t, exitOK)
	mustRun(t, g)
}
