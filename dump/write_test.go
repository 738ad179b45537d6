package dump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"snap/phys"
)

// drawPlan makes a plan of ascending runs, some touching, with overlays
// anywhere in them.
func drawPlan(t *rapid.T) (*Plan, *fakeMemory) {
	m := &fakeMemory{bad: map[phys.PFN]error{}}
	var runs []phys.Run
	next := phys.PFN(0)
	header, most, pages := testHeader, 6, uint64(40)
	if rapid.Bool().Draw(t, "bitmap") {
		header, most, pages = bitmapHeader, 60, 9
	}
	for range rapid.IntRange(1, most).Draw(t, "runs") {
		next += phys.PFN(rapid.IntRange(0, 5).Draw(t, "hole"))
		r := phys.Run{Base: next, Pages: rapid.Uint64Range(1, pages).Draw(t, "pages")}
		runs = append(runs, r)
		next = r.End()
	}
	var err error
	if m.ram, err = phys.NewRuns(runs...); err != nil {
		t.Fatal(err)
	}
	p := &Plan{Header: header(runs), Runs: runs}
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
			Compression: rapid.SampledFrom(Compressions()).Draw(t, "compression"),
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
	want.Gaps, want.GapsOmitted, want.BytesWritten = got.Gaps, got.GapsOmitted, uint64(len(file))
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
	if _, err := f.ReadAt(got, int64(off)); err != nil || !bytes.Equal(got, want[off:off+len(got)]) {
		t.Fatalf("ReadAt(%d bytes at %#x) is wrong: %v", len(got), off, err)
	}
	ram, _ := phys.NewRuns(p.Runs...)
	again, err := f.Plan()
	if err != nil || !slices.Equal(f.RAM(), ram) || !bytes.Equal(again.Header, p.Header) {
		t.Fatalf("RAM() = %v; want %v; Plan() = %v with another header", f.RAM(), ram, err)
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

// steadyMemory is memory of any size that costs nothing to make up.
type steadyMemory struct{}

func (steadyMemory) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	for i := 0; i < len(p); i += phys.PageSize {
		p[i] = byte(uint64(at)>>phys.PageShift) | 1
	}
	return nil
}

// TestMemoryDoesNotGrowWithTheGuest: eight times the guest, about the same
// allocations.
func TestMemoryDoesNotGrowWithTheGuest(t *testing.T) {
	cost := func(pages uint64) uint64 {
		runs := []phys.Run{{Base: 1, Pages: pages}}
		p := &Plan{Header: testHeader(runs), Runs: runs}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Write(context.Background(), io.Discard, steadyMemory{}, p, Options{Workers: 2}); err != nil {
			t.Fatalf("Write failed: %v", err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	small, large := cost(16<<20/phys.PageSize), cost(128<<20/phys.PageSize)
	if large > small+4<<20 {
		t.Errorf("a guest of 16 MiB takes %d bytes, one of 128 MiB %d", small, large)
	}
}
