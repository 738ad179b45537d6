package capture

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/internal/ntlab/labhv"
	"snap/phys"
)

// resident returns how many pages of r are in memory, and fails the test if they are
// not its first ones.
func resident(t *testing.T, r hostMemory) (n uint64) {
	t.Helper()
	pages := make([]byte, len(r)/phys.PageSize)
	_, _, e := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&r[0])), uintptr(len(r)), uintptr(unsafe.Pointer(&pages[0])))
	if e != 0 {
		t.Fatal(e)
	}
	for i, p := range pages {
		if p&1 == 0 {
			continue
		}
		if n++; n != uint64(i)+1 {
			t.Fatalf("page %d is in memory, and one before it isn't", i)
		}
	}
	return n
}

// small gets a reservation whose memory is in small pages, so that no more of it is
// there than was got.
func small(t *testing.T, size uint64) *reservation {
	t.Helper()
	r, err := newReservation(size)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Madvise(r.memory, unix.MADV_NOHUGEPAGE); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.free(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// TestReservation: exactly what was wanted is in memory when it is said to be,
// whoever got it, and not a page while nobody is to be disturbed.
func TestReservation(t *testing.T) {
	t.Parallel()
	const size, ahead, lent, all = 64 << 20, 33<<20 + phys.PageSize, 13 << 20, 50 << 20
	r := small(t, size)
	resume := r.hush()
	r.begin(t.Context(), ahead, 2)
	for range 100 {
		runtime.Gosched()
	}
	if n := resident(t, r.memory); n != 0 {
		t.Fatalf("%d pages are there while nothing may be got; want none", n)
	}
	m, err := r.lend(t.Context(), lent, 2)
	if err != nil || uint64(len(m)) != lent {
		t.Fatalf("lend(%d) = %d bytes, %v", lent, len(m), err)
	}
	if n := resident(t, r.memory); n != lent/phys.PageSize {
		t.Fatalf("%d pages are there; want %d", n, lent/phys.PageSize)
	}
	if m, err := r.lend(t.Context(), size+1, 1); m != nil || err != nil {
		t.Fatalf("lend() of more than there is = %d bytes, %v; want none", len(m), err)
	}
	resume()
	<-r.done
	if n := resident(t, r.memory); n != ahead/phys.PageSize {
		t.Fatalf("%d pages are there; want %d", n, ahead/phys.PageSize)
	}
	for range 2 {
		if err := r.finish(t.Context(), all, 3); err != nil {
			t.Fatal(err)
		}
		if n := resident(t, r.memory); n != all/phys.PageSize {
			t.Fatalf("%d pages are there; want %d", n, all/phys.PageSize)
		}
	}
}

// TestReservationEnds: the end of a context ends it, and so does giving it back.
func TestReservationEnds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("for the test")
	cancel(why)
	if err := small(t, 8<<20).fault(ctx, 8<<20, 2); !errors.Is(err, why) {
		t.Errorf("fault() under a context that ended = %v; want why it did", err)
	}
	r, err := newReservation(256 << 20)
	if err != nil {
		t.Fatal(err)
	}
	r.begin(t.Context(), 256<<20, 1)
	if err := r.free(); err != nil {
		t.Error(err)
	}
	select {
	case <-r.done:
	default:
		t.Error("memory was given back that is still being got")
	}
	var none *reservation
	none.hush()()
	if err := none.free(); err != nil {
		t.Error(err)
	}
}

// TestReserveAhead: memory is got ahead only by Take, for a guest that runs, in a mode
// that copies, where the copy is going to fit; what isn't used goes back.
func TestReserveAhead(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		o     Options
		pause bool
		want  bool
	}{
		{"taken", Options{reserveAhead: true, MemoryCopy: 1 << 30}, false, true},
		{"live", Options{reserveAhead: true, MemoryCopy: 1 << 30, Mode: Live{}}, false, true},
		{"looked at only", Options{MemoryCopy: 1 << 30}, false, false},
		{"by snapshot", Options{reserveAhead: true, MemoryCopy: 1 << 30, Mode: Snapshot{}}, false, false},
		{"stands still", Options{reserveAhead: true, MemoryCopy: 1 << 30}, true, false},
		{"does not fit", Options{reserveAhead: true, MemoryCopy: 1 << 20}, false, false},
		{"no copy wanted", Options{reserveAhead: true}, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			vm, err := labhv.Open("win10-22h2")
			if err != nil {
				t.Fatal(err)
			}
			defer vm.Close()
			var hold hv.Hold
			if test.pause {
				if hold, err = vm.Pause(t.Context()); err != nil {
					t.Fatal(err)
				}
				defer func() { _, _ = hold.Release() }()
			}
			test.o.Write.Workers = 2
			s, err := Open(t.Context(), vm, test.o)
			if err != nil {
				t.Fatal(err)
			}
			r := s.ahead
			if (r != nil) != test.want {
				t.Errorf("memory is got ahead: %t; want %t", r != nil, test.want)
			}
			if err := s.Close(); err != nil || s.ahead != nil {
				t.Errorf("Close() = %v, reservation kept: %t", err, s.ahead != nil)
			}
		})
	}
}

// TestCopySampled: samples that agree are enough sooner where nobody waits for a
// processor, but not for who wants to know all.
func TestCopySampled(t *testing.T) {
	t.Parallel()
	alike := []timed{{1000, time.Millisecond}, {1000, time.Millisecond}, {1000, time.Millisecond}, {1000, time.Millisecond}}
	differ := []timed{{1000, time.Millisecond}, {1000, time.Millisecond}, {1000, time.Millisecond}, {1000, 3 * time.Millisecond}}
	calm, busy := &loadMeter{cpus: 2}, &loadMeter{cpus: 2, running: []uint64{3}}
	for _, test := range []struct {
		name     string
		samples  []timed
		took     time.Duration
		meter    *loadMeter
		thorough bool
		want     bool
	}{
		{"too few", alike[:3], time.Second, calm, false, false},
		{"too short", alike, copySampleCalm - 1, calm, false, false},
		{"calm", alike, copySampleCalm, calm, false, true},
		{"calm, but they differ", differ, copySampleCalm, calm, false, false},
		{"busy", alike, copySampleFor - 1, busy, false, false},
		{"busy, and long", alike, copySampleFor, busy, false, true},
		{"thorough", alike, copySampleFor - 1, calm, true, false},
		{"thorough, and long", differ, copySampleFor, calm, true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &Session{Thorough: test.thorough}
			if got := s.copySampled(test.samples, test.took, test.meter); got != test.want {
				t.Errorf("copySampled() = %t; want %t", got, test.want)
			}
		})
	}
}
