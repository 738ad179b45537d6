package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"snap/capture"
	"snap/dump"
	"snap/internal/lab"
	"snap/internal/ntlab/boot"
	"snap/phys"
)

// liveSummary is what a dump's summary says of a guest that ran on.
type liveSummary struct {
	ExitCode            int `json:"exit_code"`
	Consistent, Spooled bool
	Pages               struct {
		Written uint64
		Changed uint64 `json:"changed_while_reading"`
	}
	Live struct {
		MaxChanged uint64 `json:"max_changed"`
		Core       struct {
			Pages, Unsettled uint64
			Rounds           int
		}
	}
	PauseMS  float64 `json:"pause_ms"`
	Warnings []string
}

// liveDump takes a dump in mode live.
func liveDump(t *testing.T, g *lab.Guest, out string, code int, flags ...string) liveSummary {
	t.Helper()
	args := append([]string{g.Name, "--mode", "live", "--json", "--force", "-o", out}, flags...)
	r := runSnap(t, g.Connection, "dump", args...).want(t, code)
	var sum liveSummary
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
		t.Fatal(err)
	}
	if sum.ExitCode != code || sum.PauseMS != 0 || sum.Consistent {
		t.Errorf("summary is %+v; want exit code %d, no pause and no point in time", sum, code)
	}
	return sum
}

// writtenPages returns the pages that differ in two cores of a guest.
func writtenPages(t *testing.T, a, b *core) phys.Runs {
	t.Helper()
	var found []phys.Run
	var x, y [phys.PageSize]byte
	for _, l := range a.loads {
		for at := phys.Addr(l.Paddr); at < phys.Addr(l.Paddr+l.Filesz); at += phys.PageSize {
			if err := errors.Join(a.ReadPhys(t.Context(), x[:], at), b.ReadPhys(t.Context(), y[:], at)); err != nil {
				t.Fatal(err)
			}
			if x != y {
				found = append(found, phys.Run{Base: at.PFN(), Pages: 1})
			}
		}
	}
	runs, err := phys.NewRuns(found...)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

// TestLiveSaysItsSmear takes dumps of a guest whose processors write all the
// time. Two cores by virsh dump say which pages they write to: no more may be
// reported, and no fewer than the chains show.
func TestLiveSaysItsSmear(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "live", MemoryMiB: 128, CPUs: 2, Mode: boot.Busy, FillMiB: 64, Seed: 41})
	before := takeCore(t, g, "before.elf")
	mustRun(t, g)
	written := writtenPages(t, before, takeCore(t, g, "after.elf"))
	chain := 0
	for _, c := range g.Boot.Chains {
		for _, at := range c.Pages {
			if !written.Has(at.PFN()) {
				t.Fatalf("the guest did not write to page %#x of its chain", at)
			}
			chain++
		}
	}
	// Beside the chains: each processor's block, and KUSER_SHARED_DATA.
	if most := uint64(chain + len(g.Boot.VCPUs) + 1); written.Pages() > most {
		t.Fatalf("the guest writes to %d pages; want at most %d", written.Pages(), most)
	}

	out := filepath.Join(t.TempDir(), "live.dmp.zst")
	for _, spool := range []string{"auto", "off"} {
		smeared, all := 0, 0
		// The processors may by chance get no turn while their chains are read.
		for i := 0; i < 3 || (smeared == 0 || all == 0) && i < 40; i++ {
			what := fmt.Sprintf("--spool %s, dump %d", spool, i)
			sum := liveDump(t, g, out, exitOK, "--spool", spool)
			if sum.Spooled != (spool == "auto") || len(sum.Warnings) != 0 || sum.Live.MaxChanged != (sum.Pages.Written+50)/100 {
				t.Errorf("%s: summary is %+v", what, sum)
			}
			if core := sum.Live.Core; core.Unsettled != 0 || core.Rounds < 2 || core.Pages < 50 {
				t.Errorf("%s: core is %+v; want it settled", what, core)
			}
			f, err := dump.Open(out)
			if err != nil {
				t.Fatal(err)
			}
			var inside liveSummary
			if err := json.Unmarshal(f.Metadata(), &inside); err != nil {
				t.Fatal(err)
			}
			if inside.Pages.Changed != sum.Pages.Changed || inside.Live != sum.Live {
				t.Errorf("%s: the file's own summary is %+v; want %+v", what, inside, sum)
			}
			c, err := boot.CheckChains(t.Context(), f, g.Boot.Chains)
			if err != nil {
				t.Fatal(err)
			}
			f.Close()
			if sum.Pages.Changed < uint64(c.Late) || sum.Pages.Changed > written.Pages() {
				t.Errorf("%s: %d pages changed; want at least the %d that the chains show, and at most the %d that the guest writes to",
					what, sum.Pages.Changed, c.Late, written.Pages())
			}
			t.Logf("%s: %d changed, chains show %d of %d written pages, %d rounds apart; core %+v",
				what, sum.Pages.Changed, c.Late, written.Pages(), c.Smear, sum.Live.Core)
			if !c.OnePoint {
				smeared++
			}
			if sum.Pages.Changed == written.Pages() {
				all++
			}
		}
		if all == 0 {
			t.Errorf("--spool %s: no dump of a guest that writes to %d pages all the time reports all of them", spool, written.Pages())
		}
		if smeared == 0 {
			t.Errorf("--spool %s: no dump of a guest that writes all the time has pages of different times", spool)
		}
	}
	mustRun(t, g)

	// The limit: a share, or a number of pages.
	for _, limit := range []string{"0.01%", "20"} {
		sum := liveDump(t, g, out, exitDegraded, "--spool", "off", "--max-changed", limit)
		if len(sum.Warnings) != 1 || !strings.Contains(sum.Warnings[0], "--max-changed "+limit) || !strings.Contains(sum.Warnings[0], "--mode pause") {
			t.Errorf("--max-changed %s: warnings %q; want one with what to do", limit, sum.Warnings)
		}
		runSnap(t, g.Connection, "verify", out).want(t, exitOK)
	}
	liveDump(t, g, out, exitOK, "--max-changed", "200")
	// It is for mode live only.
	runSnap(t, g.Connection, "dump", g.Name, "--max-changed", "0", "--force", "-q", "-o", out).want(t, exitOK)
	for _, wrong := range []string{"", "%", "-1", "101%", "NaN%", "many", "1.5", "-0.1%"} {
		runSnap(t, g.Connection, "dump", g.Name, "--mode", "live", "--max-changed", wrong, "-o", out).want(t, exitUsage)
	}
}

// TestLiveOfIdleGuest demands that a guest that does nothing is dumped without
// a page that changed, which is still no promise of one point in time, unless it
// is paused.
func TestLiveOfIdleGuest(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "liveidle", MemoryMiB: 128, CPUs: 2, Mode: boot.Idle, FillMiB: 16, Seed: 42})
	out := filepath.Join(t.TempDir(), "live.dmp.zst")
	for _, flags := range [][]string{nil, {"--spool", "off"}, {"--source", "peek"}} {
		sum := liveDump(t, g, out, exitOK, append(flags, "--max-changed", "0")...)
		if sum.Pages.Changed != 0 || sum.Live.Core.Unsettled != 0 || len(sum.Warnings) != 0 || sum.Spooled == slices.Contains(flags, "off") {
			t.Errorf("%v: summary is %+v; want no page changed", flags, sum)
		}
	}
	text := runSnap(t, g.Connection, "dump", g.Name, "--mode", "live", "--force", "--log-format", "console", "-o", out).want(t, exitOK)
	if !strings.Contains(text.stderr, "pages are from different times: 0 (0.0 %) changed while they were read") {
		t.Errorf("stderr is %q; want what changed", text.stderr)
	}
	virsh(t, g.Connection, "suspend", g.Name)
	r := runSnap(t, g.Connection, "dump", g.Name, "--mode", "live", "--json", "--force", "-o", out).want(t, exitOK)
	var sum liveSummary
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
		t.Fatal(err)
	}
	if !sum.Consistent || sum.Pages.Changed != 0 {
		t.Errorf("of a paused guest: summary is %+v; want one point in time", sum)
	}
	if got := virsh(t, g.Connection, "domstate", g.Name); got != "paused" {
		t.Errorf("the guest is %s; want paused", got)
	}
}

// TestMaxChanged reads limits.
func TestMaxChanged(t *testing.T) {
	for limit, want := range map[string]capture.ChangeLimit{
		"1%": {Share: 0.01}, "0.5%": {Share: 0.005}, "0%": {}, "100%": {Share: 1},
		"0": {}, "1": {Pages: 1}, "12": {Pages: 12},
	} {
		f := liveFlags{maxChanged: limit}
		if got, err := f.parse(); err != nil || *got != want {
			t.Errorf("--max-changed %s is %+v (%v); want %+v", limit, got, err, want)
		}
	}
	f := liveFlags{maxChanged: "100%"}
	if got, err := f.parse(); err != nil || got.String() != "100%" {
		t.Errorf("--max-changed 100%% is shown as %q (%v)", got, err)
	}
}
