package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"snap/dump"
	"snap/internal/lab"
	"snap/manifest"
	"snap/phys"
)

// TestFootprint takes dumps of guests that have touched little of much memory, of each
// kind: neither QEMU's memory nor its page tables grow by it, and what was never
// touched isn't read.
func TestFootprint(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	for _, tt := range []struct {
		backing lab.Backing
		memory  uint64 // MiB
		sparse  bool   // what the guest never touched is known
	}{
		{lab.Anonymous, 16 << 10, true},
		{lab.Memfd, 16 << 10, true},
		{lab.PrivateMemfd, 16 << 10, true},
		{lab.PrivateFile, 192, false},
		{lab.File, 192, false},    // whose pages the host writes to a disk
		{lab.HugeTLB, 128, false}, // which QEMU touches all of
	} {
		t.Run(string(tt.backing), func(t *testing.T) {
			t.Parallel()
			g := upGuest(t, lab.Spec{Name: "foot-" + string(tt.backing), Connect: lab.System, Backing: tt.backing, MemoryMiB: tt.memory, CPUs: 1, FillMiB: 32, Seed: 51})
			pid, err := g.PID()
			if err != nil {
				t.Fatal(err)
			}
			virsh(t, g.Connection, "suspend", g.Name) // so that only snap does anything to it
			before := footprintOf(t, pid)
			out := filepath.Join(g.Dir(), "out.dmp.zst")
			r := runSnap(t, g.Connection, "dump", g.Name, "--source", "direct", "--json", "-o", out).want(t, exitOK)
			after := footprintOf(t, pid)
			var sum manifest.Manifest
			if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
				t.Fatal(err)
			}
			read := sum.Pages.Written - sum.Pages.Unpopulated
			t.Logf("%+v, then %+v; %d pages read of %d", before, after, read, sum.Pages.Total)
			for what, was := range before {
				if now := after[what]; now > was+was/100 {
					t.Errorf("%s of QEMU was %d KiB and is %d KiB after a dump; want 1 %% more at most", what, was, now)
				}
			}
			if tt.sparse && read<<phys.PageShift > gib {
				t.Errorf("%d pages were read of a guest that touched some 100 MiB", read)
			}
			checkFilled(t, g, out)
		})
	}
}

// checkFilled demands of a dump that what the guest filled its memory with is in it.
func checkFilled(t *testing.T, g *lab.Guest, path string) {
	t.Helper()
	f, err := dump.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, want := make([]byte, phys.PageSize), make([]byte, phys.PageSize)
	wrong, pages := 0, uint64(0)
	for _, fill := range g.Boot.Fills {
		for p := fill.Run.Base; p < fill.Run.End(); p++ {
			if err := f.ReadPhys(t.Context(), got, p.Addr()); err != nil {
				t.Fatal(err)
			}
			fill.Page(want, p)
			if !bytes.Equal(got, want) {
				wrong++
			}
		}
		pages += fill.Run.Pages
	}
	if wrong != 0 || pages == 0 {
		t.Errorf("%d pages of %d that the guest filled are others in the dump", wrong, pages)
	}
}

// footprintOf returns what a process takes of the host, in KiB.
func footprintOf(t *testing.T, pid int) map[string]uint64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]uint64{}
	for line := range strings.Lines(string(text)) {
		name, rest, _ := strings.Cut(line, ":")
		switch name {
		case "VmRSS", "RssShmem", "VmPTE", "HugetlbPages":
			n, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			out[name] = n
		}
	}
	return out
}
