package dump

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/header"
	"snap/phys"
)

// scattered is 16 MiB of which every 5th page is left out, and the pages left
// out.
func scattered(t testing.TB) (p *Plan, m *fakeMemory, removed phys.Runs) {
	t.Helper()
	all := phys.Runs{{Base: 1, Pages: 0x1000}}
	for pfn := phys.PFN(3); pfn < all.End(); pfn += 5 {
		removed = append(removed, phys.Run{Base: pfn, Pages: 1})
	}
	runs := all.Minus(removed)
	return &Plan{Header: bitmapHeader(runs), Runs: runs}, &fakeMemory{ram: all}, removed
}

// TestRemovedPagesAreNotRead: pages outside of the runs are not even looked at,
// not where a read fails and is tried again in pieces either, and a run is read
// at once but for where frames divide it.
func TestRemovedPagesAreNotRead(t *testing.T) {
	p, m, removed := scattered(t)
	m.bad = map[phys.PFN]error{0x101: errBadPage, 0x801: errBadPage}
	var mu sync.Mutex
	reads := 0
	m.reads = func(r phys.Run) {
		mu.Lock()
		defer mu.Unlock()
		reads++
		if hit := removed.Intersect(phys.Runs{r}); len(hit) > 0 {
			t.Errorf("a read of %v has the removed pages %v", r, hit)
		}
	}
	stored, s := written(t, p, m, Options{Compression: CompressionNone})
	sameBytes(t, "dump", stored, expected(p, m))
	frames := int(s.Pages/256) + 1
	if most := len(p.Runs) + frames + 2*4; reads > most { // a run of 4 pages is halved twice
		t.Errorf("%d reads of %d runs in %d frames; want at most %d", reads, len(p.Runs), frames, most)
	}
	if s.Unreadable != 2 || s.Pages != 0x1000-removed.Pages() {
		t.Errorf("%d pages, %d unreadable; want %d, 2", s.Pages, s.Unreadable, 0x1000-removed.Pages())
	}
}

// TestRunsThatTouchAreReadAtOnce: where a header divides memory that is in one
// piece.
func TestRunsThatTouchAreReadAtOnce(t *testing.T) {
	runs := []phys.Run{{Base: 1, Pages: 1}, {Base: 2, Pages: 7}, {Base: 9, Pages: 100}}
	for name, head := range map[string]func([]phys.Run) []byte{"runs": testHeader, "bitmap": bitmapHeader} {
		m := &fakeMemory{ram: phys.Runs{{Base: 0, Pages: 200}}}
		var read []phys.Run
		m.reads = func(r phys.Run) { read = append(read, r) }
		p := &Plan{Header: head(runs), Runs: runs}
		p.Overlays = []Overlay{{At: 0x8ffe, Data: []byte("over"), What: "two runs"}}
		stored, _ := written(t, p, m, Options{Workers: 1, Compression: CompressionNone})
		if diff := cmp.Diff([]phys.Run{{Base: 1, Pages: 108}}, read); diff != "" {
			t.Errorf("%s: reads (-want +got):\n%s", name, diff)
		}
		sameBytes(t, name, stored, expected(p, m))
		f := opened(t, stored)
		got := make([]byte, 8)
		if err := f.ReadPhys(context.Background(), got, 0x8ffc); err != nil || string(got[2:6]) != "over" {
			t.Errorf("%s: ReadPhys across two runs = %q, %v", name, got, err)
		}
	}
}

// TestReadBitmapDump: every page by its number, through any container.
func TestReadBitmapDump(t *testing.T) {
	p, m, removed := scattered(t)
	want := expected(p, m)
	for _, c := range []Compression{CompressionZstd, CompressionGzip, CompressionNone} {
		stored, _ := written(t, p, m, Options{Compression: c})
		f := opened(t, stored)
		if err := f.Complete(); err != nil {
			t.Errorf("%s: Complete failed: %v", c, err)
		}
		if b := f.Bitmap(); b == nil || b.FirstPage != uint64(len(p.Header)) || !cmp.Equal(b.Runs, phys.Runs(p.Runs)) {
			t.Errorf("%s: Bitmap() = %+v; want the plan's runs", c, b)
		}
		sameBytes(t, string(c), expandedBytes(t, f), want)
		page := make([]byte, phys.PageSize)
		at := len(p.Header)
		for pfn := phys.PFN(0); pfn <= 0x1001; pfn++ {
			err := f.ReadPhys(context.Background(), page, pfn.Addr())
			if inside := pfn > 0 && pfn < 0x1001 && !removed.Has(pfn); !inside {
				if !errors.Is(err, phys.ErrNotRAM) {
					t.Fatalf("%s: page %#x that is not there = %v; want ErrNotRAM", c, uint64(pfn), err)
				}
				continue
			}
			if err != nil || !bytes.Equal(page, want[at:at+phys.PageSize]) {
				t.Fatalf("%s: page %#x is wrong: %v", c, uint64(pfn), err)
			}
			at += phys.PageSize
		}
		if err := f.ReadPhys(context.Background(), make([]byte, 16), 0x2ff8); !errors.Is(err, phys.ErrNotRAM) {
			t.Errorf("%s: a read into a removed page = %v; want ErrNotRAM", c, err)
		}
	}
}

// windowsDump is a type 6 dump as Windows writes them: the first page right
// behind the bitmap, secondary data behind the last.
func windowsDump(m *fakeMemory, runs []phys.Run) (b []byte, first int) {
	head := bitmapHeader(runs)
	first = 0x2038 + int(binary.LittleEndian.Uint64(head[0x2030:]))/8
	b = append(b, head[:first]...)
	copy(b[0x2000:], "SDMP")
	binary.LittleEndian.PutUint64(b[0x2020:], uint64(first))
	binary.LittleEndian.PutUint32(b[0xf98:], 6)
	p := &Plan{Runs: runs}
	b = append(b, expected(p, m)...)
	return append(b, "DumpBlob"...), first
}

func TestReadWindowsBitmapDump(t *testing.T) {
	runs := phys.Runs{{Base: 5, Pages: 3}, {Base: 0x40, Pages: 1}}
	m := &fakeMemory{ram: phys.Runs{{Base: 0, Pages: 0x100}}}
	b, first := windowsDump(m, runs)
	f := opened(t, b)
	page := make([]byte, phys.PageSize)
	for i, pfn := range []phys.PFN{5, 6, 7, 0x40} {
		if err := f.ReadPhys(context.Background(), page, pfn.Addr()); err != nil || !bytes.Equal(page, fakePage(pfn)) {
			t.Errorf("page %d is wrong: %v", i, err)
		}
	}
	if err := errors.Join(f.Complete(), f.CheckFrames(context.Background(), nil)); err != nil {
		t.Errorf("Complete and CheckFrames failed: %v", err)
	}
	if got := f.Bitmap().FirstPage; got != uint64(first) || got%phys.PageSize == 0 {
		t.Errorf("first page at %#x; want %#x, not aligned", got, first)
	}
	sameBytes(t, "expanded", expandedBytes(t, f), b)

	// Written again it has its first page aligned, and no secondary data.
	p, err := f.Plan()
	if err != nil {
		t.Fatalf("Plan failed: %v", err)
	}
	again, _ := written(t, p, f, Options{Compression: CompressionNone})
	if len(again) != 0x3000+4*phys.PageSize || string(again[0x2000:0x2008]) != "SDMPDUMP" || again[0xf98] != 6 ||
		binary.LittleEndian.Uint64(again[0x2020:]) != 0x3000 || binary.LittleEndian.Uint64(again[0xfa0:]) != uint64(len(again)) {
		t.Errorf("written again: %d bytes, % x", len(again), again[0x2000:0x2040])
	}
	sameBytes(t, "pages", again[0x3000:], b[first:len(b)-8])
}

// TestBadBitmapIsNotAnOpenError: as with runs, one can look into such a dump.
func TestBadBitmapIsNotAnOpenError(t *testing.T) {
	runs := []phys.Run{{Base: 5, Pages: 3}}
	m := &fakeMemory{ram: phys.Runs{{Base: 0, Pages: 0x100}}}
	good := expected(&Plan{Header: bitmapHeader(runs), Runs: runs}, m)
	tests := map[string][]byte{
		"cut in the bitmap": good[:0x203a],
		"cut ahead of it":   good[:0x2000],
		"one page more":     bytes.Clone(good),
		"size of all there": bytes.Clone(good),
	}
	tests["one page more"][0x2028]++
	copy(tests["size of all there"][0x2030:], bytes.Repeat([]byte{0xff}, 8))
	for name, b := range tests {
		f := opened(t, b)
		_, err := f.Header()
		_, ofHeader := errors.AsType[*header.FormatError](err)
		if !errors.Is(err, ErrFormat) || !ofHeader {
			t.Errorf("%s: Header() = %v; want ErrFormat", name, err)
		}
		if f.Bitmap() != nil || len(f.RAM()) != 0 {
			t.Errorf("%s: Bitmap() = %v, RAM() = %v; want none", name, f.Bitmap(), f.RAM())
		}
		if _, err := f.Plan(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: Plan() = %v; want ErrFormat", name, err)
		}
		if err := f.ReadPhys(context.Background(), make([]byte, 8), 0x5000); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: ReadPhys = %v; want ErrFormat", name, err)
		}
	}
	short := opened(t, good[:len(good)-1])
	if err := short.Complete(); !errors.Is(err, ErrFormat) {
		t.Errorf("Complete of a dump whose last page is cut = %v; want ErrFormat", err)
	}
}

// TestCorruptBitmapFrame: a container that is damaged where the bitmap is.
func TestCorruptBitmapFrame(t *testing.T) {
	p, m, _ := scattered(t)
	stored, _ := written(t, p, m, Options{FrameSize: phys.PageSize})
	ref := framesOf(t, opened(t, stored))[2] // 0x2000 to 0x3000
	stored[ref.at+int64(ref.stored)-1] ^= 1
	if f, err := NewFile(bytes.NewReader(stored), int64(len(stored))); !errors.Is(err, ErrFormat) {
		t.Errorf("NewFile = %v, %v; want ErrFormat", f, err)
	}
}

func TestPlanOfOtherDumps(t *testing.T) {
	b := testHeader([]phys.Run{{Base: 1, Pages: 1}})
	b[0xf98] = 4
	if p, err := opened(t, b).Plan(); p != nil || !errors.Is(err, ErrFormat) {
		t.Errorf("Plan of a triage dump = %v, %v; want ErrFormat", p, err)
	}
}
