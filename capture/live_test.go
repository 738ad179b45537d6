package capture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"snap/exclude"
	"snap/hv"
	"snap/internal/ntlab"
	"snap/phys"
)

// liveVM is an image that a test changes while it is read.
type liveVM struct {
	*imageVM
	scans  int            // how often it was asked which pages are populated
	onScan func(scan int) // before it is answered
	onAsk  func([]phys.Registers)
}

func (v *liveVM) Registers(ctx context.Context) ([]phys.Registers, error) {
	cpus := slices.Clone(v.im.Registers())
	if v.onAsk != nil {
		v.onAsk(cpus)
	}
	return cpus, nil
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
func liveJob(vm hv.VM, spool uint64) *job {
	job := &job{vm: vm, Options: Options{Mode: Live{}, MemoryCopy: spool}}
	job.Write.Workers = 1
	job.MaxChanged = &ChangeLimit{Share: 1} // warnings are of other things
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
			if d.res.Smear == nil || d.res.Smear.Changed != want || want < 100 {
				t.Errorf("live is %+v; want %d pages changed", d.res.Smear, want)
			}
			if d.res.Consistent() || d.res.Copied != (spool > 0) || d.res.Pause != 0 || vm.holds != 0 || d.res.Stats.Unreadable != 1 {
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
			early := smearBeforeWriting(t, job)
			d, err := takeBy(t, job)
			if err != nil {
				t.Fatal(err)
			}
			d.comparePages(t, vm.im, windowsPages(t, vm.im))
			want := Smear{Metadata: Metadata{Pages: protectedPages(t, vm).Pages(), Rounds: 2}}
			if d.res.Smear == nil || *d.res.Smear != want {
				t.Errorf("live is %+v; want %+v", d.res.Smear, want)
			}
			if d.res.Consistent() || d.res.Copied != (spool == spoolSize) || vm.holds != 0 || (len(d.warnings()) > 0) != (spool == 1<<20) {
				t.Errorf("result is %+v after %d pauses", d.res, vm.holds)
			}
			if (early != nil) != d.res.Copied {
				t.Errorf("before the pages were written, live was %+v", early)
			}
		})
	}
}

// smearBeforeWriting takes the job as far as its pages are about to be written,
// and returns what is known by then.
func smearBeforeWriting(t *testing.T, j *job) *Smear {
	t.Helper()
	s, err := Open(t.Context(), j.vm, j.Options)
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
	m.smear.begin(a.Plan, &m.Account)
	if err := m.Release(nil); err != nil {
		t.Fatal(err)
	}
	return m.Account.Smear
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
			d, err := takeBy(t, job)
			if err != nil {
				t.Fatal(err)
			}
			var inFile struct {
				Pages struct {
					Changed uint64 `json:"changed_while_reading"`
				}
			}
			if err := json.Unmarshal(d.file.Metadata(), &inFile); err != nil {
				t.Fatal(err)
			}
			if changed := inFile.Pages.Changed; changed != 1 || vm.scans != scansInAll {
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
			if stays := resume == nil; d.res.Consistent() != stays || (len(d.warnings()) == 0) != stays || d.res.Copied || vm.holds != 0 || vm.scans < 2 {
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
			if _, err := liveJob(vm, spool).take(t.Context(), &bytes.Buffer{}); !errors.Is(err, hv.ErrNotRunning) {
				t.Errorf("Take() = %v; want ErrNotRunning", err)
			}
		})
	}
}
