package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"snap/dump"
	"snap/hv"
	"snap/internal/ntlab"
	"snap/phys"
)

// spoolSize is more than any guest here has.
const spoolSize = 1 << 30

func pauseJob(vm *imageVM, spool uint64) *job {
	return &job{vm: vm, Options: Options{Mode: Pause{}, MemoryCopy: spool}}
}

// kuserSystemTime is where KUSER_SHARED_DATA.SystemTime lies in every x64
// Windows (ntddk.h: the structure at 0xfffff78000000000, the field at 0x14).
const kuserSystemTime = phys.VirtAddr(0xfffff78000000014)

// TestSpoolIsOfThePause changes the guest when it is paused and changes all of
// its pages when it is resumed: header and pages must be those in between.
func TestSpoolIsOfThePause(t *testing.T) {
	const when = 0x01d7_0000_1234_5678
	atPause := func(im *ntlab.Image) {
		b := binary.LittleEndian.AppendUint32(nil, when&0xffffffff)
		b = binary.LittleEndian.AppendUint32(b, when>>32)
		b = binary.LittleEndian.AppendUint32(b, when>>32)
		if err := im.WriteVirt(kuserSystemTime, b); err != nil {
			t.Fatal(err)
		}
	}
	want := newGuest(t, ntlab.Config{Seed: 11})
	atPause(want.im)

	vm := newGuest(t, ntlab.Config{Seed: 11})
	var before int64
	vm.onPause = func() { atPause(vm.im) }
	vm.onRelease = func() {
		for _, p := range vm.im.Pages() {
			for i := range p {
				p[i] ^= 0xa5
			}
		}
		before = vm.reads.Load()
	}
	job := pauseJob(vm, spoolSize)
	job.MaxPause = time.Hour
	d, err := takeBy(t, job)
	if err != nil {
		t.Fatal(err)
	}
	d.comparePages(t, want.im, windowsPages(t, want.im))
	if after := vm.reads.Load(); after != before {
		t.Errorf("%d reads of the guest after it was resumed; want none", after-before)
	}
	h, err := d.file.Header()
	if err != nil {
		t.Fatal(err)
	}
	if h.SystemTime != when {
		t.Errorf("the header's time is %#x; want %#x, that of the pause", h.SystemTime, when)
	}
	if !d.res.Copied || !d.res.Consistent() || vm.holds != 1 || d.res.Pause == 0 || len(d.warnings()) != 0 {
		t.Errorf("spooled %v, consistent %v, %d pauses of %v, warnings %q", d.res.Copied, d.res.Consistent(), vm.holds, d.res.Pause, d.warnings())
	}
	if e := d.res.Estimate; e.Pages != want.im.Populated().Pages() || e.Reading.Likely <= 0 || e.State.Likely <= 0 || e.Analyzing != (Span{}) {
		t.Errorf("estimate is %+v; want one of a copy of %d pages", e, want.im.Populated().Pages())
	}
}

// TestCopyWorkers: a guest that stands still is copied by as many as were asked for,
// however few write.
func TestCopyWorkers(t *testing.T) {
	const workers = 3
	vm := newGuest(t, ntlab.Config{Seed: 11})
	var reads atomic.Int64
	all := make(chan struct{})
	vm.onRead = func(ctx context.Context, _ []byte, _ phys.Addr) error {
		if vm.paused.Load() && reads.Add(1) == workers {
			close(all)
		}
		if !vm.paused.Load() {
			return nil
		}
		select { // nobody goes on before all are at it
		case <-all:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	job := pauseJob(vm, spoolSize)
	job.Write.Workers, job.CopyWorkers, job.MaxPause = 1, workers, time.Minute
	if _, err := takeBy(t, job); err != nil {
		t.Errorf("%d reads had begun: %v", reads.Load(), err)
	}
}

// TestWithoutSpool demands that without one the guest is paused until its last
// page is read.
func TestWithoutSpool(t *testing.T) {
	for _, spool := range []uint64{0, 1 << 20} {
		vm := newGuest(t, ntlab.Config{Seed: 12})
		var before int64
		vm.onRelease = func() { before = vm.reads.Load() }
		d, err := takeBy(t, pauseJob(vm, spool))
		if err != nil {
			t.Fatal(err)
		}
		d.comparePages(t, vm.im, windowsPages(t, vm.im))
		if after := vm.reads.Load(); after != before {
			t.Errorf("%d reads of the guest after it was resumed; want none", after-before)
		}
		if d.res.Copied || !d.res.Consistent() || vm.holds != 1 || (len(d.warnings()) > 0) != (spool > 0) {
			t.Errorf("spool of %d: spooled %v, consistent %v, %d pauses, warnings %q", spool, d.res.Copied, d.res.Consistent(), vm.holds, d.warnings())
		}
		if e := d.res.Estimate; e.Copied || e.Reading.Likely <= 0 || e.Analyzing.Likely <= 0 {
			t.Errorf("estimate is %+v; want one with looking and compressing", e)
		}
	}
}

// TestSpoolOvertaken has the guest populate so much memory just before it stands
// still that the copy doesn't fit.
func TestSpoolOvertaken(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 13, Memory: 256 << 20})
	vm.onPause = func() {
		vm.onPause = nil
		page := bytes.Repeat([]byte{0x5a}, phys.PageSize)
		for _, r := range vm.im.Free() {
			for p := r.Base; p < r.End(); p++ {
				if err := vm.im.WritePhys(p.Addr(), page); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	d, err := takeBy(t, pauseJob(vm, withMargin(vm.im.Populated().Pages())<<phys.PageShift))
	if err != nil {
		t.Fatal(err)
	}
	d.comparePages(t, vm.im, windowsPages(t, vm.im))
	if want := 2 * time.Millisecond; d.res.Pause != want { // one for each, see imageHold
		t.Errorf("the guest is said to have stood still for %v; want %v, in both pauses", d.res.Pause, want)
	}
	if d.res.Copied || vm.holds != 2 || vm.paused.Load() || len(d.warnings()) != 1 {
		t.Errorf("spooled %v, %d pauses, paused %v, warnings %q; want a second pause without a spool", d.res.Copied, vm.holds, vm.paused.Load(), d.warnings())
	}
}

// TestGapsOfTheCopy has pages fail while they are copied: they must be gaps of
// the dump with the reason of that time, though they could be read later.
func TestGapsOfTheCopy(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 14})
	marks, err := vm.im.Mark(1, ntlab.MarkLarge) // content that nothing depends on
	if err != nil {
		t.Fatal(err)
	}
	broken := slices.Sorted(slices.Values(marks[0].PFNs))
	vm.onRead = func(_ context.Context, p []byte, at phys.Addr) error {
		r, _ := phys.RunOf(at, uint64(len(p)))
		for _, pfn := range broken {
			if vm.paused.Load() && r.Base <= pfn && pfn < r.End() {
				return &phys.AccessError{At: pfn.Addr(), Len: phys.PageSize, Err: errors.New("poisoned")}
			}
		}
		return nil
	}
	d, err := takeBy(t, pauseJob(vm, spoolSize))
	if err != nil {
		t.Fatal(err)
	}
	var want []dump.Gap
	for _, pfn := range broken {
		if n := len(want); n > 0 && want[n-1].Run.End() == pfn {
			want[n-1].Run.Pages++
			continue
		}
		want = append(want, dump.Gap{Run: phys.Run{Base: pfn, Pages: 1}, Reason: "poisoned"})
	}
	if diff := cmp.Diff(want, d.res.Stats.Gaps); diff != "" {
		t.Errorf("gaps (-want +got):\n%s", diff)
	}
	if got := d.res.Stats.Unreadable; got != uint64(len(broken)) {
		t.Errorf("%d unreadable pages; want %d", got, len(broken))
	}
}

// TestPauseNotBegun demands that a pause that is estimated to be too long
// never happens.
func TestPauseNotBegun(t *testing.T) {
	for name, spool := range map[string]uint64{"spool": spoolSize, "no spool": 0} {
		t.Run(name, func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{Seed: 15})
			var out bytes.Buffer
			job := pauseJob(vm, spool)
			job.MaxPause = time.Millisecond
			_, err := job.take(t.Context(), &out)
			var e *PauseError
			if !errors.Is(err, ErrPauseTooLong) || !errors.As(err, &e) {
				t.Fatalf("Take() = %v; want ErrPauseTooLong", err)
			}
			if e.Stood != 0 || e.Limit != job.MaxPause || e.Estimate.Total().Most <= job.MaxPause || e.Estimate.Copied != (spool > 0) {
				t.Errorf("error is %+v", e)
			}
			if vm.holds != 0 || out.Len() != 0 {
				t.Errorf("%d pauses, %d bytes written; want none", vm.holds, out.Len())
			}
		})
	}
}

// stuck makes the guest's memory unreadable for as long as it is paused and
// ctx lasts.
func stuck(vm *imageVM) {
	vm.onRead = func(ctx context.Context, p []byte, at phys.Addr) error {
		if !vm.paused.Load() {
			return nil
		}
		<-ctx.Done()
		return &phys.AccessError{At: at, Len: len(p), Err: ctx.Err()}
	}
}

// TestPauseEnded has a guest whose memory is fast until it is paused: the pause
// must be ended.
func TestPauseEnded(t *testing.T) {
	t.Parallel()
	for name, spool := range map[string]uint64{"spool": spoolSize, "no spool": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vm := newGuest(t, ntlab.Config{Seed: 16})
			stuck(vm)
			job := pauseJob(vm, spool)
			job.MaxPause = 20 * time.Second // for an estimate that fits on any machine
			_, err := job.take(t.Context(), &bytes.Buffer{})
			var e *PauseError
			if !errors.Is(err, ErrPauseTooLong) || !errors.As(err, &e) {
				t.Fatalf("Take() = %v; want ErrPauseTooLong", err)
			}
			if e.Stood == 0 || e.Err == nil || vm.holds != 1 || vm.paused.Load() {
				t.Errorf("error is %+v after %d pauses, paused %v; want one that was ended", e, vm.holds, vm.paused.Load())
			}
		})
	}
}

// stalled takes nothing before it is let go.
type stalled struct{ until chan struct{} }

func (w stalled) Write(p []byte) (int, error) {
	<-w.until
	return len(p), nil
}

// TestStalledDestination demands that a guest doesn't wait for a destination
// that takes nothing: what waits is let go only when the guest runs again.
func TestStalledDestination(t *testing.T) {
	t.Parallel()
	vm := newGuest(t, ntlab.Config{Seed: 24})
	w := stalled{make(chan struct{})}
	vm.onRelease = func() { close(w.until) }
	job := pauseJob(vm, 0)
	job.MaxPause = 20 * time.Second // for an estimate that fits on any machine
	_, err := job.take(t.Context(), w)
	if !errors.Is(err, ErrPauseTooLong) || vm.holds != 1 || vm.paused.Load() {
		t.Errorf("Take() = %v after %d pauses, paused %v; want ErrPauseTooLong after one", err, vm.holds, vm.paused.Load())
	}
}

// TestPauseInterrupted ends the caller's context in the middle: that is not a
// pause that was too long, and the guest runs again as well.
func TestPauseInterrupted(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 17})
	stuck(vm)
	ctx, cancel := context.WithCancel(t.Context())
	vm.onPause = cancel
	job := pauseJob(vm, spoolSize)
	job.MaxPause = time.Hour
	_, err := job.take(ctx, &bytes.Buffer{})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrPauseTooLong) || vm.holds != 1 || vm.paused.Load() {
		t.Errorf("Take() = %v after %d pauses, paused %v; want context.Canceled after one", err, vm.holds, vm.paused.Load())
	}
}

// TestPauseOfOthers demands that a guest that somebody else paused has no limit
// and no copy, and stays paused.
func TestPauseOfOthers(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 18})
	vm.paused.Store(true)
	job := pauseJob(vm, spoolSize)
	job.MaxPause = time.Nanosecond
	d, err := takeBy(t, job)
	if err != nil {
		t.Fatal(err)
	}
	if d.res.Pause != 0 || d.res.Copied || !d.res.Consistent() || d.res.Estimate != (PauseEstimate{}) || !vm.paused.Load() || vm.holds != 0 {
		t.Errorf("result is %+v, paused %v, %d pauses", d.res, vm.paused.Load(), vm.holds)
	}
}

// TestSourceDies demands that a source that ends in the middle ends the dump.
func TestSourceDies(t *testing.T) {
	for name, cause := range map[string]error{"with its process": hv.ErrNotRunning, "page by page": errors.New("bad address")} {
		t.Run(name, func(t *testing.T) {
			vm := newGuest(t, ntlab.Config{Seed: 19, Memory: 512 << 20})
			if err := vm.im.Fill(400<<20/phys.PageSize, ntlab.Mix{Random: 1}); err != nil {
				t.Fatal(err)
			}
			vm.onRead = func(_ context.Context, p []byte, at phys.Addr) error {
				if vm.paused.Load() {
					return &phys.AccessError{At: at, Len: len(p), Err: cause}
				}
				return nil
			}
			_, err := pauseJob(vm, spoolSize).take(t.Context(), &bytes.Buffer{})
			if !errors.Is(err, cause) || vm.holds != 1 || vm.paused.Load() {
				t.Errorf("Take() = %v, paused %v; want %v and a guest that runs", err, vm.paused.Load(), cause)
			}
		})
	}
}

// growingVM is a guest that gets its last pages when it is paused.
type growingVM struct {
	*imageVM
	cut    uint64 // pages
	opened int
}

func (v *growingVM) RAM(context.Context) (phys.Runs, error) { return v.ramNow(), nil }

func (v *growingVM) ramNow() phys.Runs {
	ram := slices.Clone(v.im.RAM())
	if !v.paused.Load() {
		ram[len(ram)-1].Pages -= v.cut
	}
	return ram
}

func (v *growingVM) OpenMemory(context.Context, hv.Mechanism) (hv.Memory, error) {
	v.opened++
	return partOfMemory{imageMemory{v.im, v.imageVM}, v.ramNow()}, nil
}

// partOfMemory is the memory of an image in a part of its RAM.
type partOfMemory struct {
	imageMemory
	ram phys.Runs
}

func (m partOfMemory) RAM() phys.Runs { return m.ram }

func (m partOfMemory) Populated(context.Context) (phys.Runs, bool, error) {
	return m.Image.Populated().Intersect(m.ram), true, nil
}

func (m partOfMemory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if !m.ram.Covers(at, uint64(len(p))) {
		return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
	}
	return m.imageMemory.ReadPhys(ctx, p, at)
}

// TestGuestGrows demands all of a guest that gets memory between the look at it
// and its pause.
func TestGuestGrows(t *testing.T) {
	vm := &growingVM{imageVM: newGuest(t, ntlab.Config{Seed: 20})}
	last := windowsPages(t, vm.im).End() - 1
	vm.cut = uint64(vm.im.RAM().End() - last)
	if err := vm.im.WritePhys(last.Addr(), bytes.Repeat([]byte{0x77}, phys.PageSize)); err != nil {
		t.Fatal(err)
	}
	job := pauseJob(vm.imageVM, spoolSize)
	job.vm = vm
	d, err := takeBy(t, job)
	if err != nil {
		t.Fatal(err)
	}
	d.comparePages(t, vm.im, windowsPages(t, vm.im))
	if vm.opened != 2 || !d.res.Copied || vm.holds != 1 || len(d.warnings()) == 0 {
		t.Errorf("memory opened %d times, spooled %v, %d pauses, warnings %q", vm.opened, d.res.Copied, vm.holds, d.warnings())
	}
}
