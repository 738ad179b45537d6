package dump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
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
		{"a piece that is cut", [][]byte{full(100), zeros(2*holeSize - 200), full(100)}, []string{"write 100", "hole 65436", "hole 65436", "write 100"}, 2*holeSize - 200},
		{"bytes in a block", [][]byte{append(zeros(holeSize+10), full(1)...)}, []string{"hole 65536", "write 11"}, holeSize},
		{"bytes around zeros", [][]byte{full(holeSize), append(append(full(10), zeros(2*holeSize)...), full(5)...)}, []string{"write 65536", "write 65536", "hole 65536", "write 15"}, holeSize},
		{"nothing", [][]byte{{}}, nil, 0},
	} {
		var got holeLog
		out := newOutlet(&got, true)
		for _, p := range tt.pieces {
			if n, err := out.Write(p); n != len(p) || err != nil {
				t.Errorf("%s: Write of %d bytes = %d, %v", tt.name, len(p), n, err)
			}
		}
		if diff := cmp.Diff(tt.want, got.calls); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if n := out.(*holeOutlet).n; n != tt.holes {
			t.Errorf("%s: %d bytes left out; want %d", tt.name, n, tt.holes)
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
	body := f.body.(*framedBody)
	boom := errors.New("frame is broken")
	body.exp = &lateFailure{
		expander: body.exp, err: boom, expanded: make(chan struct{}),
		bad: body.table.frames[50].at, behind: body.table.frames[51].at,
	}
	if _, err := Expand(context.Background(), f, io.Discard, nil); !errors.Is(err, boom) {
		t.Errorf("Expand with a frame that fails = %v; want %v", err, boom)
	}
}
