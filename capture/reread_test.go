package capture

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"snap/phys"
)

// twoTimes is RAM that a test gives other contents between two readings.
type twoTimes struct {
	fakeMemory
	populated phys.Runs
	known     bool
	read      map[phys.PFN]int // with one worker only
}

func (m *twoTimes) Populated(context.Context) (phys.Runs, bool, error) {
	if !m.known {
		return m.ram, false, nil
	}
	return m.populated, true, nil
}

func (m *twoTimes) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	r, _ := phys.RunOf(at, uint64(len(p)))
	for pfn := r.Base; pfn < r.End(); pfn++ {
		m.read[pfn]++
	}
	return m.fakeMemory.ReadPhys(ctx, p, at)
}

// drawSet draws some of the first n pages.
func drawSet(t *rapid.T, n int, label string) phys.Runs {
	var runs []phys.Run
	for i, in := range rapid.SliceOfN(rapid.Bool(), n, n).Draw(t, label) {
		if in {
			runs = append(runs, phys.Run{Base: phys.PFN(i), Pages: 1})
		}
	}
	s, err := phys.NewRuns(runs...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// drawState fills m's populated pages with one of three contents, zeros among
// them, and breaks a few.
func (m *twoTimes) drawState(t *rapid.T, label string) {
	m.populated = drawSet(t, int(m.ram.Pages()), label+" populated")
	m.broken, m.read = map[phys.PFN]error{}, map[phys.PFN]int{}
	clear(m.bytes)
	for _, r := range m.populated {
		for p := r.Base; p < r.End(); p++ {
			if n := rapid.IntRange(0, 8).Draw(t, label); n == 8 {
				m.broken[p] = errors.New("broken")
			} else {
				copy(m.bytes[p.Addr():], bytes.Repeat([]byte{byte(n % 3)}, phys.PageSize))
			}
		}
	}
}

// TestChangedIsWhatDiffers compares a guest's pages at two times, by way of a
// copy and by way of notes: what is reported must be just the pages that
// differ.
func TestChangedIsWhatDiffers(t *testing.T) {
	const pages = 40
	rapid.Check(t, func(t *rapid.T) {
		m := &twoTimes{known: rapid.Bool().Draw(t, "known")}
		m.ram, m.bytes = phys.Runs{{Base: 0, Pages: pages}}, make([]byte, pages<<phys.PageShift)
		within := drawSet(t, pages, "pages of the dump")

		m.drawState(t, "first")
		before, _, _ := m.Populated(t.Context())
		had, gaps := slices.Clone(m.bytes), m.broken
		memory, err := newHostMemory(before.Pages() << phys.PageShift)
		if err != nil {
			t.Fatal(err)
		}
		copied, err := newMemoryCopy(memory, m, before, m.known)
		if err != nil {
			t.Fatal(err)
		}
		defer copied.Close()
		if err := copied.fill(t.Context(), m, 1); err != nil {
			t.Fatal(err)
		}
		noted := newNotedMemory(m)
		noted.begin(before.Intersect(within))
		page := make([]byte, phys.PageSize)
		for _, r := range noted.index.Set() {
			for p := r.Base; p < r.End(); p++ {
				if err := noted.ReadPhys(t.Context(), page, p.Addr()); (err != nil) != (gaps[p] != nil) {
					t.Fatalf("ReadPhys(page %d) = %v; want %v", p, err, gaps[p])
				}
			}
		}

		m.drawState(t, "second")
		want := map[phys.PFN]bool{}
		for p := range phys.PFN(pages) {
			at := p.Addr()
			if gaps[p] == nil && (m.broken[p] != nil || !bytes.Equal(had[at:at+phys.PageSize], m.bytes[at:at+phys.PageSize])) {
				want[p] = true
			}
		}
		check := func(path string, among phys.Runs, got phys.Runs, err error) {
			if err != nil {
				t.Fatal(err)
			}
			for p := range phys.PFN(pages) {
				if got.Has(p) != (want[p] && among.Has(p)) {
					t.Fatalf("%s: page %d changed = %v; want %v", path, p, got.Has(p), want[p])
				}
			}
			now, known, _ := m.Populated(t.Context())
			for p := range m.read {
				if known && !now.Has(p) {
					t.Fatalf("%s: page %d was read, which is not populated", path, p)
				}
			}
			clear(m.read)
		}
		got, err := reread(t.Context(), m, m.ram, before, (&stableMemory{Memory: copied}).same, 1)
		check("copy", m.ram, got, err)
		got, err = reread(t.Context(), m, within, noted.index.Set(), noted.same, 1)
		check("notes", within, got, err)
	})
}

// TestSettledPopulated demands that a page of the later copy is read, also if the
// host had not populated it before.
func TestSettledPopulated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const pages = 24
		m := &twoTimes{known: true}
		m.ram, m.bytes = phys.Runs{{Base: 0, Pages: pages}}, make([]byte, pages<<phys.PageShift)
		m.drawState(t, "later")
		memory, err := newHostMemory(m.populated.Pages() << phys.PageShift)
		if err != nil {
			t.Fatal(err)
		}
		core, err := newMemoryCopy(memory, m, m.populated, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := core.fill(t.Context(), m, 1); err != nil {
			t.Fatal(err)
		}
		later, broken := m.populated, m.broken
		m.drawState(t, "before")
		s := &stableMemory{Memory: m}
		if err := s.replace(core); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		got, known, err := s.Populated(t.Context())
		if err != nil || !known {
			t.Fatalf("Populated() = %v, %v", known, err)
		}
		for p := range phys.PFN(pages) {
			if want := m.populated.Has(p) || later.Has(p) && broken[p] == nil; got.Has(p) != want {
				t.Fatalf("page %d populated = %v; want %v", p, got.Has(p), want)
			}
		}
	})
}

// TestSettledMemory reads across pages that are of a later copy and pages that
// are not: each must be of the right one, and a later one that could not be read
// must not take an earlier one's place.
func TestSettledMemory(t *testing.T) {
	const pages = 24
	rapid.Check(t, func(t *rapid.T) {
		ram := phys.Runs{{Base: 0, Pages: pages}}
		old := &fakeMemory{ram: ram, bytes: bytes.Repeat([]byte{1}, pages<<phys.PageShift), broken: map[phys.PFN]error{}}
		late := &fakeMemory{ram: ram, bytes: bytes.Repeat([]byte{2}, pages<<phys.PageShift), broken: map[phys.PFN]error{}}
		for _, m := range []*fakeMemory{old, late} {
			for _, r := range drawSet(t, pages, "broken").Intersect(drawSet(t, pages, "of these")) {
				for p := r.Base; p < r.End(); p++ {
					m.broken[p] = errors.New("broken")
				}
			}
		}
		core := drawSet(t, pages, "core")
		memory, err := newHostMemory(core.Pages() << phys.PageShift)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newMemoryCopy(memory, late, core, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.fill(t.Context(), late, 1); err != nil {
			t.Fatal(err)
		}
		m := &stableMemory{Memory: old}
		if err := m.replace(s); err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		var want []byte
		for p := range phys.PFN(pages) {
			isLate := core.Has(p) && late.broken[p] == nil
			want = append(want, bytes.Repeat([]byte{map[bool]byte{true: 2, false: 1}[isLate]}, phys.PageSize)...)
			fails := !isLate && old.broken[p] != nil
			got := make([]byte, phys.PageSize)
			if err := m.ReadPhys(t.Context(), got, p.Addr()); (err != nil) != fails || err == nil && !bytes.Equal(got, want[p.Addr():]) {
				t.Fatalf("ReadPhys(page %d) = %v, of copy %d; want failure %v, %d", p, err, got[0], fails, want[p.Addr()])
			}
		}
		for range 20 {
			at := rapid.IntRange(0, pages*phys.PageSize-1).Draw(t, "at")
			got := make([]byte, rapid.IntRange(1, pages*phys.PageSize-at).Draw(t, "n"))
			r, _ := phys.RunOf(phys.Addr(at), uint64(len(got)))
			broken := false
			for p := r.Base; p < r.End(); p++ {
				broken = broken || old.broken[p] != nil
			}
			if err := m.ReadPhys(t.Context(), got, phys.Addr(at)); err != nil {
				if !broken {
					t.Fatalf("ReadPhys(%d bytes at %#x) = %v", len(got), at, err)
				}
				continue // as a whole; its pages are read one by one then
			}
			if !bytes.Equal(got, want[at:at+len(got)]) {
				t.Fatalf("ReadPhys(%d bytes at %#x) gave pages of the wrong copy", len(got), at)
			}
		}
	})
}
