package verify

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"snap/dump"
	"snap/header"
	"snap/internal/ntlab"
	"snap/phys"
)

// detail is what a check says that must have passed.
func detail(t *testing.T, r *Report, name string) string {
	t.Helper()
	if !r.OK || len(r.Skipped) > 0 || len(r.Unmeant()) > 0 {
		t.Fatalf("found %+v, skipped %q; want nothing that snap doesn't mean", r.Unmeant(), r.Skipped)
	}
	for _, c := range r.Checks {
		if c.Name == name {
			return c.Detail
		}
	}
	t.Fatalf("%q was not made", name)
	return ""
}

// marked puts n pages with a marker into the guest, and returns every step-th
// of them as single pages, and the marker. The others are blanked.
func (l *lab) marked(t *testing.T, n, step int) (phys.Runs, []byte) {
	t.Helper()
	marks, err := l.Mark(n, ntlab.MarkSmall)
	if err != nil {
		t.Fatal(err)
	}
	var pages []phys.Run
	for i, pfn := range marks[0].PFNs {
		if i%step == 0 {
			pages = append(pages, phys.Run{Base: pfn, Pages: 1})
		} else if err := l.WritePhys(pfn.Addr(), make([]byte, phys.PageSize)); err != nil {
			t.Fatal(err)
		}
	}
	runs, err := phys.NewRuns(pages...)
	if err != nil {
		t.Fatal(err)
	}
	l.plan.Populated = l.Populated()
	return runs, marks[0].Marker
}

// pagesOf reads an expanded dump literally, by the offsets of its format.
func pagesOf(t *testing.T, b []byte) map[phys.PFN][]byte {
	t.Helper()
	le := binary.LittleEndian
	pages := map[phys.PFN][]byte{}
	var at uint64
	take := func(pfn phys.PFN) {
		pages[pfn] = b[at : at+4096]
		at += 4096
	}
	if string(b[:8]) != "PAGEDU64" {
		t.Fatalf("the dump begins with %q", b[:8])
	}
	switch kind := le.Uint32(b[0xf98:]); kind {
	case 1:
		at = 0x2000
		for i := range le.Uint32(b[0x88:]) {
			base, n := le.Uint64(b[0x98+16*i:]), le.Uint64(b[0xa0+16*i:])
			for p := range n {
				take(phys.PFN(base + p))
			}
		}
	case 5:
		at = le.Uint64(b[0x2020:])
		count, bits := le.Uint64(b[0x2028:]), le.Uint64(b[0x2030:])
		if string(b[0x2000:0x2008]) != "FDMPDUMP" || at%4096 != 0 || bits%64 != 0 {
			t.Fatalf("bitmap header % x", b[0x2000:0x2038])
		}
		for i := range bits {
			if b[0x2038+i/8]&(1<<(i%8)) != 0 {
				take(phys.PFN(i))
			}
		}
		if uint64(len(pages)) != count {
			t.Fatalf("%d pages; the header says %d", len(pages), count)
		}
	default:
		t.Fatalf("dump type %d", kind)
	}
	if at != uint64(len(b)) || at != le.Uint64(b[0xfa0:]) {
		t.Fatalf("the pages end at %#x of %#x bytes; RequiredDumpSpace is %#x", at, len(b), le.Uint64(b[0xfa0:]))
	}
	return pages
}

// expanded is the plain dump in a stored one.
func expanded(t *testing.T, stored []byte) (plain, metadata []byte) {
	t.Helper()
	f, err := dump.NewFile(bytes.NewReader(stored), int64(len(stored)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	out, err := os.Create(filepath.Join(t.TempDir(), "expanded"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	if _, err := dump.Expand(context.Background(), f, out, nil); err != nil {
		t.Fatalf("Expand failed: %v", err)
	}
	if plain, err = os.ReadFile(out.Name()); err != nil {
		t.Fatal(err)
	}
	return plain, f.Metadata()
}

// holdsAllBut compares a dump with the guest: every page is there and the same
// but the removed ones, whose bytes are nowhere.
func (l *lab) holdsAllBut(t *testing.T, plain []byte, removed phys.Runs) {
	t.Helper()
	pages := pagesOf(t, plain)
	overlaid := map[phys.PFN]bool{}
	for _, o := range l.plan.Overlays {
		overlaid[o.At.PFN()] = true
	}
	want := make([]byte, phys.PageSize)
	for _, r := range l.Truth.Runs {
		for pfn := r.Base; pfn < r.End(); pfn++ {
			got, ok := pages[pfn]
			if ok == removed.Has(pfn) {
				t.Fatalf("page %#x is in the dump: %v", uint64(pfn), ok)
			}
			if !ok || overlaid[pfn] {
				continue
			}
			if err := l.ReadPhys(context.Background(), want, pfn.Addr()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("page %#x differs from the guest's", uint64(pfn))
			}
		}
	}
}

// TestRemovedPages: dumps of guests that ask for pages to be left out.
func TestRemovedPages(t *testing.T) {
	tests := []struct {
		name           string
		memory         uint64
		pages, step    int
		dumpType       byte
		runs           int // at least
		detail, notice string
	}{
		{"30 pages", labMemory, 60, 2, 1, 25, CheckRuns, ""},
		{"38 pages", labMemory, 76, 2, 1, header.PortableRuns + 1, CheckMemflowRuns, "it stops at 32"},
		{"60 pages", labMemory, 120, 2, 5, header.MaxRuns + 1, CheckBitmap, ""},
		{"10,000 pages", 128 << 20, 20000, 2, 5, 5000, CheckBitmap, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, ntlab.Config{Memory: tt.memory})
			removed, marker := l.marked(t, tt.pages, tt.step)
			l.remove(t, removed)
			if len(l.plan.Runs) < tt.runs || removed.Pages() != uint64(tt.pages/tt.step) {
				t.Fatalf("%d runs without %d pages; want at least %d runs", len(l.plan.Runs), removed.Pages(), tt.runs)
			}
			for _, c := range []dump.Compression{dump.CompressionZstd, dump.CompressionGzip, dump.CompressionNone} {
				stored := l.write(t, dump.Options{Compression: c, Metadata: func(s *dump.Stats) ([]byte, error) { return json.Marshal(s) }})
				d := detail(t, verified(t, stored, Options{}), tt.detail)
				if strings.Contains(d, "stops") != (tt.notice != "") || !strings.Contains(d, tt.notice) {
					t.Errorf("%s: %s: %s; want to read %q", c, tt.detail, d, tt.notice)
				}
				plain, metadata := expanded(t, stored)
				if plain[0xf98] != tt.dumpType {
					t.Errorf("%s: type %d; want %d", c, plain[0xf98], tt.dumpType)
				}
				l.holdsAllBut(t, plain, removed)
				for what, b := range map[string][]byte{"expanded dump": plain, "metadata": metadata, "file": stored} {
					if at := bytes.Index(b, marker[:8]); at >= 0 {
						t.Errorf("%s: the %s has a removed page's marker at %#x", c, what, at)
					}
				}
			}
		})
	}
}

// TestMarkerIsFound: the search above would find what was not removed.
func TestMarkerIsFound(t *testing.T) {
	l := newLab(t, ntlab.Config{})
	removed, marker := l.marked(t, 60, 2)
	l.plan.Header = l.header(t, l.plan.Runs)
	plain, _ := expanded(t, l.write(t, dump.Options{}))
	l.holdsAllBut(t, plain, nil)
	if !bytes.Contains(plain, marker[:8]) || removed.Pages() != 30 {
		t.Error("a dump with all pages has no marker")
	}
}

// TestRemovedPageTable: a page that readers need is missing.
func TestRemovedPageTable(t *testing.T) {
	for name, bitmap := range map[string]bool{"runs": false, "bitmap": true} {
		l := newLab(t, ntlab.Config{})
		marks, err := l.Mark(2048, ntlab.MarkSmall) // more than one page table maps
		if err != nil {
			t.Fatal(err)
		}
		l.plan.Populated = l.Populated()
		entry, ok := l.EntryAddr(marks[0].VA+1024*phys.PageSize, 1)
		if !ok {
			t.Fatal("marked pages have no page table")
		}
		l.remove(t, phys.Runs{{Base: entry.PFN(), Pages: 1}})
		if bitmap {
			l.bitmap(t)
		}
		findsOnly(t, name, CheckPageTables, verified(t, l.write(t, dump.Options{}), Options{}), CheckRadare2Bitmap)
	}
}

// TestFirstPageBeyondReaders: a guest with memory at 512 GiB is dumped, and what
// reader's limit that passes is said.
func TestFirstPageBeyondReaders(t *testing.T) {
	for base, beyond := range map[phys.PFN]bool{1<<27 - 1: true, 1<<27 - 1<<17: false} {
		l := newLab(t, ntlab.Config{})
		l.plan.Runs = append(append([]phys.Run{}, l.plan.Runs...), phys.Run{Base: base, Pages: 1})
		l.bitmap(t)
		d := detail(t, verified(t, l.write(t, dump.Options{}), Options{}), CheckLeechCoreFirst)
		if got := strings.Contains(d, "it stops at 0x1000000"); got != beyond {
			t.Errorf("with a page at %#x: %s; want to read of LeechCore: %v", uint64(base), d, beyond)
		}
	}
}
