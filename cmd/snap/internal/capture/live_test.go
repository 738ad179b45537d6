package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"snap/dump"
	"snap/exclude"
	"snap/guest"
	"snap/guest/phys"
	"snap/hv"
	"snap/internal/ntlab"
)

// liveVM is an image that a test changes while it is read.
type liveVM struct {
	*imageVM
	scans  int            // how often it was asked which pages are populated
	onScan func(scan int) // before it is answered
}

func newLive(t *testing.T, c ntlab.Config) *liveVM {
	t.Helper()
	return &liveVM{imageVM: newGuest(t, c)}
}

func (v *liveVM) OpenMemory(context.Context, hv.Mechanism) (hv.Memory, error) {
	return liveMemory{imageMemory{v.im, v.imageVM}, v}, nil
}

type liveMemory struct {
	imageMemory
	vm *liveVM
}

func (m liveMemory) Populated(ctx context.Context) (phys.Runs, bool, error) {
	m.vm.scans++
	if m.vm.onScan != nil {
		m.vm.onScan(m.vm.scans)
	}
	return m.imageMemory.Populated(ctx)
}

// liveJob reads with one worker, so that a test may change the guest when it is
// read.
func liveJob(vm hv.VM, spool uint64) *Job {
	job := &Job{VM: vm, Mode: ModeLive, Mechanism: hv.MechanismAuto, Log: zerolog.Nop(), Spool: spool}
	job.Write.Workers = 1
	return job
}

// scans are those of a dump of a running guest: to see whether it fits a spool,
// what is to be read, and what is to be read again.
const (
	scanFirst  = 2
	scanSecond = 3
	scansInAll = 3
)

var spools = map[string]uint64{"spool": spoolSize, "no spool": 0}

// TestLiveCounts changes pages before, between and after their two readings,
// and demands the count of those that changed between.
func TestLiveCounts(t *testing.T) {
	for name, spool := range spools {
		t.Run(name, func(t *testing.T) {
			vm := newLive(t, ntlab.Config{Seed: 31, Memory: 128 << 20})
			free := vm.im.Free()
			if err := vm.im.Fill(16<<20, ntlab.Mix{Random: 1}); err != nil {
				t.Fatal(err)
			}
			var filled []phys.PFN
			for _, r := range free.Minus(vm.im.Free()) {
				for p := r.Base; p < r.End(); p++ {
					filled = append(filled, p)
				}
			}
			// Every third page is written to between, every seventh before, some can't be
			// read again, one could not be read at all, and some stay out of the dump.
			const out, pages = 300, 600 // those from out on stay out, up to pages
			gap, lost := filled[pages], filled[pages+1]
			var want uint64
			write := func(p phys.PFN, b byte) {
				if err := vm.im.WritePhys(p.Addr()+8, []byte{b}); err != nil {
					t.Fatal(err)
				}
			}
			old := map[phys.PFN][]byte{}
			unused := vm.im.Free()[0].Base
			vm.onScan = func(scan int) {
				for i, p := range filled[:pages] {
					var b [phys.PageSize]byte
					if err := vm.im.ReadPhys(t.Context(), b[:], p.Addr()); err != nil {
						t.Fatal(err)
					}
					switch {
					case scan == scanFirst && i%7 == 0:
						write(p, b[8]+1)
					case scan == scanSecond && i%3 == 0:
						write(p, b[8]+1)
						if i < out {
							want++
							old[p] = b[:]
						}
					}
				}
				if scan == scanSecond {
					write(unused, 1)   // is populated only now
					write(unused+1, 0) // and this one with zeros, as it was
					want += 2          // with the lost one
				}
			}
			vm.onRead = func(_ context.Context, p []byte, at phys.Addr) error {
				r, _ := phys.RunOf(at, uint64(len(p)))
				for pfn, broken := range map[phys.PFN]bool{gap: vm.scans == scanFirst, lost: vm.scans == scanSecond} {
					if broken && r.Base <= pfn && pfn < r.End() {
						return &phys.AccessError{At: pfn.Addr(), Len: phys.PageSize, Err: errors.New("poisoned")}
					}
				}
				return nil
			}
			job := liveJob(vm, spool)
			for _, p := range filled[out:pages] {
				job.Look.Exclusion.Requests = append(job.Look.Exclusion.Requests,
					exclude.Request{By: "test", Flags: exclude.FlagPhysical, Address: uint64(p.Addr()), Pages: 1})
			}
			d, err := takeBy(t, job)
			if err != nil {
				t.Fatal(err)
			}
			if vm.scans != scansInAll {
				t.Fatalf("%d scans; want %d", vm.scans, scansInAll)
			}
			if d.res.Live == nil || d.res.Live.Changed != want || want < 100 {
				t.Errorf("live is %+v; want %d pages changed", d.res.Live, want)
			}
			if d.res.Consistent || d.res.Spooled != (spool > 0) || d.res.Pause != 0 || vm.holds != 0 || d.res.Stats.Unreadable != 1 {
				t.Errorf("result is %+v after %d pauses", d.res, vm.holds)
			}
			for p, b := range old {
				var got [phys.PageSize]byte
				if err := d.file.ReadPhys(t.Context(), got[:], p.Addr()); err != nil || !bytes.Equal(got[:], b) {
					t.Fatalf("page %#x is not of its first reading (%v)", p, err)
				}
			}
		})
	}
}

// TestLiveOfQuietGuest reads a guest that doesn't change, by several workers.
func TestLiveOfQuietGuest(t *testing.T) {
	for name, spool := range map[string]uint64{"spool": spoolSize, "no spool": 0, "small spool": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{Seed: 32})
			job := liveJob(vm, spool)
			job.Write.Workers = 4
			job.Write.FrameSize = 64 << 10
			var early *Live
			job.Writing = func(r *Result) { early = r.Live }
			d, err := takeBy(t, job)
			if err != nil {
				t.Fatal(err)
			}
			d.comparePages(t, vm.im, windowsPages(t, vm.im))
			want := Live{Core: Core{Pages: protectedPages(t, vm).Pages(), Rounds: 2}}
			if d.res.Live == nil || *d.res.Live != want {
				t.Errorf("live is %+v; want %+v", d.res.Live, want)
			}
			if d.res.Consistent || d.res.Spooled != (spool == spoolSize) || vm.holds != 0 || (len(d.res.Warnings) > 0) != (spool == 1<<20) {
				t.Errorf("result is %+v after %d pauses", d.res, vm.holds)
			}
			if (early != nil) != d.res.Spooled {
				t.Errorf("before the pages were written, live was %+v", early)
			}
		})
	}
}

// TestLiveMetadata demands that the count is known when the metadata are asked
// for, which are part of the file.
func TestLiveMetadata(t *testing.T) {
	for name, spool := range spools {
		t.Run(name, func(t *testing.T) {
			vm := newLive(t, ntlab.Config{Seed: 33})
			vm.onScan = func(scan int) {
				if scan == scanSecond {
					if err := vm.im.WritePhys(vm.im.Free()[0].Base.Addr(), []byte{1}); err != nil {
						t.Fatal(err)
					}
				}
			}
			job := liveJob(vm, spool)
			var taken *Result
			job.Writing = func(r *Result) { taken = r }
			var changed uint64
			job.Write.Metadata = func(*dump.Stats) ([]byte, error) {
				changed = taken.Live.Changed
				return []byte("{}"), nil
			}
			if _, err := takeBy(t, job); err != nil {
				t.Fatal(err)
			}
			if changed != 1 || vm.scans != scansInAll {
				t.Errorf("%d changed after %d scans; want 1 after %d", changed, vm.scans, scansInAll)
			}
		})
	}
}

// TestLiveOfPausedGuest demands that a dump of a guest that somebody else paused
// is of one point in time, unless it is resumed meanwhile.
func TestLiveOfPausedGuest(t *testing.T) {
	for name, resume := range map[string]func(*liveVM){
		"stays": nil,
		"is resumed": func(vm *liveVM) {
			vm.paused.Store(false)
		},
		"is resumed and paused again": func(vm *liveVM) {
			if err := vm.im.WritePhys(vm.im.Free()[0].Base.Addr(), []byte{1}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			vm := newLive(t, ntlab.Config{Seed: 34})
			vm.paused.Store(true)
			vm.onScan = func(int) {
				if resume != nil && vm.scans > 1 {
					resume(vm)
				}
			}
			d, err := takeBy(t, liveJob(vm, spoolSize))
			if err != nil {
				t.Fatal(err)
			}
			if stays := resume == nil; d.res.Consistent != stays || (len(d.res.Warnings) == 0) != stays || d.res.Spooled || vm.holds != 0 || vm.scans < 2 {
				t.Errorf("result is %+v after %d pauses and %d scans", d.res, vm.holds, vm.scans)
			}
		})
	}
}

// TestLiveSourceDies demands that a guest that ends between its two readings
// ends the dump: how many pages changed can't be told.
func TestLiveSourceDies(t *testing.T) {
	for name, spool := range spools {
		t.Run(name, func(t *testing.T) {
			vm := newLive(t, ntlab.Config{Seed: 35})
			vm.onRead = func(_ context.Context, p []byte, at phys.Addr) error {
				if vm.scans == scanSecond {
					return &phys.AccessError{At: at, Len: len(p), Err: hv.ErrNotRunning}
				}
				return nil
			}
			if _, err := liveJob(vm, spool).Take(t.Context(), &bytes.Buffer{}); !errors.Is(err, hv.ErrNotRunning) {
				t.Errorf("Take() = %v; want ErrNotRunning", err)
			}
		})
	}
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

// TestCoreComesToRest changes a guest's core while it is read, a few times: it
// must be read until it agrees, and be in the dump as it was at the end.
func TestCoreComesToRest(t *testing.T) {
	for _, c := range coreChanges {
		for name, spool := range spools {
			for _, times := range []int{0, 1, 2, 5} {
				vm := newLive(t, ntlab.Config{Seed: 36})
				page, change := c.prepare(t, vm.im)
				r := &restless{page: page, times: times, change: change}
				r.watch(vm)
				d, err := takeBy(t, liveJob(vm, spool))
				if err != nil {
					t.Fatal(err)
				}
				// One round for each change that no earlier look took, and one to see that
				// there are no more.
				most := max(2, times+1)
				if c.settles {
					most = 2
				}
				got := d.res.Live.Core
				if got.Unsettled != 0 || got.Rounds < 2 || got.Rounds > most || got.Pages == 0 || len(d.res.Warnings) != 0 {
					t.Errorf("%s, %s, %d changes: core is %+v, warnings %q; want it settled after 2 to %d rounds", c.name, name, times, got, d.res.Warnings, most)
				}
				if r.times != 0 && !c.settles {
					t.Errorf("%s, %s: %d changes of %d were not made", c.name, name, r.times, times)
				}
				if !c.settles && d.res.Live.Changed != 0 {
					t.Errorf("%s, %s, %d changes: %d pages differ from the dump; want none after the core was settled", c.name, name, times, d.res.Live.Changed)
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
			d, err := takeBy(t, liveJob(vm, spool))
			if err != nil {
				t.Fatal(err)
			}
			got, want := d.res.Live.Core, Core{Rounds: defaultCaps.rounds, Unsettled: 1}
			if c.settles {
				want = Core{Rounds: 2}
			}
			want.Pages = protectedPages(t, vm.imageVM).Pages()
			if got != want {
				t.Errorf("%s, %s: core is %+v; want %+v", c.name, name, got, want)
			}
			if c.settles != (len(d.res.Warnings) == 0) {
				t.Errorf("%s, %s: warnings %q", c.name, name, d.res.Warnings)
			}
			if d.res.Live.Changed != 1 {
				t.Errorf("%s, %s: %d pages changed; want 1", c.name, name, d.res.Live.Changed)
			}
		}
	}
}

// TestCoreTooLarge demands a dump without a settled core where that would take
// too much memory.
func TestCoreTooLarge(t *testing.T) {
	for name, spool := range spools {
		vm := newLive(t, ntlab.Config{Seed: 38})
		core := protectedPages(t, vm.imageVM).Pages()
		for _, tt := range []struct {
			cap  uint64
			want Core
		}{
			{core - 1, Core{Pages: core, Unsettled: core}},
			{core, Core{Pages: core, Rounds: 2}},
		} {
			job := liveJob(vm, spool)
			job.caps = settleCaps{pages: tt.cap, rounds: 5, time: defaultCaps.time}
			d, err := takeBy(t, job)
			if err != nil {
				t.Fatal(err)
			}
			d.comparePages(t, vm.im, windowsPages(t, vm.im))
			if got := d.res.Live.Core; got != tt.want {
				t.Errorf("%s, at most %d pages: core is %+v; want %+v", name, tt.cap, got, tt.want)
			}
			if said := strings.Contains(strings.Join(d.res.Warnings, "\n"), "page tables and lists"); said != (tt.want.Unsettled > 0) {
				t.Errorf("%s, at most %d pages: warnings %q", name, tt.cap, d.res.Warnings)
			}
		}
	}
}

// TestCoreIsOfOneMoment has a process leave the list between the copy and the
// last reading of the core: the dump's list must be whole, and without it.
func TestCoreIsOfOneMoment(t *testing.T) {
	for name, spool := range spools {
		vm := newLive(t, ntlab.Config{Seed: 39})
		im := vm.im
		var head [8]byte
		if err := im.ReadVirt(im.Truth.PsActiveProcessHead, head[:]); err != nil {
			t.Fatal(err)
		}
		links := phys.VirtAddr(binary.LittleEndian.Uint64(head[:])) - im.Truth.SystemProcess
		prev, gone, after := im.Truth.Processes[0].EPROCESS+links, im.Truth.Processes[1].EPROCESS+links, im.Truth.Processes[2].EPROCESS+links
		at, ok := im.Translate(after)
		if !ok {
			t.Fatal("EPROCESS is not mapped")
		}
		r := &restless{page: at.PFN(), times: 2, change: func(n int) {
			if n < 2 {
				return // the first reading is of the list as it was
			}
			for va, v := range map[phys.VirtAddr]phys.VirtAddr{prev: after, after + 8: prev} {
				if err := im.WriteVirt(va, binary.LittleEndian.AppendUint64(nil, uint64(v))); err != nil {
					t.Fatal(err)
				}
			}
		}}
		r.watch(vm)
		d, err := takeBy(t, liveJob(vm, spool))
		if err != nil {
			t.Fatal(err)
		}
		sys := d.res.Survey.System
		h, err := d.file.Header()
		if err != nil {
			t.Fatal(err)
		}
		inDump, err := guest.Open(t.Context(), d.file, d.file.RAM(), h.DirectoryTableBase, sys.KDBG.At)
		if err != nil {
			t.Fatal(err)
		}
		processes, err := inDump.Processes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range processes {
			if p.EPROCESS+links == gone {
				t.Errorf("%s: the process that left is in the dump's list", name)
			}
		}
		if len(processes) != len(im.Truth.Processes)-1 || d.res.Live.Core.Unsettled != 0 || r.times != 0 {
			t.Errorf("%s: %d processes of %d, core %+v", name, len(processes), len(im.Truth.Processes), d.res.Live.Core)
		}
	}
}
