package dump

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"snap/guest/phys"
)

// drawPlan makes a plan of ascending runs, some touching, with overlays
// anywhere in them.
func drawPlan(t *rapid.T) (*Plan, *fakeMemory) {
	m := &fakeMemory{bad: map[phys.PFN]error{}}
	var runs []phys.Run
	next := phys.PFN(0)
	for range rapid.IntRange(1, 6).Draw(t, "runs") {
		next += phys.PFN(rapid.IntRange(0, 5).Draw(t, "hole"))
		r := phys.Run{Base: next, Pages: rapid.Uint64Range(1, 40).Draw(t, "pages")}
		runs = append(runs, r)
		next = r.End()
	}
	var err error
	if m.ram, err = phys.NewRuns(runs...); err != nil {
		t.Fatal(err)
	}
	p := &Plan{Header: testHeader(runs), Runs: runs}
	drawSet := func(label string) (set phys.Runs) {
		for _, r := range rapid.SliceOfN(rapid.Custom(func(t *rapid.T) phys.Run {
			return phys.Run{Base: phys.PFN(rapid.Uint64Range(0, uint64(next)).Draw(t, "base")), Pages: rapid.Uint64Range(1, 30).Draw(t, "n")}
		}), 0, 5).Draw(t, label) {
			set = set.Union(phys.Runs{r})
		}
		return set
	}
	if rapid.Bool().Draw(t, "populated known") {
		p.Populated = append(phys.Runs{}, drawSet("populated")...)
	}
	m.ram = m.ram.Minus(drawSet("not RAM"))
	for _, r := range drawSet("bad") {
		for pfn := r.Base; pfn < r.End(); pfn++ {
			m.bad[pfn] = errBadPage
		}
	}
	taken := map[phys.Addr]bool{}
	all, _ := phys.NewRuns(runs...)
	for range rapid.IntRange(0, 6).Draw(t, "overlays") {
		r := runs[rapid.IntRange(0, len(runs)-1).Draw(t, "run")]
		at := r.Base.Addr() + phys.Addr(rapid.Uint64Range(0, r.Size()-1).Draw(t, "at"))
		n := rapid.Uint64Range(1, 3*phys.PageSize).Draw(t, "length")
		free := all.Covers(at, n)
		for a := at; free && a < at+phys.Addr(n); a++ {
			free = !taken[a]
		}
		if !free {
			continue
		}
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(i) | 1
			taken[at+phys.Addr(i)] = true
		}
		p.Overlays = append(p.Overlays, Overlay{At: at, Data: data, What: fmt.Sprintf("overlay at %#x", uint64(at))})
	}
	return p, m
}

// readable reports whether a plan has a page that can be read, or none that is
// asked for and can't: otherwise Write calls the source dead.
func readable(p *Plan, m *fakeMemory) (ok bool, want Stats) {
	for _, r := range p.Runs {
		for pfn := r.Base; pfn < r.End(); pfn++ {
			want.Pages++
			switch {
			case p.Populated != nil && !p.Populated.Has(pfn):
				want.Unpopulated++
			case m.bad[pfn] != nil || !m.ram.Has(pfn):
				want.Unreadable++
			default:
				want.Read++
				if bytes.Equal(fakePage(pfn), make([]byte, phys.PageSize)) {
					want.Zero++
				}
			}
		}
	}
	want.BytesRead = want.Read * phys.PageSize
	want.DumpBytes = uint64(len(p.Header)) + want.Pages*phys.PageSize
	return want.Read > 0 || want.Unreadable == 0, want
}

func TestWriteRandomPlans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, m := drawPlan(t)
		o := Options{
			Compression: rapid.SampledFrom([]Compression{CompressionZstd, CompressionGzip, CompressionNone}).Draw(t, "compression"),
			Level:       rapid.SampledFrom([]Level{"", LevelFastest, LevelDefault, LevelBetter}).Draw(t, "level"),
			FrameSize:   phys.PageSize * rapid.SampledFrom([]int{1, 2, 3, 7, 16, 256}).Draw(t, "frame pages"),
			Workers:     rapid.IntRange(1, 4).Draw(t, "workers"),
		}
		ok, wantStats := readable(p, m)
		var out bytes.Buffer
		s, err := Write(context.Background(), &out, m, p, o)
		if !ok {
			if !errors.Is(err, ErrSource) {
				t.Fatalf("Write with no readable page = %v; want ErrSource", err)
			}
			return
		}
		if err != nil {
			t.Fatalf("Write failed: %v", err)
		}
		checkStats(t, s, wantStats, out.Bytes())
		checkReads(t, out.Bytes(), expected(p, m), p)
	})
}

func checkStats(t *rapid.T, got *Stats, want Stats, file []byte) {
	var lost uint64
	for _, g := range got.Gaps {
		lost += g.Run.Pages
	}
	if lost+got.GapsOmitted != got.Unreadable {
		t.Fatalf("gaps of %d and %d omitted pages; want %d", lost, got.GapsOmitted, got.Unreadable)
	}
	sum := sha256.Sum256(file)
	want.Gaps, want.GapsOmitted = got.Gaps, got.GapsOmitted
	want.BytesWritten, want.SHA256 = uint64(len(file)), hex.EncodeToString(sum[:])
	if diff := cmp.Diff(want, *got); diff != "" {
		t.Fatalf("Stats differ (-want +got):\n%s", diff)
	}
}

// checkReads reads a dump back in every way there is.
func checkReads(t *rapid.T, stored, want []byte, p *Plan) {
	f, err := NewFile(bytes.NewReader(stored), int64(len(stored)))
	if err != nil {
		t.Fatalf("NewFile failed: %v", err)
	}
	defer func() { _ = f.Close() }()
	if f.Size() != int64(len(want)) {
		t.Fatalf("Size() = %d; want %d", f.Size(), len(want))
	}
	if got := expandedBytes(t, f); !bytes.Equal(got, want) {
		t.Fatal("the expanded dump is not header and pages with overlays")
	}
	off := rapid.IntRange(0, len(want)-1).Draw(t, "read at")
	got := make([]byte, rapid.IntRange(1, len(want)-off).Draw(t, "read length"))
	switch _, err := f.ReadAt(got, int64(off)); {
	case f.Container().Compression == CompressionGzip:
		if !errors.Is(err, ErrSequential) {
			t.Fatalf("ReadAt in gzip = %v; want ErrSequential", err)
		}
		return
	case err != nil || !bytes.Equal(got, want[off:off+len(got)]):
		t.Fatalf("ReadAt(%d bytes at %#x) is wrong: %v", len(got), off, err)
	}
	at := len(p.Header)
	for _, r := range p.Runs {
		page := make([]byte, phys.PageSize)
		if err := f.ReadPhys(context.Background(), page, r.Base.Addr()); err != nil || !bytes.Equal(page, want[at:at+phys.PageSize]) {
			t.Fatalf("ReadPhys of the first page of %v is wrong: %v", r, err)
		}
		at += int(r.Size())
	}
}

// expandedBytes runs Expand on a file in memory.
func expandedBytes(t interface {
	Fatalf(string, ...any)
	Helper()
}, f *File,
) []byte {
	t.Helper()
	out, err := os.CreateTemp("", "snap-expand-")
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer func() { _ = os.Remove(out.Name()) }()
	defer func() { _ = out.Close() }()
	s, err := Expand(context.Background(), f, out, nil)
	if err != nil {
		t.Fatalf("Expand failed: %v", err)
	}
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatalf("%v", err)
	}
	if s.Bytes != uint64(len(b)) {
		t.Fatalf("Expand says %d bytes; the file has %d", s.Bytes, len(b))
	}
	return b
}

func TestWriteDoesNotReadWhatIsNotPopulated(t *testing.T) {
	p, m := smallPlan(t)
	p.Populated = phys.Runs{{Base: 0x110, Pages: 3}, {Base: 0x300, Pages: 0x1000}}
	var read phys.Runs
	m.reads = func(r phys.Run) { read = read.Union(phys.Runs{r}) }
	written(t, p, m, Options{Workers: 1})
	want := phys.Runs{{Base: 0x110, Pages: 3}, {Base: 0x400, Pages: 0x13}}
	if diff := cmp.Diff(want, read.Minus(phys.Runs{})); diff != "" {
		t.Errorf("pages read (-want +got):\n%s", diff)
	}
}

func TestWriteReadsInFrames(t *testing.T) {
	p, m := smallPlan(t)
	var reads atomic.Int64
	m.reads = func(phys.Run) { reads.Add(1) }
	written(t, p, m, Options{})
	// 689 pages in frames of 256: three frames, and two run ends inside of them.
	if got := reads.Load(); got != 5 {
		t.Errorf("%d reads; want 5", got)
	}
}

func TestGaps(t *testing.T) {
	p, m := smallPlan(t)
	m.bad = map[phys.PFN]error{0x120: errBadPage, 0x121: errBadPage, 0x122: io.ErrNoProgress, 0x9e: errBadPage, 0x1ff: errBadPage, 0x200: errBadPage}
	m.ram = m.ram.Minus(phys.Runs{{Base: 0x410, Pages: 2}})
	for _, frame := range []int{0, phys.PageSize, 3 * phys.PageSize} {
		stored, s := written(t, p, m, Options{FrameSize: frame})
		want := []Gap{
			{phys.Run{Base: 0x9e, Pages: 1}, "bad page"},
			{phys.Run{Base: 0x120, Pages: 2}, "bad page"},
			{phys.Run{Base: 0x122, Pages: 1}, io.ErrNoProgress.Error()},
			{phys.Run{Base: 0x1ff, Pages: 2}, "bad page"},
			{phys.Run{Base: 0x410, Pages: 2}, phys.ErrNotRAM.Error()},
		}
		if diff := cmp.Diff(want, s.Gaps); diff != "" || s.Unreadable != 8 {
			t.Errorf("frames of %d: %d unreadable; want 8; gaps (-want +got):\n%s", frame, s.Unreadable, diff)
		}
		sameBytes(t, "expanded", expandedBytes(t, opened(t, stored)), expected(p, m))
	}
}

func TestGapsAreCapped(t *testing.T) {
	p, m := smallPlan(t)
	m.bad = map[phys.PFN]error{}
	for pfn := phys.PFN(0x100); pfn < 0x300; pfn++ {
		m.bad[pfn] = fmt.Errorf("page %d", pfn)
	}
	_, s := written(t, p, m, Options{})
	if len(s.Gaps) != MaxGaps || s.GapsOmitted != 0x200-MaxGaps || s.Unreadable != 0x200 {
		t.Errorf("%d gaps, %d omitted, %d unreadable; want %d, %d, %d", len(s.Gaps), s.GapsOmitted, s.Unreadable, MaxGaps, 0x200-MaxGaps, 0x200)
	}
}

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
	delete(m.bad, 0x120)
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
		{"empty run", func(p *Plan) { p.Runs[1].Pages = 0 }},
		{"run outside the address space", func(p *Plan) { p.Runs[2].Pages = 1 << 60 }},
		{"runs out of order", func(p *Plan) { p.Runs[0], p.Runs[1] = p.Runs[1], p.Runs[0] }},
		{"runs overlap", func(p *Plan) { p.Runs[0].Pages = 0x100 }},
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

// TestSameBytes: a dump does not depend on how many workers made it.
func TestSameBytes(t *testing.T) {
	p, m := smallPlan(t)
	for _, c := range []Compression{CompressionZstd, CompressionGzip, CompressionNone} {
		one, _ := written(t, p, m, Options{Compression: c, Workers: 1, FrameSize: 1 << 16})
		many, _ := written(t, p, m, Options{Compression: c, Workers: 8, FrameSize: 1 << 16})
		sameBytes(t, string(c)+" by 8 workers", many, one)
	}
}

func TestProgress(t *testing.T) {
	p, m := smallPlan(t)
	var pr Progress
	stored, s := written(t, p, m, Options{Progress: &pr})
	if pr.Total.Load() != s.DumpBytes || pr.Done.Load() != s.DumpBytes || pr.Written.Load() != uint64(len(stored)) {
		t.Errorf("progress = %d of %d, %d written; want %d of %d, %d", pr.Done.Load(), pr.Total.Load(), pr.Written.Load(), s.DumpBytes, s.DumpBytes, len(stored))
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
