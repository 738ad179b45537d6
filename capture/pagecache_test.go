package capture

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

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
			if len(vm.calls) == before {
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
