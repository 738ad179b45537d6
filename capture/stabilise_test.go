package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	"snap/dump"
	"snap/hv"
	"snap/internal/ntlab"
	"snap/phys"
)

// patientJob has no limit of time, so that it doesn't depend on the machine's
// load what comes out.
func patientJob(vm hv.VM, spool uint64) *job {
	job := liveJob(vm, spool)
	job.caps = stabiliseCaps{pages: defaultCaps.pages, rounds: 6, time: time.Hour}
	return job
}

// restless changes something in the guest each time a page is read, so often.
type restless struct {
	page   phys.PFN
	times  int // left
	change func(n int)
	n      int
}

func (r *restless) watch(vm *liveVM) {
	vm.onRead = func(_ context.Context, p []byte, at phys.Addr) error {
		run, _ := phys.RunOf(at, uint64(len(p)))
		// The look at the guest before is none of the core's readings.
		if vm.scans > 0 && r.times > 0 && run.Base <= r.page && r.page < run.End() {
			r.times--
			r.n++
			r.change(r.n)
		}
		return nil
	}
}

// Ways in which a core changes. Each is given what to write, and returns the
// page to which it does.
var coreChanges = []struct {
	name    string
	settles bool // whatever it changes, two readings agree
	prepare func(t *testing.T, im *ntlab.Image) (phys.PFN, func(n int))
}{
	{"page table", false, func(t *testing.T, im *ntlab.Image) (phys.PFN, func(int)) {
		at := unusedEntry(t, im)
		return at.PFN(), func(n int) { writeQword(t, im, at, uint64(n)<<32|0x80) } // in a page file
	}},
	{"accessed and dirty", true, func(t *testing.T, im *ntlab.Image) (phys.PFN, func(int)) {
		at := leafEntry(t, im, im.Truth.SystemProcess)
		return at.PFN(), func(int) { writeQword(t, im, at, readQword(t, im, at)^0x60) }
	}},
	{"process name", false, func(t *testing.T, im *ntlab.Image) (phys.PFN, func(int)) {
		p := im.Truth.Processes[1]
		var b [0x1000]byte
		if err := im.ReadVirt(p.EPROCESS, b[:0x800]); err != nil {
			t.Fatal(err)
		}
		i := bytes.Index(b[:], []byte(p.Name))
		if i < 0 {
			t.Fatalf("no name %q in its EPROCESS", p.Name)
		}
		at, ok := im.Translate(p.EPROCESS + phys.VirtAddr(i))
		if !ok {
			t.Fatal("EPROCESS is not mapped")
		}
		return at.PFN(), func(n int) {
			if err := im.WritePhys(at, []byte{byte('a' + n%20)}); err != nil {
				t.Fatal(err)
			}
		}
	}},
	{"time", true, func(t *testing.T, im *ntlab.Image) (phys.PFN, func(int)) {
		at, ok := im.Translate(kuserSystemTime)
		if !ok {
			t.Fatal("KUSER_SHARED_DATA is not mapped")
		}
		return at.PFN(), func(n int) {
			if err := im.WritePhys(at, []byte{byte(n)}); err != nil {
				t.Fatal(err)
			}
		}
	}},
}

func writeQword(t *testing.T, im *ntlab.Image, at phys.Addr, v uint64) {
	t.Helper()
	if err := im.WritePhys(at, binary.LittleEndian.AppendUint64(nil, v)); err != nil {
		t.Fatal(err)
	}
}

func readQword(t *testing.T, im *ntlab.Image, at phys.Addr) uint64 {
	t.Helper()
	var b [8]byte
	if err := im.ReadPhys(t.Context(), b[:], at); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(b[:])
}

// leafEntry walks the System process's page tables to the entry of the lowest
// level for a page of 4 KiB.
func leafEntry(t *testing.T, im *ntlab.Image, va phys.VirtAddr) phys.Addr {
	t.Helper()
	table := im.Truth.DirectoryTableBase
	for shift := 39; ; shift -= 9 {
		at := table + phys.Addr(uint64(va)>>shift%512*8)
		e := readQword(t, im, at)
		if e&1 == 0 || e&0x80 != 0 {
			t.Fatalf("%#x is not in a page of 4 KiB: entry %#x", uint64(va), e)
		}
		if shift == 12 {
			return at
		}
		table = phys.Addr(e & 0x000f_ffff_ffff_f000)
	}
}

// unusedEntry returns an empty entry in the table that maps the EPROCESS of
// System.
func unusedEntry(t *testing.T, im *ntlab.Image) phys.Addr {
	t.Helper()
	table := leafEntry(t, im, im.Truth.SystemProcess).PFN().Addr()
	for i := range phys.Addr(512) {
		if at := table + i*8; readQword(t, im, at) == 0 {
			return at
		}
	}
	t.Fatal("no entry is empty")
	return 0
}

// takeNowhere takes a dump of which only the account counts.
func takeNowhere(t *testing.T, job *job) *Result {
	t.Helper()
	job.Write.Compression = dump.CompressionNone
	res, err := job.take(t.Context(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestCoreComesToRest changes a guest's core while it is read, a few times: it
// must be read until it agrees, and be in the dump as it was at the end.
func TestCoreComesToRest(t *testing.T) {
	for _, c := range coreChanges {
		for name, spool := range spools {
			for _, times := range []int{1, 4} {
				vm := newLive(t, ntlab.Config{Seed: 36})
				page, change := c.prepare(t, vm.im)
				r := &restless{page: page, times: times, change: change}
				r.watch(vm)
				res := takeNowhere(t, patientJob(vm, spool))
				// One round for each change that no earlier look took, and one to see that
				// there are no more.
				most := max(2, times+1)
				if c.settles {
					most = 2
				}
				got := res.Smear.Metadata
				if got.Unstable != 0 || got.Rounds < 2 || got.Rounds > most || got.Pages == 0 || len(res.Manifest.Warnings) != 0 {
					t.Errorf("%s, %s, %d changes: core is %+v, warnings %q; want it settled after 2 to %d rounds", c.name, name, times, got, res.Manifest.Warnings, most)
				}
				if r.times != 0 && !c.settles {
					t.Errorf("%s, %s: %d changes of %d were not made", c.name, name, r.times, times)
				}
				if !c.settles && res.Smear.Changed != 0 {
					t.Errorf("%s, %s, %d changes: %d pages differ from the dump; want none after the core was settled", c.name, name, times, res.Smear.Changed)
				}
			}
		}
	}
}

// TestCoreNeverRests changes a guest's core each time that it is read: it is
// given up, and that is said.
func TestCoreNeverRests(t *testing.T) {
	for _, c := range coreChanges {
		for name, spool := range spools {
			vm := newLive(t, ntlab.Config{Seed: 37})
			page, change := c.prepare(t, vm.im)
			r := &restless{page: page, times: 1 << 30, change: change}
			r.watch(vm)
			job := patientJob(vm, spool)
			res := takeNowhere(t, job)
			got, want := res.Smear.Metadata, Metadata{Rounds: job.caps.rounds, Unstable: 1}
			if c.settles {
				want = Metadata{Rounds: 2}
			}
			want.Pages = protectedPages(t, vm.imageVM).Pages()
			if got != want {
				t.Errorf("%s, %s: core is %+v; want %+v", c.name, name, got, want)
			}
			if c.settles != (len(res.Manifest.Warnings) == 0) {
				t.Errorf("%s, %s: warnings %q", c.name, name, res.Manifest.Warnings)
			}
			if res.Smear.Changed != 1 {
				t.Errorf("%s, %s: %d pages changed; want 1", c.name, name, res.Smear.Changed)
			}
		}
	}
}

// TestCoreTakesTooLong demands an end after the round that the time is up in.
func TestCoreTakesTooLong(t *testing.T) {
	for name, spool := range spools {
		vm := newLive(t, ntlab.Config{Seed: 40})
		job := liveJob(vm, spool)
		job.caps = stabiliseCaps{pages: defaultCaps.pages, rounds: 100}
		res := takeNowhere(t, job)
		if got := res.Smear.Metadata; got.Rounds != 1 || got.Unstable == 0 || len(res.Manifest.Warnings) != 1 {
			t.Errorf("%s: core is %+v, warnings %q; want it given up after a round", name, got, res.Manifest.Warnings)
		}
	}
}

// TestCoreTooLarge demands a dump without a settled core where that would take
// too much memory.
func TestCoreTooLarge(t *testing.T) {
	t.Parallel()
	for name, spool := range spools {
		vm := newLive(t, ntlab.Config{Seed: 38})
		core := protectedPages(t, vm.imageVM).Pages()
		for _, tt := range []struct {
			cap  uint64
			want Metadata
		}{
			{core - 1, Metadata{Pages: core, Unstable: core}},
			{core, Metadata{Pages: core, Rounds: 2}},
		} {
			job := liveJob(vm, spool)
			job.caps = stabiliseCaps{pages: tt.cap, rounds: 5, time: defaultCaps.time}
			d, err := takeBy(t, job)
			if err != nil {
				t.Fatal(err)
			}
			d.comparePages(t, vm.im, windowsPages(t, vm.im))
			if got := d.res.Smear.Metadata; got != tt.want {
				t.Errorf("%s, at most %d pages: core is %+v; want %+v", name, tt.cap, got, tt.want)
			}
			if said := strings.Contains(strings.Join(d.warnings(), "\n"), "page tables and lists"); said != (tt.want.Unstable > 0) {
				t.Errorf("%s, at most %d pages: warnings %q", name, tt.cap, d.warnings())
			}
		}
	}
}
