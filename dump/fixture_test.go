package dump

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"snap/phys"
	"snap/store"
)

// fakeMemory is a guest's memory whose pages are made up from their numbers:
// some zero, some repetitive, some random.
type fakeMemory struct {
	ram   phys.Runs
	bad   map[phys.PFN]error // pages that fail to read
	fatal error              // if set, every read fails with it
	reads func(r phys.Run)   // called before each read
}

var errBadPage = errors.New("bad page")

func fakePage(p phys.PFN) []byte {
	b := make([]byte, phys.PageSize)
	r := rand.New(rand.NewPCG(uint64(p), 1))
	switch r.IntN(3) {
	case 0:
	case 1:
		copy(b, bytes.Repeat([]byte("structure "), 400))
		binary.LittleEndian.PutUint64(b[r.IntN(phys.PageSize-8):], uint64(p))
	case 2:
		for i := 0; i < len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
	}
	return b
}

func (m *fakeMemory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, ok := phys.RunOf(at, uint64(len(p)))
	if m.reads != nil {
		m.reads(r)
	}
	if m.fatal != nil {
		return m.fatal
	}
	if !ok || !m.ram.Covers(at, uint64(len(p))) {
		return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
	}
	for i := range p {
		p[i] = 0xee // what a reader leaves behind before it fails
	}
	for pfn := r.Base; pfn < r.End(); pfn++ {
		if err := m.bad[pfn]; err != nil {
			return &phys.AccessError{At: at, Len: len(p), Err: err}
		}
		copy(p[uint64(pfn-r.Base)*phys.PageSize:], fakePage(pfn))
	}
	return nil
}

// testHeader makes the bytes of a 64-bit type 1 header by hand.
func testHeader(runs []phys.Run) []byte {
	b := bytes.Repeat([]byte("PAGE"), 0x2000/4)
	le := binary.LittleEndian
	copy(b[4:], "DU64")
	le.PutUint64(b[0x10:], 0x1ad000)
	le.PutUint32(b[0x30:], 0x8664)
	le.PutUint32(b[0x34:], 1)
	le.PutUint32(b[0x88:], uint32(len(runs)))
	var pages uint64
	for i, r := range runs {
		le.PutUint64(b[0x98+16*i:], uint64(r.Base))
		le.PutUint64(b[0xa0+16*i:], r.Pages)
		pages += r.Pages
	}
	le.PutUint64(b[0x90:], pages)
	le.PutUint32(b[0xf98:], 1)
	le.PutUint64(b[0xfa0:], 0x2000+pages*phys.PageSize)
	return b
}

// bitmapHeader makes the bytes ahead of the first page of a 64-bit type 5 dump
// by hand.
func bitmapHeader(runs []phys.Run) []byte {
	le := binary.LittleEndian
	b := testHeader(nil)
	clear(b[0x88:0x344])
	le.PutUint32(b[0xf98:], 5)
	var end, pages uint64
	for _, r := range runs {
		end, pages = uint64(r.End()), pages+r.Pages
	}
	bits := (end + 63) / 64 * 64
	first := (0x2038 + bits/8 + 0xfff) / 0x1000 * 0x1000
	le.PutUint64(b[0xfa0:], first+pages*phys.PageSize)
	b = append(b, make([]byte, first-0x2000)...)
	copy(b[0x2000:], "FDMPDUMP")
	le.PutUint64(b[0x2020:], first)
	le.PutUint64(b[0x2028:], pages)
	le.PutUint64(b[0x2030:], bits)
	for _, r := range runs {
		for p := r.Base; p < r.End(); p++ {
			b[0x2038+p/8] |= 1 << (p % 8)
		}
	}
	return b
}

// expected is the dump that p must give, made page by page without regard to
// cost.
func expected(p *Plan, m *fakeMemory) []byte {
	out := bytes.Clone(p.Header)
	at := map[phys.PFN]int{}
	for _, r := range p.Runs {
		for pfn := r.Base; pfn < r.End(); pfn++ {
			at[pfn] = len(out)
			page := make([]byte, phys.PageSize)
			if (p.Populated == nil || p.Populated.Has(pfn)) && m.bad[pfn] == nil && m.ram.Has(pfn) {
				page = fakePage(pfn)
			}
			out = append(out, page...)
		}
	}
	for _, o := range p.Overlays {
		for i, c := range o.Data {
			a := o.At + phys.Addr(i)
			out[at[a.PFN()]+int(a.Offset())] = c
		}
	}
	return out
}

// smallPlan is a plan of a few hundred pages with holes between its runs, and
// the memory for it.
func smallPlan(t testing.TB) (*Plan, *fakeMemory) {
	t.Helper()
	runs := []phys.Run{{Base: 1, Pages: 0x9e}, {Base: 0x100, Pages: 0x200}, {Base: 0x400, Pages: 0x13}}
	ram, err := phys.NewRuns(phys.Run{Base: 0, Pages: 0x1000})
	if err != nil {
		t.Fatal(err)
	}
	p := &Plan{
		Header: testHeader(runs),
		Runs:   runs,
		Overlays: []Overlay{
			{At: 0x100ff8, Data: []byte("straddles two pages"), What: "first"},
			{At: 0x412000 + 4090, Data: []byte("ending"), What: "at the very end"},
		},
	}
	return p, &fakeMemory{ram: ram}
}

// written is what Write makes of a plan.
func written(t testing.TB, p *Plan, m phys.Reader, o Options) ([]byte, *Stats) {
	t.Helper()
	var out bytes.Buffer
	s, err := Write(context.Background(), &out, m, p, o)
	if err != nil {
		t.Fatalf("Write failed: %v", err)
	}
	return out.Bytes(), s
}

// storeFile begins the file f in a folder.
func storeFile(t testing.TB, folder string, o store.Options) store.File {
	t.Helper()
	f, err := store.Folder(folder, o).Create(context.Background(), "f")
	if err != nil {
		t.Fatalf("Create failed: %v", err)
	}
	t.Cleanup(func() { _ = f.Abort() })
	return f
}

// stdoutFile begins the file that goes to w as standard output.
func stdoutFile(t testing.TB, w io.Writer) store.File {
	t.Helper()
	p, name, err := store.Open("-", store.Options{Stdout: w})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	f, err := p.Create(context.Background(), name)
	if err != nil {
		t.Fatalf("Create failed: %v", err)
	}
	return f
}

// opened is the File over the bytes of a dump.
func opened(t testing.TB, b []byte) *File {
	t.Helper()
	f, err := NewFile(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatalf("NewFile failed: %v", err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Errorf("Close failed: %v", err)
		}
	})
	return f
}

// sameBytes fails with the first place where two files differ.
func sameBytes(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if bytes.Equal(got, want) {
		return
	}
	n := min(len(got), len(want))
	for i := range n {
		if got[i] != want[i] {
			t.Fatalf("%s: byte %#x = %#x; want %#x (lengths %d; want %d)", what, i, got[i], want[i], len(got), len(want))
		}
	}
	t.Fatalf("%s: length %d; want %d", what, len(got), len(want))
}

// framesOf returns all frames of a dump.
func framesOf(t testing.TB, f *File) []frameRef {
	t.Helper()
	table := f.body.(*framedBody).table
	frames := make([]frameRef, table.count)
	for i := range frames {
		var err error
		if frames[i], err = table.frame(i); err != nil {
			t.Fatal(err)
		}
	}
	return frames
}

// encodeSeekTable returns the frame that ends a file of these entries.
func encodeSeekTable(entries []entry) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0x184D2A5E)
	b = le.AppendUint32(b, uint32(12*len(entries)+9))
	for _, e := range entries {
		b = le.AppendUint32(b, e.stored)
		b = le.AppendUint32(b, e.expanded)
		b = le.AppendUint32(b, e.sum)
	}
	b = append(le.AppendUint32(b, uint32(len(entries))), 0x80)
	return le.AppendUint32(b, 0x8F92EAB1)
}
