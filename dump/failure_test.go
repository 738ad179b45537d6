package dump

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"snap/phys"
)

// failingWriter takes n bytes and then fails with err.
type failingWriter struct {
	n   int
	err error
}

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.n {
		return w.n, w.err
	}
	w.n -= len(p)
	return len(p), nil
}

// settled waits until no goroutine of this package's pipeline runs.
func settled(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	buf := make([]byte, 1<<20)
	for {
		stacks := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, "snap/dump.(*pipeline)") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("goroutines are left:\n%s", stacks)
		}
		runtime.Gosched()
	}
}

func TestWriteStopsAtTheFirstError(t *testing.T) {
	boom := errors.New("connection lost")
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	tests := []struct {
		name string
		ctx  context.Context
		with func(p *Plan, m *fakeMemory, o *Options) io.Writer
		want error
	}{
		{"destination full", nil, func(*Plan, *fakeMemory, *Options) io.Writer { return &failingWriter{4096, syscall.ENOSPC} }, syscall.ENOSPC},
		{"destination full at the table", nil, func(_ *Plan, _ *fakeMemory, o *Options) io.Writer {
			o.Metadata = func(s *Stats) ([]byte, error) { return make([]byte, 1<<20), nil }
			return &failingWriter{900 << 10, syscall.ENOSPC}
		}, syscall.ENOSPC},
		{"source fails outright", nil, func(_ *Plan, m *fakeMemory, _ *Options) io.Writer { m.fatal = boom; return io.Discard }, ErrSource},
		{"source fails outright, cause", nil, func(_ *Plan, m *fakeMemory, _ *Options) io.Writer { m.fatal = boom; return io.Discard }, boom},
		{"nothing is RAM", nil, func(_ *Plan, m *fakeMemory, _ *Options) io.Writer { m.ram = nil; return io.Discard }, ErrSource},
		{"cancelled before", cancelled, func(*Plan, *fakeMemory, *Options) io.Writer { return io.Discard }, context.Canceled},
		{"metadata fails", nil, func(_ *Plan, _ *fakeMemory, o *Options) io.Writer {
			o.Metadata = func(*Stats) ([]byte, error) { return nil, boom }
			return io.Discard
		}, boom},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, m := smallPlan(t)
			o := Options{FrameSize: phys.PageSize, Workers: 3}
			w := tt.with(p, m, &o)
			ctx := tt.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			if s, err := Write(ctx, w, m, p, o); !errors.Is(err, tt.want) || s != nil {
				t.Errorf("Write = %v, %v; want nil, %v", s, err, tt.want)
			}
			settled(t)
		})
	}
}

func TestWriteCancelledMidway(t *testing.T) {
	p, m := smallPlan(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	var reads atomic.Int64
	m.reads = func(phys.Run) {
		if reads.Add(1) == 100 {
			cancel(errors.New("pause is over"))
		}
	}
	_, err := Write(ctx, io.Discard, m, p, Options{FrameSize: phys.PageSize})
	if !errors.Is(err, context.Canceled) && err.Error() != "pause is over" {
		t.Errorf("Write = %v; want the cause of the cancellation", err)
	}
	if n := reads.Load(); n > 200 {
		t.Errorf("%d reads; want few after the 100th", n)
	}
	settled(t)
}

type readerFunc func(context.Context, []byte, phys.Addr) error

func (f readerFunc) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error { return f(ctx, p, at) }

// TestCancelledReadIsNoGap: a source whose reads fail because the dump was
// cancelled is not tried again page by page.
func TestCancelledReadIsNoGap(t *testing.T) {
	p, _ := smallPlan(t)
	ctx, cancel := context.WithCancel(context.Background())
	var reads atomic.Int64
	m := readerFunc(func(_ context.Context, b []byte, at phys.Addr) error {
		reads.Add(1)
		cancel()
		return &phys.AccessError{At: at, Len: len(b), Err: context.Canceled}
	})
	if _, err := Write(ctx, io.Discard, m, p, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Write = %v; want context.Canceled", err)
	}
	if n := reads.Load(); n > 3 { // one for each frame that was under way
		t.Errorf("%d reads; want one for each frame", n)
	}
}

// TestDeadSource: a source that stops working is not a dump full of gaps.
func TestDeadSource(t *testing.T) {
	p, m := smallPlan(t)
	m.bad = map[phys.PFN]error{}
	for pfn := phys.PFN(0x100); pfn < 0x100+maxDeadFrames; pfn++ {
		m.bad[pfn] = errBadPage
	}
	_, err := Write(context.Background(), io.Discard, m, p, Options{FrameSize: phys.PageSize})
	if !errors.Is(err, ErrSource) {
		t.Errorf("Write with %d dead frames in a row = %v; want ErrSource", maxDeadFrames, err)
	}
	for pfn := phys.PFN(0x100); pfn < 0x100+2*maxDeadFrames-1; pfn++ {
		m.bad[pfn] = errBadPage
	}
	delete(m.bad, 0x100+maxDeadFrames-1)
	if _, err := Write(context.Background(), io.Discard, m, p, Options{FrameSize: phys.PageSize}); err != nil {
		t.Errorf("Write with one good frame among them failed: %v", err)
	}
	m.bad, m.ram = nil, m.ram.Minus(phys.Runs{{Base: 0x100, Pages: 2 * maxDeadFrames}})
	if _, err := Write(context.Background(), io.Discard, m, p, Options{FrameSize: phys.PageSize}); err != nil {
		t.Errorf("Write with frames that are not RAM failed: %v", err)
	}
}

func TestPlanIsChecked(t *testing.T) {
	tests := []struct {
		name  string
		wreck func(p *Plan)
	}{
		{"no header", func(p *Plan) { p.Header = nil }},
		{"header not of whole pages", func(p *Plan) { p.Header = p.Header[:0x1fff] }},
		{"header that is none", func(p *Plan) { p.Header[0] = 'p' }},
		{"header with more behind it", func(p *Plan) { p.Header = append(p.Header, make([]byte, phys.PageSize)...) }},
		{"header of other runs", func(p *Plan) { p.Runs[2].Pages++ }},
		{"header of fewer runs", func(p *Plan) { p.Header = testHeader(p.Runs[:2]) }},
		{"bitmap of more pages", func(p *Plan) { p.Header = bitmapHeader(p.Runs); p.Runs[1].Pages-- }},
		{"bitmap of fewer pages", func(p *Plan) { p.Header = bitmapHeader(p.Runs); p.Runs[1].Pages++ }},
		{"bitmap of other pages", func(p *Plan) { p.Header = bitmapHeader(p.Runs); p.Runs[0].Base-- }},
		{"bitmap that is cut off", func(p *Plan) { p.Header = bitmapHeader(p.Runs)[:0x2000] }},
		{"bitmap with more behind it", func(p *Plan) { p.Header = append(bitmapHeader(p.Runs), make([]byte, phys.PageSize)...) }},
		{"bitmap of a wrong signature", func(p *Plan) { p.Header = bitmapHeader(p.Runs); p.Header[0x2000] = 'P' }},
		{"header of a dump without pages", func(p *Plan) { p.Header[0xf98] = 4 }},
		{"overlay without bytes", func(p *Plan) { p.Overlays[0].Data = nil }},
		{"overlay outside the runs", func(p *Plan) { p.Overlays[0].At = 0xa0000 }},
		{"overlay runs out of a run", func(p *Plan) { p.Overlays[0].At = 0x9eff0 }},
		{"overlay before the first run", func(p *Plan) { p.Overlays[0].At = 0xff8 }},
		{"overlay beyond the last run", func(p *Plan) { p.Overlays[1].At = 0x413000 }},
		{"overlay wraps around", func(p *Plan) { p.Overlays[1].At = ^phys.Addr(0) - 2 }},
		{"overlays overlap", func(p *Plan) { p.Overlays[1].At = p.Overlays[0].At + 3 }},
	}
	for _, tt := range tests {
		p, m := smallPlan(t)
		tt.wreck(p)
		m.reads = func(r phys.Run) { t.Errorf("%s: %v was read", tt.name, r) }
		var out bytes.Buffer
		if _, err := Write(context.Background(), &out, m, p, Options{}); !errors.Is(err, ErrPlan) || out.Len() != 0 {
			t.Errorf("%s: Write = %v with %d bytes out; want ErrPlan and none", tt.name, err, out.Len())
		}
	}
}

func TestRunsAreChecked(t *testing.T) {
	for name, runs := range map[string][]phys.Run{
		"empty run":                     {{Base: 1, Pages: 5}, {Base: 10, Pages: 0}},
		"run outside the address space": {{Base: 1, Pages: 1 << 60}},
		"runs out of order":             {{Base: 10, Pages: 5}, {Base: 1, Pages: 5}},
		"runs overlap":                  {{Base: 1, Pages: 5}, {Base: 5, Pages: 5}},
	} {
		if err := new(layout).setRuns(runs); !errors.Is(err, ErrPlan) {
			t.Errorf("%s: setRuns = %v; want ErrPlan", name, err)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, o := range []Options{
		{Compression: "lzma"},
		{Level: "11"},
		{FrameSize: 1000},
		{FrameSize: MaxFrameSize + phys.PageSize},
		{FrameSize: -phys.PageSize},
		{Workers: -1},
		{Memory: -1},
		{Memory: 1 << 20},
	} {
		p, m := smallPlan(t)
		if _, err := Write(context.Background(), io.Discard, m, p, o); err == nil {
			t.Errorf("Write with %+v worked; want an error", o)
		}
	}
}

func TestDeviceWithoutSpace(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = full.Close() }()
	for _, c := range []Compression{CompressionZstd, CompressionGzip, CompressionNone} {
		p, m := smallPlan(t)
		if _, err := Write(context.Background(), full, m, p, Options{Compression: c}); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%s: Write to /dev/full = %v; want ENOSPC", c, err)
		}
	}
}
