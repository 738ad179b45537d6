package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"snap/dump"
	"snap/internal/lab"
	"snap/internal/ntlab/boot"
)

// pauseSummary is what a dump's summary says of its pause.
type pauseSummary struct {
	Consistent, Spooled bool
	PauseMS             float64 `json:"pause_ms"`
	EstimateMS          float64 `json:"pause_estimate_ms"`
	Warnings            []string
}

// TestOnePointInTime takes dumps of a guest whose processors write all the time:
// each must be of one moment.
func TestOnePointInTime(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "onepoint", MemoryMiB: 128, CPUs: 2, Mode: boot.Busy, FillMiB: 16, Seed: 21})
	out := filepath.Join(g.Dir(), "out.dmp.zst")
	var last []uint64
	for i := range 20 {
		spool := "auto"
		if i%10 == 9 {
			spool = "off"
		}
		r := runSnap(t, g.Connection, "dump", lab.Prefix+g.Spec.Name, "--spool", spool, "--max-pause", longPause.String(), "--json", "--force", "-o", out).want(t, exitOK)
		var sum pauseSummary
		if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
			t.Fatal(err)
		}
		if !sum.Consistent || sum.Spooled != (spool == "auto") || sum.PauseMS <= 0 || sum.EstimateMS <= 0 || len(sum.Warnings) != 0 {
			t.Errorf("dump %d, --spool %s: summary is %+v", i, spool, sum)
		}
		if c := chainsIn(t, g, out); !c.OnePoint {
			t.Errorf("dump %d, --spool %s: pages are from different times, up to %d rounds apart", i, spool, c.Smear)
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
	mustRun(t, g)
}

// chainsIn looks at the guest's chains of pages in a dump of it.
func chainsIn(t *testing.T, g *lab.Guest, path string) boot.Consistency {
	t.Helper()
	f, err := dump.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := boot.CheckChains(t.Context(), f, g.Boot.Chains)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPauseRefused demands that a pause that can't fit is not begun: the guest
// is running since it booted, and not since somebody resumed it.
func TestPauseRefused(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "toolong", MemoryMiB: 128, CPUs: 1, FillMiB: 16, Seed: 22})
	domain := lab.Prefix + g.Spec.Name
	for _, flags := range [][]string{nil, {"--spool", "off"}, {"--source", "peek"}} {
		dir := t.TempDir()
		args := append([]string{domain, "--max-pause", "1ms", "--log-format", "console", "-o", filepath.Join(dir, "out.dmp.zst")}, flags...)
		r := runSnap(t, g.Connection, "dump", args...).want(t, exitTooLong)
		_, advice, ok := strings.Cut(r.stderr, "\nnext: ")
		if !ok || !strings.Contains(advice, "--max-pause") || !strings.Contains(r.stderr, "not paused") {
			t.Errorf("%v: stderr is %q; want that it was not paused, and what would help", flags, r.stderr)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%v: %v was left behind (%v)", flags, left, err)
		}
	}
	if got := virsh(t, g.Connection, "domstate", "--reason", domain); got != "running (booted)" {
		t.Errorf("the guest is %s; want running (booted), as before", got)
	}
	mustRun(t, g)

	// A guest that is paused anyway has no pause that could be too long.
	virsh(t, g.Connection, "suspend", domain)
	out := filepath.Join(g.Dir(), "out.dmp.zst")
	r := runSnap(t, g.Connection, "dump", domain, "--max-pause", "1ms", "--json", "-o", out).want(t, exitOK)
	var sum pauseSummary
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
		t.Fatal(err)
	}
	if !sum.Consistent || sum.Spooled || sum.PauseMS != 0 || sum.EstimateMS != 0 {
		t.Errorf("summary is %+v", sum)
	}
	if got := virsh(t, g.Connection, "domstate", domain); got != "paused" {
		t.Errorf("the guest is %s; want paused", got)
	}
}

// TestCheckSaysPause demands an estimate of every mode, in the order in which
// they are preferred, and nothing done to the guest.
func TestCheckSaysPause(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "checked", MemoryMiB: 128, CPUs: 1, FillMiB: 16, Seed: 23})
	domain := lab.Prefix + g.Spec.Name
	tests := []struct {
		flags []string
		code  int
		want  []string
	}{
		{[]string{"--max-pause", "1h"}, exitOK, []string{"pause spooled=true fits=true", "pause spooled=false fits=true", "snapshot spooled=false fits=false", "live spooled=true fits=true"}},
		{[]string{"--max-pause", "1ms"}, exitTooLong, []string{"pause spooled=true fits=false", "pause spooled=false fits=false", "snapshot spooled=false fits=false", "live spooled=true fits=true"}},
		{[]string{"--max-pause", "1h", "--spool", "1MiB"}, exitOK, []string{"pause spooled=false fits=true", "snapshot spooled=false fits=false", "live spooled=false fits=true"}},
	}
	for _, tt := range tests {
		r := runSnap(t, g.Connection, "check", append([]string{domain, "--json"}, tt.flags...)...).want(t, tt.code)
		var got struct{ Modes []modeEstimate }
		if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
			t.Fatal(err)
		}
		var modes []string
		for _, m := range got.Modes {
			modes = append(modes, fmt.Sprintf("%s spooled=%v fits=%v", m.Mode, m.Spooled, m.Fits))
			if m.PauseMaxMS < m.PauseMS || (m.PauseMaxMS > m.PauseMS) != (m.Mode == "pause") || (m.Confidence != "") != (m.Mode == "pause") {
				t.Errorf("%v: the estimate of mode %s is %v to %v ms, confidence %q; want a range of mode pause", tt.flags, m.Mode, m.PauseMS, m.PauseMaxMS, m.Confidence)
			}
			if (m.PauseMS > 0) != (m.Mode == "pause") || (m.DurationMS > 0) != (m.Why == "") || (m.Why == "") != (m.Mode != "snapshot") {
				t.Errorf("%v: mode is %+v", tt.flags, m)
			}
		}
		if fmt.Sprint(modes) != fmt.Sprint(tt.want) {
			t.Errorf("%v: modes are %q; want %q", tt.flags, modes, tt.want)
		}
	}
	runSnap(t, g.Connection, "check", domain, "--max-pause", "0s").want(t, exitUsage)
	runSnap(t, g.Connection, "check", domain, "--spool", "much").want(t, exitUsage)
	if got := virsh(t, g.Connection, "domstate", "--reason", domain); got != "running (booted)" {
		t.Errorf("the guest is %s; want running (booted), as before", got)
	}
}
