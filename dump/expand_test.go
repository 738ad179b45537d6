package dump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/internal/sparse"
	"snap/phys"
	"snap/store"
)

// holeLog is a HoleWriter that writes down what it is asked for.
type holeLog struct{ calls []string }

func (l *holeLog) Write(p []byte) (int, error) {
	l.calls = append(l.calls, fmt.Sprintf("write %d", len(p)))
	return len(p), nil
}

func (l *holeLog) WriteHole(n int64) error {
	l.calls = append(l.calls, fmt.Sprintf("hole %d", n))
	return nil
}

// TestHolesAreAligned: blocks that are left out end at multiples of holeSize in
// the file, however it is cut into pieces.
func TestHolesAreAligned(t *testing.T) {
	zeros := func(n int) []byte { return make([]byte, n) }
	full := func(n int) []byte { return bytes.Repeat([]byte{1}, n) }
	for _, tt := range []struct {
		name   string
		pieces [][]byte
		want   []string
		holes  uint64
	}{
		{"a piece that is cut", [][]byte{full(100), zeros(2*holeSize - 200), full(100)}, []string{"write 100", "hole 130872", "write 100"}, 2*holeSize - 200},
		{"bytes in a block", [][]byte{append(zeros(holeSize+10), full(1)...)}, []string{"hole 65536", "write 11"}, holeSize},
		{"bytes around zeros", [][]byte{full(holeSize), append(append(full(10), zeros(2*holeSize)...), full(5)...)}, []string{"write 65536", "write 65536", "hole 65536", "write 15"}, holeSize},
		{"nothing", [][]byte{{}}, nil, 0},
	} {
		var got holeLog
		out := newOutlet(&got, true)
		holes := uint64(0)
		for _, p := range tt.pieces {
			n, err := out.part(part{size: int64(len(p)), data: p})
			if err != nil {
				t.Errorf("%s: %d bytes failed: %v", tt.name, len(p), err)
			}
			holes += uint64(n)
		}
		if diff := cmp.Diff(tt.want, got.calls); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if holes != tt.holes {
			t.Errorf("%s: %d bytes left out; want %d", tt.name, holes, tt.holes)
		}
	}
	if _, ok := newOutlet(new(holeLog), false).(*holeOutlet); ok {
		t.Error("bytes that may not have holes get them")
	}
}

// lateFailure expands frames, but for one, which fails when the one behind it is
// expanded and waits for its turn.
type lateFailure struct {
	expander
	bad, behind int64 // file offsets
	err         error
	expanded    chan struct{}
}

func (l *lateFailure) expand(dst, src []byte, f frameRef) ([]byte, error) {
	switch f.at {
	case l.bad:
		<-l.expanded
		return nil, l.err
	case l.behind:
		close(l.expanded)
	}
	return l.expander.expand(dst, src, f)
}

// TestExpandDoesNotWaitForTheFailed: when a frame fails, those behind it don't
// wait for it to be written.
func TestExpandDoesNotWaitForTheFailed(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	p, m := smallPlan(t)
	stored, _ := written(t, p, m, Options{FrameSize: phys.PageSize})
	f := opened(t, stored)
	body, frames := f.body.(*framedBody), framesOf(t, f)
	boom := errors.New("frame is broken")
	body.exp = &lateFailure{
		expander: body.exp, err: boom, expanded: make(chan struct{}),
		bad: frames[50].at, behind: frames[51].at,
	}
	if _, err := Expand(context.Background(), f, io.Discard, nil); !errors.Is(err, boom) {
		t.Errorf("Expand with a frame that fails = %v; want %v", err, boom)
	}
}

// failingHoles is a HoleWriter that fails at holes.
type failingHoles struct{ bytes.Buffer }

func (*failingHoles) WriteHole(int64) error { return syscall.ENOSPC }

func TestExpandRefuses(t *testing.T) {
	p, m := smallPlan(t)
	stored, _ := written(t, p, m, Options{FrameSize: phys.PageSize})
	f := opened(t, stored)
	for name, w := range map[string]io.Writer{
		"a full destination":      &failingWriter{300 << 10, syscall.ENOSPC},
		"one that fails at once":  &failingWriter{0, syscall.ENOSPC},
		"one that fails at holes": new(failingHoles),
	} {
		if s, err := Expand(context.Background(), f, w, nil); !errors.Is(err, syscall.ENOSPC) || s != nil {
			t.Errorf("Expand to %s = %v, %v; want nil, ENOSPC", name, s, err)
		}
	}
	short := opened(t, expected(p, m)[:0x2000+5*phys.PageSize])
	if _, err := Expand(context.Background(), short, tempFile(t, 0), nil); !errors.Is(err, ErrFormat) {
		t.Errorf("Expand of a truncated dump = %v; want ErrFormat", err)
	}
}

// TestExpandStops: neither a frame that is damaged nor the end of the context
// leaves others waiting for their turn.
func TestExpandStops(t *testing.T) {
	p, m := smallPlan(t)
	stored, _ := written(t, p, m, Options{FrameSize: phys.PageSize})
	f := opened(t, stored)
	frames := framesOf(t, f)
	for i := 0; i < len(frames); i += 50 {
		bad := bytes.Clone(stored)
		ref := frames[i]
		bad[ref.at+int64(ref.stored)-1] ^= 1
		damaged, err := NewFile(bytes.NewReader(bad), int64(len(bad)))
		if err == nil {
			_, err = Expand(context.Background(), damaged, io.Discard, nil)
			_ = damaged.Close()
		}
		if !errors.Is(err, ErrFormat) {
			t.Errorf("Expand with frame %d damaged = %v; want ErrFormat", i, err)
		}
	}
	why := errors.New("time is up")
	ctx, cancel := context.WithCancelCause(context.Background())
	w := writerFunc(func(p []byte) (int, error) { cancel(why); return len(p), nil })
	if _, err := Expand(ctx, f, w, nil); !errors.Is(err, why) {
		t.Errorf("Expand whose context ends = %v; want %v", err, why)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// setProcessors lets goroutines run on so many processors until what it returns is
// called.
func setProcessors(n int) func() {
	before := runtime.GOMAXPROCS(n)
	return func() { runtime.GOMAXPROCS(before) }
}

// TestExpandScattered: a file that is written in any order becomes the plain dump, with
// its holes. One that must be hashed is written from its start.
func TestExpandScattered(t *testing.T) {
	p, m := sparsePlan(t)
	want := expected(p, m)
	stored, _ := written(t, p, m, Options{FrameSize: 1 << 16})
	for name, o := range map[string]store.Options{"in any order": {NoSum: true}, "hashed": {}} {
		f := opened(t, stored)
		out := storeFile(t, t.TempDir(), o)
		var progress Progress
		s, err := Expand(context.Background(), f, out, &progress)
		if err != nil {
			t.Fatalf("%s: Expand failed: %v", name, err)
		}
		r, size, err := out.Reopen(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, size)
		if err := readFull(r, got, 0); err != nil {
			t.Fatal(err)
		}
		sameBytes(t, name, got, want)
		if s.Bytes != uint64(len(want)) || s.Holes == 0 || progress.Done.Load() != s.Bytes || progress.Written.Load() != s.Bytes-s.Holes {
			t.Errorf("%s: %+v, %d done, %d written; want %d bytes with holes", name, s, progress.Done.Load(), progress.Written.Load(), len(want))
		}
		holes := uint64(0)
		for at := int64(0); at < size; {
			lo, hi, err := r.(sparse.Finder).NextData(at, size)
			if err != nil {
				t.Fatal(err)
			}
			holes += uint64(lo - at)
			at = hi
		}
		if holes < s.Holes/2 || holes > s.Holes {
			t.Errorf("%s: the file has %d bytes of holes; want about %d", name, holes, s.Holes)
		}
	}
}
