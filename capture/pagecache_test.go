package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/dump"
	"snap/hv"
	"snap/internal/ntlab"
	"snap/phys"
)

// dearVM is a guest whose memory is dear to read. It notes each read.
type dearVM struct {
	*imageVM
	cost hv.ReadCost

	mu       sync.Mutex
	calls    []phys.Run // in the order in which they were made
	vouched  int        // how often somebody asked
	vouchErr error      // what was answered
	now, top int        // calls at a time, and the most there were
}

func newDear(t testing.TB, c ntlab.Config, gap uint64) *dearVM {
	t.Helper()
	return &dearVM{imageVM: newGuest(t, c), cost: hv.ReadCost{Gap: gap, Most: 4 << 20, Flight: 4}}
}

func (v *dearVM) OpenMemory(context.Context, hv.Mechanism) (hv.Memory, error) {
	return &dearMemory{imageMemory{v.im, v.imageVM}, v}, nil
}

type dearMemory struct {
	imageMemory
	vm *dearVM
}

func (m *dearMemory) ReadCost() hv.ReadCost { return m.vm.cost }

func (m *dearMemory) Batch() hv.Batch { return dearBatch{m} }

func (m *dearMemory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	return errors.Join(m.read(ctx, p, at), m.vouch())
}

func (m *dearMemory) read(ctx context.Context, p []byte, at phys.Addr) error {
	v := m.vm
	v.mu.Lock()
	if run, ok := phys.RunOf(at, uint64(len(p))); ok {
		v.calls = append(v.calls, run)
	}
	v.now++
	v.top = max(v.top, v.now)
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.now--
	}()
	return m.imageMemory.ReadPhys(ctx, p, at)
}

func (m *dearMemory) vouch() error {
	m.vm.mu.Lock()
	defer m.vm.mu.Unlock()
	m.vm.vouched++
	return m.vm.vouchErr
}

// Populated implements hv.Memory: nobody knows.
func (m *dearMemory) Populated(context.Context) (phys.Runs, bool, error) {
	return m.vm.im.RAM(), false, nil
}

type dearBatch struct{ m *dearMemory }

func (b dearBatch) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	return b.m.read(ctx, p, at)
}
func (b dearBatch) Vouch(context.Context) error { return b.m.vouch() }

// dearGuests are guests that are found in different ways.
var dearGuests = map[string]ntlab.Config{
	"Windows 10":             {Seed: 71},
	"Windows Server 2003":    {Seed: 72, Profile: "ws2003sp1-x64"},
	"in user mode with KPTI": {Seed: 73, UserMode: true, KPTI: true},
	"5 levels, small pages":  {Seed: 74, LA57: true, SmallPages: true},
}

// dress has a driver ask for pages, and another only register to.
func dress(t *testing.T, im *ntlab.Image) {
	t.Helper()
	marks, err := im.Mark(5, ntlab.MarkSmall)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := im.Advertise("secretive.sys", &ntlab.Advert{Entries: []ntlab.RemovePages{marks[0].Request()}, Offset: 0xfe8}); err != nil {
		t.Fatal(err)
	}
	if _, err := im.Register("silent.sys"); err != nil {
		t.Fatal(err)
	}
}

// anew are the pages that have to be read as they are, not as they were: tables of
// drivers, and the clock.
func anew(t *testing.T, im *ntlab.Image) map[phys.PFN]bool {
	t.Helper()
	out := map[phys.PFN]bool{}
	add := func(va phys.VirtAddr) {
		at, ok := im.Translate(va)
		if !ok {
			t.Fatalf("the image doesn't map %#x", uint64(va))
		}
		out[at.PFN()] = true
	}
	add(kuserSystemTime)
	for _, a := range im.Truth.Adverts {
		for _, table := range a.Tables {
			add(table.VA)
			add(table.VA + 0x20 + phys.VirtAddr(0x20*len(table.Entries)) - 1)
		}
	}
	return out
}

// lookedAt is how many pages there are to look at: those with anything in them, and
// those of the kernel, each of which is searched for the KDBG, and of modules' data.
func lookedAt(im *ntlab.Image) uint64 {
	pages := im.Populated().Pages()
	for _, m := range im.Truth.Modules { // the kernel is the first
		pages += uint64(m.Size) >> phys.PageShift
	}
	return pages
}

// TestAnalysisReadsOnce: in one analysis of dear memory no page is asked for twice,
// discovery, exclusion and all, and it takes no more calls than there are pages
// to look at. What is found is what is found in any other memory.
func TestAnalysisReadsOnce(t *testing.T) {
	t.Parallel()
	for name, config := range dearGuests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vm := newDear(t, config, 1) // only pages side by side are one call
			dress(t, vm.im)
			cheap, _ := vm.imageVM.OpenMemory(t.Context(), hv.MechanismAuto)
			want, err := Analyze(t.Context(), cheap, vm.im.RAM(), vm.im.Registers(), LookOptions{})
			if err != nil {
				t.Fatal(err)
			}
			mem, _ := vm.OpenMemory(t.Context(), hv.MechanismAuto)
			got, err := Analyze(t.Context(), mem, vm.im.RAM(), vm.im.Registers(), LookOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.Plan, got.Plan); diff != "" || got.Excluded != 5 {
				t.Errorf("the dump of dear memory is another one, %d pages are excluded; want 5:\n%s", got.Excluded, diff)
			}
			if diff := cmp.Diff(want.Warnings, got.Warnings); diff != "" {
				t.Errorf("warnings differ:\n%s", diff)
			}
			seen, again := map[phys.PFN]bool{}, anew(t, vm.im)
			for _, r := range vm.calls {
				for _, p := range []phys.PFN{r.Base, r.End() - 1} { // others may lie between those that are needed
					if seen[p] && !again[p] {
						t.Errorf("a call for %v has page %#x at its end, which was read already", r, uint64(p))
					}
				}
				for p := r.Base; p < r.End(); p++ {
					seen[p] = true
				}
			}
			if most := lookedAt(vm.im); uint64(len(vm.calls)) > most {
				t.Errorf("the analysis took %d calls; there is no more to see than %d pages", len(vm.calls), most)
			}
			if vm.vouched != 1 {
				t.Errorf("it was asked %d times whether the guest is still the same; want once", vm.vouched)
			}
			// What follows is none of the analysis: it sees memory.
			before := len(vm.calls)
			if _, err := got.System.Protected(t.Context()); err != nil {
				t.Fatal(err)
			}
			root := vm.im.Truth.DirectoryTableBase.PFN()
			if !slices.ContainsFunc(vm.calls[before:], func(r phys.Run) bool { return phys.Runs{r}.Has(root) }) {
				t.Error("after the analysis, the guest is not read but remembered")
			}
		})
	}
}

// TestAnalysisJoinsReads: what lies close together is read by one call.
func TestAnalysisJoinsReads(t *testing.T) {
	t.Parallel()
	calls := map[uint64]int{}
	for _, gap := range []uint64{1, 128 << 10} {
		vm := newDear(t, ntlab.Config{Seed: 75, SmallPages: true}, gap)
		edit(t, vm.im, "kernel without data") // so that all of it is searched for the KDBG
		mem, _ := vm.OpenMemory(t.Context(), hv.MechanismAuto)
		if _, err := Analyze(t.Context(), mem, vm.im.RAM(), vm.im.Registers(), LookOptions{}); err != nil {
			t.Fatal(err)
		}
		calls[gap] = len(vm.calls)
		if vm.top > vm.cost.Flight {
			t.Errorf("%d calls at a time; want %d at most", vm.top, vm.cost.Flight)
		}
		for _, r := range vm.calls {
			if r.Size() > vm.cost.Most || len((phys.Runs{r}).Minus(vm.im.RAM())) > 0 {
				t.Errorf("a call for %v, which is too much or not all memory", r)
			}
		}
	}
	// The kernel's pages lie all over a guest of 96 MiB, those of a MiB of it some
	// 384 KiB apart, and those of 8 MiB some 48 KiB.
	if calls[128<<10]*2 > calls[1] {
		t.Errorf("calls by gap: %v; want less than half of them where 128 KiB may lie between", calls)
	}
}

// TestNothingOfAnotherMoment: a page table that changes after the running guest was
// analyzed is seen as it is while the guest stands still, or is copied.
func TestNothingOfAnotherMoment(t *testing.T) {
	t.Parallel()
	for name, spool := range spools {
		t.Run(name, func(t *testing.T) {
			vm := newDear(t, ntlab.Config{Seed: 76}, 64<<10)
			var pages [2]ntlab.Marked
			for i := range pages {
				marks, err := vm.im.Mark(1, ntlab.MarkSmall)
				if err != nil {
					t.Fatal(err)
				}
				pages[i] = marks[0]
			}
			if _, err := vm.im.Advertise("secretive.sys", &ntlab.Advert{Entries: []ntlab.RemovePages{pages[0].Request()}}); err != nil {
				t.Fatal(err)
			}
			vm.onPause = func() { // what was asked out is another page now
				from, _ := vm.im.EntryAddr(pages[1].VA, 1)
				to, _ := vm.im.EntryAddr(pages[0].VA, 1)
				var entry [8]byte
				if err := errors.Join(vm.im.ReadPhys(t.Context(), entry[:], from), vm.im.WritePhys(to, entry[:])); err != nil {
					t.Error(err)
				}
			}
			d, err := takeBy(t, &job{vm: vm, Options: Options{Mode: Pause{}, MemoryCopy: spool}})
			if err != nil {
				t.Fatal(err)
			}
			d.comparePages(t, vm.im, windowsPages(t, vm.im).Minus(pagesOfFrames(t, pages[1].PFNs...)))
		})
	}
}

// TestRunningGuestIsReadAgain: rounds of reading page tables of a guest that runs are
// of its memory each.
func TestRunningGuestIsReadAgain(t *testing.T) {
	t.Parallel()
	for name, spool := range spools {
		t.Run(name, func(t *testing.T) {
			vm := newDear(t, ntlab.Config{Seed: 77}, 64<<10)
			job := liveJob(vm, spool)
			d, err := takeBy(t, job)
			if err != nil {
				t.Fatal(err)
			}
			reads := 0
			for _, r := range vm.calls {
				if (phys.Runs{r}).Has(vm.im.Truth.DirectoryTableBase.PFN()) {
					reads++
				}
			}
			// Of the analysis before, of each round, and of the rest.
			if rounds := d.res.Smear.Metadata.Rounds; rounds < 2 || reads < 1+rounds+1 {
				t.Errorf("the System process's table was read %d times, in %d rounds among others", reads, rounds)
			}
		})
	}
}

// TestAnotherGuestIsNotDumped: a domain that is started anew while it is analyzed,
// copied or written gives no dump.
func TestAnotherGuestIsNotDumped(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]Mode{"pause": Pause{}, "live": Live{}} {
		for spoolName, spool := range spools {
			t.Run(name+"/"+spoolName, func(t *testing.T) {
				vm := newDear(t, ntlab.Config{Seed: 78}, 64<<10)
				began := false
				vm.onRead = func(context.Context, []byte, phys.Addr) error {
					vm.mu.Lock()
					defer vm.mu.Unlock()
					if began && vm.vouchErr == nil {
						vm.vouchErr = hv.ErrNotRunning
					}
					return nil
				}
				s, err := Open(t.Context(), vm, Options{Mode: mode, MemoryCopy: spool})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				vm.mu.Lock()
				began = true
				vm.mu.Unlock()
				if _, err := s.Dump(t.Context(), io.Discard); !errors.Is(err, hv.ErrNotRunning) {
					t.Errorf("Dump of another run = %v; want %v", err, hv.ErrNotRunning)
				}
			})
		}
	}
	vm := newDear(t, ntlab.Config{Seed: 78}, 64<<10)
	vm.vouchErr = hv.ErrNotRunning
	if _, err := Open(t.Context(), vm, Options{}); !errors.Is(err, hv.ErrNotRunning) {
		t.Errorf("Open of another run = %v; want %v", err, hv.ErrNotRunning)
	}
}

// TestReadAhead: a dump of dear memory that is written as it is read takes large calls,
// none of them for a page that stays out, and a page that can't be read is a gap.
func TestReadAhead(t *testing.T) {
	t.Parallel()
	vm := newDear(t, ntlab.Config{Seed: 79, Unreadable: phys.PageSize}, 64<<10)
	if err := vm.im.Fill(16<<20, ntlab.Mix{Text: 1}); err != nil {
		t.Fatal(err)
	}
	dress(t, vm.im)
	calls := 0
	s, err := Open(t.Context(), vm, Options{Mode: Pause{}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m, err := s.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.analyze(m)
	if err != nil {
		t.Fatal(err)
	}
	before := len(vm.calls)
	mem, end := readAhead(m.Context(), m.Memory, a.Plan)
	st, err := dump.Write(m.Context(), io.Discard, mem, a.Plan, dump.Options{Workers: 2})
	end()
	if err := m.Release(err); err != nil {
		t.Fatal(err)
	}
	if st.Unreadable != 1 {
		t.Errorf("%d pages are gaps; want 1", st.Unreadable)
	}
	pages := pagesOfPlan(a.Plan)
	var least uint64
	for _, r := range pages {
		least += (r.Size() + vm.cost.Most - 1) / vm.cost.Most
	}
	for _, r := range vm.calls[before:] {
		calls++
		if left := (phys.Runs{r}).Minus(pages); len(left) > 0 {
			t.Errorf("a call for %v, of which %v is not in the dump", r, left)
		}
	}
	// The page that can't be read is found by halves, in a frame of at most 1 MiB.
	if most := int(least) + 2*20; calls < int(least) || calls > most {
		t.Errorf("writing took %d calls; want %d, and %d at most to find a page that can't be read", calls, least, most)
	}
	if vm.top > vm.cost.Flight+2 {
		t.Errorf("%d calls at a time; want %d and one for each worker at most", vm.top, vm.cost.Flight)
	}
}

// TestProbe: for what a dump of dear memory takes, little of it is read, and once. Of
// reading and writing that go on together, the longer is what writing takes.
func TestProbe(t *testing.T) {
	t.Parallel()
	vm := newDear(t, ntlab.Config{Seed: 80, Memory: 512 << 20}, 64<<10)
	s, err := Open(t.Context(), vm, Options{MemoryCopy: spoolSize})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := len(vm.calls)
	all, err := s.Estimates(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	calls := vm.calls[before:]
	pages, err := phys.NewRuns(calls...)
	if err != nil {
		t.Fatal(err)
	}
	var read uint64
	for _, r := range calls {
		read += r.Pages
	}
	if read != pages.Pages() || pages.Pages()<<phys.PageShift > 64<<20 || len(calls) > 2*16 {
		t.Errorf("%d calls read %d pages, %d of them once; want 64 MiB in calls of 4 MiB, or what is left of a run", len(calls), read, pages.Pages())
	}
	w, err := s.Sample(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if w.Reading <= 0 || w.writing() != max(w.Reading, w.Duration) {
		t.Errorf("reading takes %v, and writing %v in all; want a time for either, and the longer", w.Reading, w.writing())
	}
	for _, e := range all {
		switch {
		case e.Mode == (Pause{}).Name() && e.Copied:
			if want := e.Pause.Total().Likely + w.Duration; e.Takes != want {
				t.Errorf("a dump with a copy takes %v; want %v: reading is in the pause", e.Takes, want)
			}
		case e.Mode == (Pause{}).Name():
			if e.Pause.Reading.Likely != w.writing() {
				t.Errorf("a pause without a copy is %v; want %v and what comes with it", e.Pause.Reading, w.writing())
			}
		}
	}
}

// TestTornTables: what a driver or the kernel is changing while dear memory is read is
// whole or is read again, and no page that was kept says otherwise.
func TestTornTables(t *testing.T) {
	t.Parallel()
	vm := newDear(t, ntlab.Config{Seed: 81}, 1)
	var pages [2]ntlab.Marked
	for i := range pages {
		marks, err := vm.im.Mark(1, ntlab.MarkSmall)
		if err != nil {
			t.Fatal(err)
		}
		pages[i] = marks[0]
	}
	// The head is the end of one page, and the entry the start of another.
	const head = 0x20
	advert, err := vm.im.Advertise("changing.sys", &ntlab.Advert{
		InPool: true, Offset: phys.PageSize - head, Entries: []ntlab.RemovePages{pages[0].Request()},
	})
	if err != nil {
		t.Fatal(err)
	}
	table := advert.Tables[1].VA // the first is in the driver, and empty
	at, _ := vm.im.Translate(table)
	write := func(va phys.VirtAddr, b []byte) {
		if err := vm.im.WriteVirt(va, b); err != nil {
			t.Error(err)
		}
	}
	// The kernel has begun to change the time: High2Time is ahead.
	const when = uint64(0x01d7_0000_1234_5678)
	le := binary.LittleEndian
	write(kuserSystemTime, le.AppendUint64(nil, when))
	write(kuserSystemTime+8, le.AppendUint32(nil, uint32(when>>32)+1))
	clock, _ := vm.im.Translate(kuserSystemTime)
	headRead, times := false, 0
	vm.onRead = func(_ context.Context, p []byte, from phys.Addr) error {
		if headRead { // the driver asks for another page, between its head and its entry
			headRead = false
			write(table+0x10, le.AppendUint32(nil, 6)) // sequence
			write(table+head+0x10, le.AppendUint64(nil, uint64(pages[1].VA)))
		}
		covers := func(a phys.Addr) bool { return from <= a && a < from+phys.Addr(len(p)) }
		if covers(at) {
			var sequence [4]byte
			if err := vm.im.ReadVirt(table+0x10, sequence[:]); err != nil {
				return err
			}
			headRead = le.Uint32(sequence[:]) != 6
		}
		if covers(clock + 8) {
			if times++; times == 3 {
				write(kuserSystemTime+8, le.AppendUint32(nil, uint32(when>>32)))
			}
		}
		return nil
	}
	mem, _ := vm.OpenMemory(t.Context(), hv.MechanismAuto)
	a, err := Analyze(t.Context(), mem, vm.im.RAM(), vm.im.Registers(), LookOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := a.Header.SystemTime; got != when || len(a.Warnings) > 0 {
		t.Errorf("the time is %#x, with warnings %q; want %#x", got, a.Warnings, when)
	}
	if len(a.Adverts.Tables) != 2 {
		t.Fatalf("tables are %+v; want two", a.Adverts.Tables)
	}
	got := a.Adverts.Tables[1]
	if address := phys.VirtAddr(le.Uint64(got.Entries[0x10:])); got.Sequence != 6 || address != pages[1].VA {
		t.Errorf("the table has sequence %d and asks for %#x; want 6 and %#x", got.Sequence, uint64(address), uint64(pages[1].VA))
	}
}
