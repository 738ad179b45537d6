package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// cut is a place in the list of processes where it can be cut short.
type cut struct {
	im         *ntlab.Image
	flink      phys.VirtAddr // of the last process that stays
	blink      phys.VirtAddr // of the list's head
	next, last []byte        // what they hold while the list is whole
}

func cutProcesses(t *testing.T, im *ntlab.Image, stay int) cut {
	t.Helper()
	head := im.Truth.PsActiveProcessHead
	c := cut{im: im, blink: head + 8, next: make([]byte, 8), last: make([]byte, 8)}
	var first [8]byte
	if err := im.ReadVirt(head, first[:]); err != nil {
		t.Fatal(err)
	}
	links := phys.VirtAddr(binary.LittleEndian.Uint64(first[:])) - im.Truth.SystemProcess
	c.flink = im.Truth.Processes[stay-1].EPROCESS + links
	if err := errors.Join(im.ReadVirt(c.flink, c.next), im.ReadVirt(c.blink, c.last)); err != nil {
		t.Fatal(err)
	}
	return c
}

// set makes the list short, or whole again.
func (c *cut) set(t *testing.T, short bool) {
	t.Helper()
	next, last := c.next, c.last
	if short {
		next = binary.LittleEndian.AppendUint64(nil, uint64(c.im.Truth.PsActiveProcessHead))
		last = binary.LittleEndian.AppendUint64(nil, uint64(c.flink))
	}
	if err := errors.Join(c.im.WriteVirt(c.flink, next), c.im.WriteVirt(c.blink, last)); err != nil {
		t.Fatal(err)
	}
}

// processesIn lists the processes of a dump.
func processesIn(t *testing.T, d *taken) []guest.Process {
	t.Helper()
	h, err := d.file.Header()
	if err != nil {
		t.Fatal(err)
	}
	sys, err := guest.Open(t.Context(), d.file, d.file.RAM(), h.DirectoryTableBase, d.res.Analysis.System.KDBG.At)
	if err != nil {
		t.Fatal(err)
	}
	processes, err := sys.Processes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return processes
}

// TestCoreIsOfOneMoment makes the list of processes shorter or longer after the
// guest was looked at: the dump's list must be whole, and that of the last
// reading of the core, whose pages are those of the list as it is then.
func TestCoreIsOfOneMoment(t *testing.T) {
	const stay = 2
	for name, spool := range spools {
		for _, short := range []bool{true, false} {
			vm := newLive(t, ntlab.Config{Seed: 39})
			c := cutProcesses(t, vm.im, stay)
			c.set(t, !short)
			// The core is read by the page, in the way that pages are copied.
			at, ok := vm.im.Translate(c.flink)
			if !ok {
				t.Fatal("EPROCESS is not mapped")
			}
			readings := 0
			vm.onRead = func(_ context.Context, p []byte, from phys.Addr) error {
				r, _ := phys.RunOf(from, uint64(len(p)))
				if len(p)%phys.PageSize == 0 && r.Base <= at.PFN() && at.PFN() < r.End() {
					if readings++; readings == 1 && spool == 0 || readings == 2 {
						c.set(t, short)
					}
				}
				return nil
			}
			d, err := takeBy(t, patientJob(vm, spool))
			if err != nil {
				t.Fatal(err)
			}
			want := len(vm.im.Truth.Processes)
			if short {
				want = stay
			}
			if got := len(processesIn(t, d)); got != want {
				t.Errorf("%s, shorter %v: %d processes in the dump; want %d", name, short, got, want)
			}
			core := d.res.Smear.Metadata
			if pages := protectedPages(t, vm.imageVM).Pages(); core.Pages != pages || core.Unstable != 0 || core.Rounds < 2 {
				t.Errorf("%s, shorter %v: core is %+v; want %d pages, settled", name, short, core, pages)
			}
		}
	}
}

// TestCoreIsInTheDump cuts the list of processes when the core has settled and
// the rest of the pages are about to be read: the dump must have the list as it
// was, and count the pages that it is on.
func TestCoreIsInTheDump(t *testing.T) {
	vm := newLive(t, ntlab.Config{Seed: 41})
	c := cutProcesses(t, vm.im, 2)
	vm.onScan = func(scan int) {
		if scan == scanFirst {
			c.set(t, true)
		}
	}
	d, err := takeBy(t, patientJob(vm, 0))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(processesIn(t, d)), len(vm.im.Truth.Processes); got != want {
		t.Errorf("%d processes in the dump; want the %d that were there when the core was read", got, want)
	}
	if d.res.Smear.Changed != 2 || d.res.Smear.Metadata.Unstable != 0 {
		t.Errorf("live is %+v; want 2 pages changed and a settled core", d.res.Smear)
	}
}

// TestCoreWithoutRegisters has a processor show no sign of Windows each other
// time that registers are asked for: they don't keep the core from settling.
func TestCoreWithoutRegisters(t *testing.T) {
	for name, spool := range spools {
		vm := newLive(t, ntlab.Config{Seed: 42})
		asked := 0
		vm.onAsk = func(cpus []phys.Registers) {
			if asked++; asked%2 == 0 {
				cpus[0] = phys.Registers{CPU: cpus[0].CPU}
			}
		}
		res := takeNowhere(t, patientJob(vm, spool))
		if got := res.Smear.Metadata; got.Rounds != 2 || got.Unstable != 0 || asked != 3 {
			t.Errorf("%s: core is %+v, registers asked for %d times; want it settled after 2 rounds, with registers of each", name, got, asked)
		}
	}
}

// TestCompareReadings demands that a page counts unless it was read in both rounds
// and holds the same, or could be read in neither.
func TestCompareReadings(t *testing.T) {
	const pages = 6
	round := func(of phys.Runs, content byte, broken ...phys.PFN) *memoryCopy {
		m := &fakeMemory{ram: phys.Runs{{Base: 0, Pages: pages}}, bytes: make([]byte, pages<<phys.PageShift), broken: map[phys.PFN]error{}}
		m.bytes[0] = content
		for _, p := range broken {
			m.broken[p] = errors.New("broken")
		}
		memory, err := newHostMemory(of.Pages() << phys.PageShift)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newMemoryCopy(memory, m, of, true)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		if err := s.fill(t.Context(), m, 1); err != nil {
			t.Fatal(err)
		}
		return s
	}
	// Page 0 changes, 1 doesn't, 2 can't be read at first, 3 later, 4 never, and 5
	// is new.
	before := round(phys.Runs{{Base: 0, Pages: 5}}, 1, 2, 4)
	now := round(phys.Runs{{Base: 0, Pages: 6}}, 2, 3, 4)
	for _, tt := range []struct {
		name   string
		before *memoryCopy
		facts  *guest.Metadata
		want   readingDiff
	}{
		{"no round before", nil, nil, readingDiff{others: 6}},
		{"nothing known", before, nil, readingDiff{others: 4}},
		{"some are tables", before, &guest.Metadata{Tables: phys.Runs{{Base: 0, Pages: 3}}}, readingDiff{tables: 2, others: 2}},
		{"all are tables", before, &guest.Metadata{Tables: phys.Runs{{Base: 0, Pages: 6}}}, readingDiff{tables: 4}},
	} {
		if got := compareReadings(guest.AMD64().Pagings()[0].SameTable, tt.before, now, tt.facts); got != tt.want {
			t.Errorf("%s: compareReadings() = %+v; want %+v", tt.name, got, tt.want)
		}
	}
}
