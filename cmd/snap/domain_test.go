package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"snap/dump"
	"snap/internal/lab"
	"snap/internal/ntlab"
	"snap/internal/ntlab/boot"
	"snap/manifest"
	"snap/phys"
)

// TestDumpIsTheGuest takes dumps of real domains and holds each against an ELF
// core that libvirt takes of the same paused guest: every page must be equal
// but for the bytes of the decoded KDBG and of the processors' contexts, and
// the guest's memory must be what it was.
func TestDumpIsTheGuest(t *testing.T) {
	t.Parallel()
	for _, s := range []lab.Spec{
		{Name: "dump-system", Connect: lab.System, FillMiB: 48, Seed: 1},
		{Name: "dump-session", Connect: lab.Session, FillMiB: 48, Seed: 2, KPTI: true},
		{Name: "dump-memfd", Connect: lab.System, Backing: lab.Memfd, FillMiB: 48, Seed: 3, Machine: "i440fx"},
		{Name: "dump-2003", Connect: lab.System, Profile: "ws2003sp1-x64", Seed: 4},
		{Name: "dump-plain", Connect: lab.Session, PlainKDBG: true, Seed: 5},
		{Name: "dump-five-levels", Connect: lab.System, LA57: true, Seed: 6},
	} {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			s.MemoryMiB, s.CPUs = 256, 4
			g := upGuest(t, s)
			equalsCore(t, g)
		})
	}
}

// equalsCore dumps a paused guest with libvirt and with snap, and holds all pages and
// all processors of the dumps against each other.
func equalsCore(t *testing.T, g *lab.Guest) {
	t.Helper()
	domain := g.Name
	virsh(t, g.Connection, "suspend", domain)
	before := takeCore(t, g, "before.elf")
	for _, source := range []string{"direct", "peek"} {
		plain := dumpAndExpand(t, g, source)
		comparePages(t, g, before, plain)
		checkContexts(t, g, before, plain)
	}
	// The core makes the same dump.
	plain := filepath.Join(g.Dir(), "core.dmp")
	r := runSnap(t, g.Connection, "convert", before.file.Name(), "-o", plain, "--json").want(t, exitOK)
	var sum manifest.Manifest
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
		t.Fatal(err)
	}
	// virsh dump could as well have been of a guest that ran.
	if sum.Consistent || sum.Moment() != manifest.NotKnown {
		t.Errorf("a converted core is of %q, consistent %v; want what isn't known", sum.Consistency, sum.Consistent)
	}
	comparePages(t, g, before, plain)
	checkContexts(t, g, before, plain)
	after := takeCore(t, g, "after.elf")
	sameMemory(t, before, after)
	if got := virsh(t, g.Connection, "domstate", domain); got != "paused" {
		t.Errorf("a guest that was paused is %s after its dumps; want paused", got)
	}
	virsh(t, g.Connection, "resume", domain)
}

// dumpAndExpand takes a dump by the given source and returns the path of the
// plain file.
func dumpAndExpand(t *testing.T, g *lab.Guest, source string) string {
	t.Helper()
	packed := filepath.Join(g.Dir(), source+".dmp.zst")
	plain := filepath.Join(g.Dir(), source+".dmp")
	r := runSnap(t, g.Connection, "dump", g.Name, "--source", source, "--json", "-o", packed).want(t, exitOK)
	var sum struct {
		Source     string
		Consistent bool
		Pages      struct{ Total, Unreadable uint64 }
		Guest      struct {
			CPUs        int
			KDBGEncoded bool `json:"kdbg_encoded"`
		}
		Warnings []string
	}
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
		t.Fatalf("summary: %v\n%s", err, r.stdout)
	}
	if sum.Source != source || !sum.Consistent || sum.Pages.Unreadable != 0 || sum.Guest.CPUs != g.Spec.CPUs ||
		sum.Guest.KDBGEncoded != g.Image.Truth.KDBGEncoded || len(sum.Warnings) != 0 {
		t.Errorf("summary of a dump by %s is %+v", source, sum)
	}
	runSnap(t, g.Connection, "expand", packed, "-o", plain).want(t, exitOK)
	return plain
}

// span is a range of guest-physical bytes.
type span struct {
	at phys.Addr
	n  uint64
}

// overlaid returns where the dump may differ from the guest, from what the
// image's builder says.
func overlaid(t *testing.T, im *ntlab.Image) []span {
	t.Helper()
	var out []span
	add := func(va phys.VirtAddr, n uint64) {
		for n > 0 {
			pa, ok := im.Translate(va)
			if !ok {
				t.Fatalf("the image does not map %#x", va)
			}
			k := min(n, phys.PageSize-pa.Offset())
			out = append(out, span{pa, k})
			va += phys.VirtAddr(k)
			n -= k
		}
	}
	truth := &im.Truth
	if truth.KDBGEncoded {
		add(truth.KDBG, uint64(len(truth.KDBGPlain)))
	}
	for _, p := range truth.Processors {
		add(p.Context, contextSize)
	}
	return out
}

// Facts of the file formats, from QEMU's include/qemu/win_dump_defs.h.
const (
	headerSize  = 0x2000
	contextSize = 0x4d0
	contextRSP  = 0x98
	contextRIP  = 0xf8
	dumpRuns    = 0x88
)

// comparePages holds the plain dump against the core, page by page.
func comparePages(t *testing.T, g *lab.Guest, c *core, plain string) {
	t.Helper()
	b, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	off := headerSize
	want := make([]byte, phys.PageSize)
	differing := 0
	masks := overlaid(t, g.Image)
	for i := range int(le.Uint32(b[dumpRuns:])) {
		base, count := le.Uint64(b[dumpRuns+16+16*i:]), le.Uint64(b[dumpRuns+24+16*i:])
		for pfn := phys.PFN(base); pfn < phys.PFN(base+count); pfn++ {
			got := b[off : off+phys.PageSize]
			off += phys.PageSize
			if err := c.ReadPhys(t.Context(), want, pfn.Addr()); err != nil {
				t.Fatalf("page %#x of the dump is not in the core: %v", uint64(pfn), err)
			}
			if bytes.Equal(got, want) {
				continue
			}
			differing++
			hide(masks, pfn.Addr(), got)
			hide(masks, pfn.Addr(), want)
			if !bytes.Equal(got, want) {
				t.Fatalf("page %#x differs from the guest's outside of the overlays", uint64(pfn))
			}
		}
	}
	if off != len(b) {
		t.Errorf("the dump has %d bytes; want %d", len(b), off)
	}
	if differing == 0 {
		t.Error("no page differs from the guest's: neither contexts nor KDBG were put in")
	}
}

// hide clears the bytes of a page that lie in one of the spans.
func hide(spans []span, at phys.Addr, page []byte) {
	for _, s := range spans {
		if s.at.PFN() == at.PFN() {
			clear(page[s.at.Offset() : s.at.Offset()+s.n])
		}
	}
}

// readVirt reads n bytes from a dump, where the image has the address.
func readVirt(t *testing.T, f *dump.File, im *ntlab.Image, va phys.VirtAddr, n int) []byte {
	t.Helper()
	b := make([]byte, 0, n)
	for len(b) < n {
		pa, ok := im.Translate(va + phys.VirtAddr(len(b)))
		if !ok {
			t.Fatalf("the image does not map %#x", va)
		}
		k := min(n-len(b), int(phys.PageSize-pa.Offset()))
		b = b[:len(b)+k]
		if err := f.ReadPhys(t.Context(), b[len(b)-k:], pa); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// checkContexts holds the contexts and the KDBG in the dump against the
// registers in the core's notes and against the image's truth.
func checkContexts(t *testing.T, g *lab.Guest, c *core, plain string) {
	t.Helper()
	f, err := dump.Open(plain)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	truth := &g.Image.Truth
	if got := readVirt(t, f, g.Image, truth.KDBG, len(truth.KDBGPlain)); !bytes.Equal(got, truth.KDBGPlain) {
		t.Error("the KDBG in the dump is not the plain one")
	}
	seen := map[uint64]bool{}
	for i, p := range truth.Processors {
		ctx := readVirt(t, f, g.Image, p.Context, contextSize)
		rip, rsp := binary.LittleEndian.Uint64(ctx[contextRIP:]), binary.LittleEndian.Uint64(ctx[contextRSP:])
		if wantRIP, wantRSP := c.register(p.VCPU, noteRIP), c.register(p.VCPU, noteRSP); rip != wantRIP || rsp != wantRSP {
			t.Errorf("processor %d: RIP, RSP = %#x, %#x; want vCPU %d's %#x, %#x", i, rip, rsp, p.VCPU, wantRIP, wantRSP)
		}
		seen[rsp] = true
	}
	if len(seen) != g.Spec.CPUs {
		t.Errorf("the contexts have %d different stack pointers; want %d", len(seen), g.Spec.CPUs)
	}
}

// TestDumpOfRunningGuest takes dumps of a guest that keeps writing: one with
// the guest held still must be of one moment, and the guest runs on after
// either.
func TestDumpOfRunningGuest(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "running", MemoryMiB: 256, CPUs: 4, Mode: boot.Busy, FillMiB: 32, Seed: 6})
	domain := g.Name
	for _, mode := range []string{"pause", "live"} {
		out := filepath.Join(g.Dir(), mode+".dmp.zst")
		r := runSnap(t, g.Connection, "dump", domain, "--mode", mode, "--json", "-o", out).want(t, exitOK)
		var sum struct {
			Consistent bool
			PauseMS    float64 `json:"pause_ms"`
		}
		if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
			t.Fatal(err)
		}
		if paused := mode == "pause"; sum.Consistent != paused || (sum.PauseMS > 0) != paused {
			t.Errorf("mode %s: summary says consistent %v, pause %v ms", mode, sum.Consistent, sum.PauseMS)
		}
		if c := chainsIn(t, g, out); mode == "pause" && !c.OnePoint {
			t.Errorf("a dump of a guest that stood still is smeared by %d rounds", c.Smear)
		}
		mustRun(t, g)
	}
}

// TestDumpOfChangingAdverts takes dumps of a guest whose driver rewrites its
// advert all the time. Each leaves out what one whole table names: the driver
// goes by turns through tables of 16 pages and of 8 others. A driver that is
// caught in the middle each time has nothing left out, or what it named before, and
// that is said: the dump is degraded then, and only then.
func TestDumpOfChangingAdverts(t *testing.T) {
	const entries = 16
	g := upGuest(t, lab.Spec{Name: "adverts", MemoryMiB: 256, CPUs: 2, Seed: 10, Advert: entries})
	left := 0
	for i := range 10 {
		out := filepath.Join(g.Dir(), fmt.Sprintf("%d.dmp.zst", i))
		r := runSnap(t, g.Connection, "dump", g.Name, "--json", "-o", out)
		if r.code != exitDegraded {
			r.want(t, exitOK)
		}
		var sum struct {
			Pages    struct{ Excluded uint64 }
			Excluded []struct{ Address string }
			Unmet    struct{ Unread int }
			Warnings []string
		}
		if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
			t.Fatal(err)
		}
		if (sum.Unmet.Unread > 0) != (r.code == exitDegraded) {
			t.Errorf("%d tables were not read, and the exit code is %d", sum.Unmet.Unread, r.code)
		}
		first, n := g.Boot.Advert.Pages, entries
		if len(sum.Excluded) == entries/2 {
			first, n = first+entries*phys.PageSize, entries/2
		}
		switch {
		case len(sum.Excluded) == 0 && (len(sum.Warnings) == 0 || r.code == exitOK):
			t.Error("nothing was left out, and nothing said")
		case len(sum.Excluded) == 0:
			continue
		case len(sum.Excluded) != n || sum.Pages.Excluded != uint64(n):
			t.Errorf("%d requests leave out %d pages; want those of one table", len(sum.Excluded), sum.Pages.Excluded)
		}
		left++
		for i, e := range sum.Excluded {
			if want := fmt.Sprintf("%#x", uint64(first)+uint64(i)*phys.PageSize); e.Address != want {
				t.Errorf("request %d is for %s; want %s", i, e.Address, want)
			}
		}
		f, err := dump.Open(out)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := f.RAM().Pages(), windowsRuns(t, g).Pages()-uint64(n); got != want {
			t.Errorf("the dump has %d pages; want %d", got, want)
		}
		f.Close()
	}
	if left == 0 {
		t.Error("the driver was caught in the middle 10 times of 10")
	}
	mustRun(t, g)
}

// windowsRuns is what Windows lists as its memory, from the image's builder.
func windowsRuns(t *testing.T, g *lab.Guest) phys.Runs {
	t.Helper()
	runs, err := phys.NewRuns(g.Image.Truth.Runs...)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

// mustRun fails the test unless the guest runs: its processors count on.
func mustRun(t *testing.T, g *lab.Guest) {
	t.Helper()
	if got := virsh(t, g.Connection, "domstate", g.Name); got != "running" {
		t.Fatalf("the guest is %s; want running", got)
	}
	first, err := g.Heartbeats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for {
		again, err := g.Heartbeats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		moved := 0
		for i := range again {
			if again[i] != first[i] {
				moved++
			}
		}
		if moved == len(first) {
			return
		}
		if err := t.Context().Err(); err != nil {
			t.Fatalf("the guest's processors stand still: %v", fmt.Sprint(first, again))
		}
	}
}
