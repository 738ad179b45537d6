package capture

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"

	"pgregory.net/rapid"

	"snap/hv"
	"snap/phys"
)

// fakeMemory is RAM in a slice that begins at address 0, some pages of which
// fail to be read.
type fakeMemory struct {
	ram    phys.Runs
	bytes  []byte
	broken map[phys.PFN]error
}

func (m *fakeMemory) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	if !m.ram.Covers(at, uint64(len(p))) {
		return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
	}
	r, ok := phys.RunOf(at, uint64(len(p)))
	for pfn := r.Base; ok && pfn < r.End(); pfn++ {
		if err := m.broken[pfn]; err != nil {
			return &phys.AccessError{At: max(at, pfn.Addr()), Len: len(p), Err: err}
		}
	}
	copy(p, m.bytes[at:])
	return nil
}

func (*fakeMemory) Mechanism() hv.Mechanism { return "fake" }

func (m *fakeMemory) RAM() phys.Runs { return m.ram }

func (m *fakeMemory) Populated(context.Context) (phys.Runs, bool, error) { return m.ram, false, nil }

func (*fakeMemory) Close() error { return nil }

// layouts are those that a copy of so many pages can have.
func layouts(t require, pages uint64) map[string]copyLayout {
	t.Helper()
	all := map[string]copyLayout{}
	for name, room := range map[string]uint64{"flat": pages, "packed": packedRoom(pages, 3)} {
		memory, err := newHostMemory(room << phys.PageShift)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = flatLayout(memory)
		if name == "packed" {
			all[name] = newPackedLayout(memory, pages)
		}
	}
	return all
}

// require is a test of any kind.
type require interface {
	Helper()
	Fatal(args ...any)
}

// TestSpoolReadsLikeTheMemory holds any read of a spool against the memory that
// it is a copy of.
func TestSpoolReadsLikeTheMemory(t *testing.T) {
	const pages = 200 // more than three pieces of a packed one
	errBroken, errWorse := errors.New("broken"), errors.New("worse")
	rapid.Check(t, func(t *rapid.T) {
		ram := drawSet(t, pages, "ram")
		populated := drawSet(t, pages, "populated").Intersect(ram)
		m := &fakeMemory{ram: ram, bytes: make([]byte, pages*phys.PageSize), broken: map[phys.PFN]error{}}
		for _, r := range populated {
			for p := r.Base; p < r.End(); p++ {
				copy(m.bytes[p.Addr():], bytes.Repeat([]byte{byte(p) + 1, byte(p) ^ 0x55}, phys.PageSize/2))
				switch rapid.IntRange(0, 9).Draw(t, "state") {
				case 0:
					m.broken[p] = errBroken
				case 1:
					m.broken[p] = errWorse
				case 2, 3:
					clear(m.bytes[p.Addr():][:phys.PageSize])
				case 4: // all but the last byte
					clear(m.bytes[p.Addr():][:phys.PageSize-1])
				}
			}
		}
		for name, l := range layouts(t, populated.Pages()) {
			s := newMemoryCopyIn(l, m, populated, true)
			if err := s.fill(context.Background(), m, 3); err != nil {
				t.Fatal(name, err)
			}
			readsLike(t, name, s, m)
			if err := s.Close(); err != nil {
				t.Fatal(name, err)
			}
		}
	})
}

// readsLike holds reads and pages of a copy against the memory that it is of.
func readsLike(t *rapid.T, name string, s *memoryCopy, m *fakeMemory) {
	for range 20 {
		at := rapid.IntRange(0, len(m.bytes)).Draw(t, "at")
		n := rapid.IntRange(0, 6*phys.PageSize).Draw(t, "n")
		got, want := make([]byte, n), make([]byte, n)
		errGot := s.ReadPhys(context.Background(), got, phys.Addr(at))
		errWant := m.ReadPhys(context.Background(), want, phys.Addr(at))
		if (errGot == nil) != (errWant == nil) {
			t.Fatalf("%s: ReadPhys(%d bytes at %#x) = %v; want %v", name, n, at, errGot, errWant)
		}
		if errWant == nil {
			if !bytes.Equal(got, want) {
				t.Fatalf("%s: ReadPhys(%d bytes at %#x) gave other bytes than the memory", name, n, at)
			}
			continue
		}
		g, ok1 := errors.AsType[*phys.AccessError](errGot)
		w, ok2 := errors.AsType[*phys.AccessError](errWant)
		if !ok1 || !ok2 || g.At != w.At || !errors.Is(g.Err, w.Err) {
			t.Fatalf("%s: ReadPhys(%d bytes at %#x) = %v; want %v", name, n, at, errGot, errWant)
		}
	}
	for p := range phys.PFN(len(m.bytes) >> phys.PageShift) {
		got, ok := s.page(p)
		if want := m.bytes[p.Addr():][:phys.PageSize]; got != nil && !bytes.Equal(got, want) || ok != (m.broken[p] == nil) {
			t.Fatalf("%s: page %#x = other bytes, or %v; want %v", name, uint64(p), ok, m.broken[p] == nil)
		}
	}
}

// TestSpoolClosed demands an error instead of a fault once the memory is given
// back.
func TestSpoolClosed(t *testing.T) {
	ram := phys.Runs{{Base: 0, Pages: 4}}
	memory, err := newHostMemory(4 << phys.PageShift)
	if err != nil {
		t.Fatal(err)
	}
	if err := memory.populate(); err != nil {
		t.Fatal(err)
	}
	s, err := newMemoryCopy(memory, &fakeMemory{ram: ram, bytes: make([]byte, 4<<phys.PageShift)}, ram, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if err := s.ReadPhys(t.Context(), make([]byte, 16), 0x1000); !errors.Is(err, os.ErrClosed) {
		t.Errorf("ReadPhys() of a closed spool = %v; want os.ErrClosed", err)
	}
}
