package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"snap/dump"
	"snap/guest"
	"snap/hv"
	"snap/internal/ntlab"
	"snap/phys"
)

// snapshotVM is a guest that can be saved while it runs: its snapshot is another
// guest, so that nothing of the running one can get into the dump unnoticed.
type snapshotVM struct {
	*imageVM
	saved  *imageVM
	refuse error // why there can be none
	fail   error // what comes of trying
	took   hv.SnapshotOptions
	taken  int
	closed int

	onSaving func() string // that a dump shows while it is saved
	progress string
}

func (v *snapshotVM) CheckSnapshot(context.Context) error { return v.refuse }

func (v *snapshotVM) SnapshotSize(_ context.Context, populated uint64) (uint64, error) {
	return populated << phys.PageShift, nil
}

func (v *snapshotVM) Snapshot(ctx context.Context, o hv.SnapshotOptions) (hv.Snapshot, error) {
	v.taken++
	v.took = o
	if v.fail != nil {
		return nil, v.fail
	}
	if o.Progress != nil {
		o.Progress(1, 2)
		if v.onSaving != nil {
			v.progress = v.onSaving()
		}
	}
	mem, err := v.saved.OpenMemory(ctx, hv.MechanismAuto)
	return savedImage{mem, v}, err
}

type savedImage struct {
	hv.Memory
	vm *snapshotVM
}

func (savedImage) Mechanism() hv.Mechanism       { return "saved" }
func (savedImage) Downtime() time.Duration       { return 3 * time.Millisecond }
func (s savedImage) Registers() []phys.Registers { return s.vm.saved.im.Registers() }
func (s savedImage) Close() error                { s.vm.closed++; return nil }

func newSnapshotVM(t *testing.T) *snapshotVM {
	t.Helper()
	return &snapshotVM{imageVM: newGuest(t, ntlab.Config{Seed: 51}), saved: newGuest(t, ntlab.Config{Seed: 52})}
}

// TestTakeSnapshot: the dump is of the snapshot, and of nothing else.
func TestTakeSnapshot(t *testing.T) {
	vm := newSnapshotVM(t)
	var saving *dump.Progress
	vm.onSaving = func() string { return fmt.Sprint(saving.Done.Load(), " of ", saving.Total.Load()) }
	d, err := takeBy(t, &job{vm: vm, Options: Options{
		Mode: Snapshot{}, MemoryCopy: spoolSize, MaxPause: time.Hour,
		Observer: ObserverFunc(func(e Event) {
			if e.Phase == PhaseSave {
				saving = e.Progress
			}
		}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	d.comparePages(t, vm.saved.im, windowsPages(t, vm.saved.im))
	r := d.res
	if r.Mode != "snapshot" || r.Mechanism != "saved" || !r.Consistent() || r.Downtime != 3*time.Millisecond || r.Pause != 0 || vm.holds != 0 || vm.closed != 1 {
		t.Errorf("mode %s, mechanism %s, consistent %v, downtime %v, pause %v, %d pauses, closed %d times", r.Mode, r.Mechanism, r.Consistent(), r.Downtime, r.Pause, vm.holds, vm.closed)
	}
	if vm.took.Room != spoolSize || vm.took.Populated != vm.im.Populated().Pages() || vm.progress != "1 of 2" {
		t.Errorf("the snapshot was asked for with room for %d bytes and %d pages, progress %q", vm.took.Room, vm.took.Populated, vm.progress)
	}
	if r.StallSeen {
		t.Error("a stall was seen in memory that isn't read directly")
	}
}

// TestTakeBest: a pause if it fits, else a snapshot if that can be and fits, else
// neither, for both reasons.
func TestTakeBest(t *testing.T) {
	broken := errors.New("broken")
	refused := fmt.Errorf("no snapshot: %w: old QEMU", hv.ErrUnsupported)
	tests := []struct {
		name     string
		mode     Mode
		maxPause time.Duration
		spool    uint64
		paused   bool
		refuse   error
		fail     error
		noSwap   bool

		want string // empty: none
		is   []error
		text []string
	}{
		{name: "pause fits", maxPause: time.Hour, spool: spoolSize, want: "pause"},
		{name: "no limit", spool: spoolSize, want: "pause"},
		{name: "pause without a spool fits", maxPause: time.Hour, want: "pause"},
		{
			name: "neither fits", maxPause: time.Nanosecond, spool: spoolSize,
			is: []error{ErrPauseTooLong}, text: []string{"not paused", "no snapshot", "about"},
		},
		{
			name: "pause doesn't fit, and no snapshot", maxPause: time.Nanosecond, spool: spoolSize, refuse: refused,
			is: []error{ErrPauseTooLong, hv.ErrUnsupported}, text: []string{"not paused", "old QEMU"},
		},
		{
			name: "snapshot asked for and refused", mode: Snapshot{}, maxPause: time.Hour, spool: spoolSize, refuse: refused,
			is: []error{hv.ErrUnsupported}, text: []string{"old QEMU"},
		},
		{
			name: "snapshot doesn't fit the spool", mode: Snapshot{}, maxPause: time.Hour, spool: 1 << 20,
			is: []error{hv.ErrUnsupported}, text: []string{"1.0 MiB"},
		},
		{
			name: "snapshot fails", mode: Snapshot{}, maxPause: time.Hour, spool: spoolSize, fail: broken,
			is: []error{broken},
		},
		{
			name: "nothing may be swapped, and the host swaps", mode: Snapshot{}, maxPause: time.Hour, spool: spoolSize, noSwap: true,
			is: []error{hv.ErrUnsupported}, text: []string{"swap disks"},
		},
		{name: "nothing may be swapped, auto", maxPause: time.Hour, spool: spoolSize, noSwap: true, want: "pause"},
		{name: "paused already", mode: Snapshot{}, maxPause: time.Nanosecond, paused: true, refuse: refused, want: "pause"},
		{name: "paused already, auto", maxPause: time.Nanosecond, paused: true, refuse: refused, want: "pause"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vm := newSnapshotVM(t)
			vm.refuse, vm.fail = tt.refuse, tt.fail
			vm.paused.Store(tt.paused)
			job := &job{vm: vm, Options: Options{Mode: tt.mode, MemoryCopy: tt.spool, MaxPause: tt.maxPause, NoSwap: tt.noSwap}}
			res, err := job.take(t.Context(), io.Discard)
			if (err == nil) != (tt.want != "") {
				t.Fatalf("Take() = %v; want success: %v", err, tt.want != "")
			}
			for _, is := range tt.is {
				if !errors.Is(err, is) {
					t.Errorf("Take() = %v; want %v", err, is)
				}
			}
			for _, text := range tt.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("Take() = %v; want %q in it", err, text)
				}
			}
			if err == nil && (res.Mode != tt.want || !res.Consistent()) {
				t.Errorf("mode %s, consistent %v; want %s, true", res.Mode, res.Consistent(), tt.want)
			}
			if tries := vm.taken; tries > 0 && tt.fail == nil {
				t.Errorf("%d snapshots were tried; want none", tries)
			}
			if tt.want == "" && vm.holds > 0 {
				t.Errorf("the guest was paused %d times; want not at all", vm.holds)
			}
		})
	}
}

// tooSlow is a guest whose registers take longer to be asked for than it may
// stand still.
type tooSlow struct{ *snapshotVM }

const slowRegisters = 300 * time.Millisecond

func (v tooSlow) Registers(ctx context.Context) ([]phys.Registers, error) {
	time.Sleep(slowRegisters)
	return v.snapshotVM.Registers(ctx)
}

func TestSnapshotInsteadOfPause(t *testing.T) {
	vm := newSnapshotVM(t)
	res, err := (&job{vm: tooSlow{vm}, Options: Options{MemoryCopy: spoolSize, MaxPause: slowRegisters}}).take(t.Context(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if res.Mode != "snapshot" || !res.Consistent() || vm.holds != 0 || res.Estimate != (PauseEstimate{}) || res.Copied || len(res.Manifest.Warnings) != 0 {
		t.Errorf("result is %+v after %d pauses; want a snapshot and nothing said of a pause", res, vm.holds)
	}
}

// ticking is a guest's memory whose clock stands still for a while.
type ticking struct {
	hv.Memory
	at phys.Addr

	mu          sync.Mutex
	looks       int
	first, last time.Time // looks at the clock while it stood still
}

// The clock stands still from one look at it until a later one.
const stopsAt, goesOnAt = 5, 25

func (m *ticking) Mechanism() hv.Mechanism { return hv.MechanismDirect }

func (m *ticking) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if at != m.at {
		return m.Memory.ReadPhys(ctx, p, at)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looks++
	v := m.looks
	if v >= stopsAt && v < goesOnAt {
		v = stopsAt
		m.last = time.Now()
		if m.looks == stopsAt+1 { // the first look has ended by now
			m.first = m.last
		}
	}
	binary.LittleEndian.PutUint64(p, uint64(v))
	return nil
}

// TestClock: what is seen to stand still is what stood still.
func TestClock(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 53})
	open := func() (hv.Memory, *guest.System) {
		mem, err := vm.OpenMemory(t.Context(), hv.MechanismAuto)
		if err != nil {
			t.Fatal(err)
		}
		sys, err := guest.Discover(t.Context(), mem, mem.RAM(), vm.im.Registers())
		if err != nil {
			t.Fatal(err)
		}
		return mem, sys
	}
	mem, sys := open()
	at, err := sys.InterruptTime(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want, ok := vm.im.Translate(0xfffff78000000008); !ok || at != want { // ntddk.h
		t.Errorf("InterruptTime lies at %#x; want %#x", uint64(at), uint64(want))
	}
	m := &ticking{Memory: mem, at: at}
	c := followClock(t.Context(), m, sys)
	for looks := 0; looks < 2*goesOnAt; {
		time.Sleep(time.Millisecond)
		m.mu.Lock()
		looks = m.looks
		m.mu.Unlock()
	}
	stall, seen := c.end()
	least := m.last.Sub(m.first)
	if !seen || stall < least {
		t.Errorf("the clock was seen to move: %v, and to stand still for %v; want %v at least", seen, stall, least)
	}
	if again, _ := c.end(); again != stall {
		t.Errorf("asked again it is %v; want %v", again, stall)
	}
	if _, seen := followClock(t.Context(), mem, sys).end(); seen {
		t.Error("memory that isn't read directly was followed")
	}
}
