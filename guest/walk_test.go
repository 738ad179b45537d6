package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"snap/phys"
)

// smallRAM is contiguous physical memory from address 0.
type smallRAM struct {
	b     []byte
	reads int
}

func newSmallRAM(pages int) *smallRAM { return &smallRAM{b: make([]byte, pages<<phys.PageShift)} }

func (m *smallRAM) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	m.reads++
	if err := ctx.Err(); err != nil {
		return err
	}
	if uint64(at) > uint64(len(m.b)) || uint64(len(p)) > uint64(len(m.b))-uint64(at) {
		return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
	}
	copy(p, m.b[at:])
	return nil
}

func (m *smallRAM) ram() phys.Runs {
	return phys.Runs{{Base: 0, Pages: uint64(len(m.b) >> phys.PageShift)}}
}

// set writes entry i of the table at a page number.
func (m *smallRAM) set(page, i int, e uint64) {
	binary.LittleEndian.PutUint64(m.b[page<<phys.PageShift+8*i:], e)
}

const (
	testVA = phys.VirtAddr(0xFFFF_F800_0000_0000) // indexes 0x1F0, 0, 0, 0
	userW  = 1 | 2 | 4
)

// tables is a walk to testVA: PML4 in page 1, then 2, 3 and 4.
func tables() *smallRAM {
	m := newSmallRAM(1024)
	m.set(1, 0x1F0, 2<<12|userW)
	m.set(2, 0, 3<<12|userW)
	m.set(3, 0, 4<<12|userW)
	m.set(4, 0, 9<<12|userW)
	m.set(4, 1, 10<<12|userW)
	m.set(4, 2, 8<<12|userW)
	return m
}

// translation is what a walk of edited tables comes to.
type translation struct {
	name  string
	edit  func(m *smallRAM)
	va    phys.VirtAddr
	want  Mapping
	class error
	level int
}

func TestTranslate(t *testing.T) {
	tests := []translation{
		{
			"4 KiB", nil, testVA + 0x123,
			Mapping{Addr: 0x9123, Size: 0x1000, Writable: true, User: true},
			nil, 0,
		},
		{
			"read-only at one level, supervisor at another, NX at a third",
			func(m *smallRAM) {
				m.set(1, 0x1F0, 2<<12|1|4)
				m.set(2, 0, 3<<12|1|2)
				m.set(3, 0, 4<<12|userW|1<<63)
			},
			testVA,
			Mapping{Addr: 0x9000, Size: 0x1000, NX: true},
			nil, 0,
		},
		{
			"frame number up to bit 51, software bits above it",
			func(m *smallRAM) { m.set(4, 0, 0x7FF0_0000_0000_0000|0x000F_FFFF_FFFF_F000|userW) }, testVA + 1,
			Mapping{Addr: 0x000F_FFFF_FFFF_F001, Size: 0x1000, Writable: true, User: true},
			nil, 0,
		},
		{
			"2 MiB, with the PAT bit",
			func(m *smallRAM) { m.set(3, 0, 0x20_0000|1<<12|userW|0x80) }, testVA + 0x12_3456,
			Mapping{Addr: 0x32_3456, Size: 2 << 20, Writable: true, User: true},
			nil, 0,
		},
		{
			"1 GiB",
			func(m *smallRAM) { m.set(2, 0, 0x4000_0000|userW|0x80) }, testVA + 0x1234_5678,
			Mapping{Addr: 0x5234_5678, Size: 1 << 30, Writable: true, User: true},
			nil, 0,
		},
		{
			"transition page",
			func(m *smallRAM) { m.set(4, 0, 9<<12|1<<11|4<<5) }, testVA + 8,
			Mapping{Addr: 0x9008, Size: 0x1000, Writable: true, User: true, Transition: true},
			nil, 0,
		},
		{
			"transition table",
			func(m *smallRAM) { m.set(3, 0, 4<<12|1<<11) }, testVA + 8,
			Mapping{Addr: 0x9008, Size: 0x1000, Writable: true, User: true, Transition: true},
			nil, 0,
		},
		{"transition frame outside of RAM", func(m *smallRAM) { m.set(4, 0, 1<<40|1<<11) }, testVA, Mapping{}, ErrNotPresent, 1},
		{"prototype", func(m *smallRAM) { m.set(4, 0, 9<<12|1<<11|1<<10) }, testVA, Mapping{}, ErrNotPresent, 1},
		{"page file", func(m *smallRAM) { m.set(4, 0, 77<<32) }, testVA, Mapping{}, ErrNotPresent, 1},
		{"no PML4 entry", nil, 0xFFFF_8000_0000_0000, Mapping{}, ErrNotPresent, 4},
		{"no PDPT entry", nil, testVA + 1<<30, Mapping{}, ErrNotPresent, 3},
		{"no PD entry", nil, testVA + 2<<20, Mapping{}, ErrNotPresent, 2},
		{"large page in the PML4", func(m *smallRAM) { m.set(1, 0x1F0, 2<<12|userW|0x80) }, testVA, Mapping{}, ErrMalformed, 4},
		{"table outside of RAM", func(m *smallRAM) { m.set(2, 0, 1<<40|userW) }, testVA, Mapping{}, phys.ErrNotRAM, 2},
	}
	testTranslations(t, &fourLevels, append(tests, []translation{
		{"transition bit in the PML4", func(m *smallRAM) { m.set(1, 0x1F0, 2<<12|1<<11) }, testVA, Mapping{}, ErrNotPresent, 4},
		{"not canonical", nil, 0x8000_0000_0000, Mapping{}, ErrNotCanonical, 0},
	}...))
	testTranslations(t, &fiveLevels, append(tests, []translation{
		{"no PML5 entry", nil, 0xFF00_0000_0000_0000, Mapping{}, ErrNotPresent, 5},
		{"an address that 4 levels can't express", func(m *smallRAM) { m.set(6, 0x100, 1<<12|userW) }, 0xFF00_F800_0000_0123, Mapping{Addr: 0x9123, Size: 0x1000, Writable: true, User: true}, nil, 0},
		{"large page in the PML5", func(m *smallRAM) { m.set(6, 0x1FF, 1<<12|userW|0x80) }, testVA, Mapping{}, ErrMalformed, 5},
		{"transition bit in the PML5", func(m *smallRAM) { m.set(6, 0x1FF, 1<<12|1<<11) }, testVA, Mapping{}, ErrNotPresent, 5},
		{"not canonical", nil, 0xFE00_0000_0000_0000, Mapping{}, ErrNotCanonical, 0},
	}...))
}

// testTranslations holds walks of tables by p, whose PML5 is in page 6, against what
// they come to.
func testTranslations(t *testing.T, p *Paging, tests []translation) {
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%v, %s", p, tt.name), func(t *testing.T) {
			m := tables()
			root := phys.Addr(0x1ABC)
			if p == &fiveLevels {
				root = 0x6ABC
				m.set(6, 0x1FF, 1<<12|userW)
			}
			if tt.edit != nil {
				tt.edit(m)
			}
			got, err := AMD64().AddressSpace(p, m, m.ram(), root).Translate(t.Context(), tt.va)
			if !errors.Is(err, tt.class) {
				t.Fatalf("Translate(%#x) error = %v; want class %v", uint64(tt.va), err, tt.class)
			}
			if te, ok := errors.AsType[*TranslateError](err); ok != (tt.class != nil) || ok && (te.Level != tt.level || te.At != tt.va) {
				t.Errorf("Translate(%#x) error = %#v; want level %d", uint64(tt.va), te, tt.level)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Translate(%#x) (-want +got):\n%s", uint64(tt.va), diff)
			}
		})
	}
}

func TestReadVirt(t *testing.T) {
	m := tables()
	for i := range m.b[0x8000:0xB000] {
		m.b[0x8000+i] = byte(i>>8 ^ i*7)
	}
	s := NewAddressSpace(m, m.ram(), 0x1000)
	memory := bytes.Join([][]byte{m.b[0x9000:0xB000], m.b[0x8000:0x9000]}, nil) // as the tables order it
	for _, tt := range []struct{ off, n int }{{0, 0}, {0, 1}, {0xFFF, 2}, {0x10, 0x1FF0}, {0x1FFF, 2}, {0, 0x3000}} {
		got := make([]byte, tt.n)
		if err := s.ReadVirt(t.Context(), got, testVA+phys.VirtAddr(tt.off)); err != nil || !bytes.Equal(got, memory[tt.off:tt.off+tt.n]) {
			t.Errorf("ReadVirt(%#x+%#x) is wrong, error %v", tt.off, tt.n, err)
		}
	}
	// The first two pages follow each other in RAM, the third doesn't.
	m.reads = 0
	if err := s.ReadVirt(t.Context(), make([]byte, 0x3000), testVA); err != nil || m.reads != 2 {
		t.Errorf("ReadVirt of 3 pages made %d reads, error %v; want 2", m.reads, err)
	}

	m.set(4, 4, 1<<40|userW) // device memory, perhaps
	m.set(3, 511, 0x3F_F000|userW)
	s.Drop()
	for _, tt := range []struct {
		name  string
		at    phys.VirtAddr
		n     int
		class error
	}{
		{"into a page that isn't there", testVA + 0x2FFF, 2, ErrNotPresent},
		{"page outside of RAM", testVA + 0x4000, 1, phys.ErrNotRAM},
		{"not canonical", 0x7FFF_FFFF_FFFF_0000, 1, ErrNotCanonical},
		{"from one half into the other", 0x7FFF_FFFF_FFFF, 2, ErrNotCanonical},
		{"over the top", ^phys.VirtAddr(0), 2, ErrNotCanonical},
	} {
		if err := s.ReadVirt(t.Context(), make([]byte, tt.n), tt.at); !errors.Is(err, tt.class) {
			t.Errorf("%s: ReadVirt error = %v; want class %v", tt.name, err, tt.class)
		}
	}
}

// What isn't in the RAM map is never read, even where a reader would: it may
// be a device.
func TestOnlyRAMIsRead(t *testing.T) {
	m := tables()
	m.set(4, 3, 0x20<<12|userW)
	m.set(4, 4, 0x1F<<12|userW)
	m.set(4, 5, 0x20<<12|userW)
	m.set(2, 5, 0x20<<12|userW)
	s := NewAddressSpace(m, phys.Runs{{Base: 0, Pages: 0x20}}, 0x1000)
	for _, at := range []phys.VirtAddr{testVA + 0x3000, testVA + 0x4FFF, testVA + 5<<30} {
		if err := s.ReadVirt(t.Context(), make([]byte, 2), at); !errors.Is(err, phys.ErrNotRAM) {
			t.Errorf("ReadVirt(%#x) error = %v; want phys.ErrNotRAM", uint64(at), err)
		}
	}
}

// A page table that is changed is seen as it was until it is dropped.
func TestAddressSpaceKeepsTables(t *testing.T) {
	m := tables()
	s := NewAddressSpace(m, m.ram(), 0x1000)
	translate := func() phys.Addr {
		mapping, err := s.Translate(t.Context(), testVA)
		if err != nil {
			t.Fatal(err)
		}
		return mapping.Addr
	}
	first := translate()
	m.set(4, 0, 0x20<<12|userW)
	if got := translate(); got != first {
		t.Errorf("before Drop: %#x; want %#x", got, first)
	}
	s.Drop()
	if got := translate(); got != 0x20000 {
		t.Errorf("after Drop: %#x; want 0x20000", got)
	}
}

// A table that maps itself at every level ends like any other.
func TestTableThatIsItsOwnTable(t *testing.T) {
	m := newSmallRAM(4)
	for i := range int(fourLevels.entries(1)) {
		m.set(1, i, 1<<12|userW)
	}
	s := NewAddressSpace(m, m.ram(), 0x1000)
	got, err := s.Translate(t.Context(), testVA+0x123)
	want := Mapping{Addr: 0x1123, Size: 0x1000, Writable: true, User: true}
	if err != nil || got != want {
		t.Errorf("Translate = %+v, %v; want %+v", got, err, want)
	}
	if slots, err := s.SelfMapSlots(t.Context()); err != nil || len(slots) != 0 {
		t.Errorf("selfMapSlots = %v, %v; want none, the entries are for user mode", slots, err)
	}
}

func TestMissing(t *testing.T) {
	m := tables()
	s := NewAddressSpace(m, m.ram(), 0x1000)
	for _, tt := range []struct {
		at   phys.VirtAddr
		want uint64
	}{
		{testVA + 0x3010, 0xFF0},
		{testVA + 2<<20 + 0x1000, 2<<20 - 0x1000},
		{testVA + 1<<30, 1 << 30},
		{testVA + 1<<39, 1 << 39},
	} {
		_, err := s.Translate(t.Context(), tt.at)
		if got := missing(err, tt.at); got != tt.want {
			t.Errorf("missing(%v) = %#x; want %#x", err, got, tt.want)
		}
	}
}

func TestReadVirtContext(t *testing.T) {
	m := tables()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := NewAddressSpace(m, m.ram(), 0x1000).ReadVirt(ctx, make([]byte, 1), testVA)
	if diff := cmp.Diff(context.Canceled, err, cmpopts.EquateErrors()); diff != "" {
		t.Errorf("ReadVirt with a cancelled context: %s", diff)
	}
}

func FuzzWalk(f *testing.F) {
	m := tables()
	f.Add(m.b[0x1000:0x5000], uint64(0x1000), uint64(testVA), uint16(100))
	m.set(6, 0x1FF, 1<<12|userW)
	f.Add(append([]byte(nil), m.b[:0x7000]...), uint64(0x6001), uint64(testVA), uint16(100))
	f.Add(bytes.Repeat([]byte{0x07, 0x10, 0, 0, 0, 0, 0, 0}, 512), uint64(0x1000), uint64(testVA), uint16(0x2000))
	for _, e := range []uint64{proto(testVA + 0x2008), 1<<45 | 9<<12 | 1<<11, 0xFFFF_FFFF_0000_0420, 77<<32 | 0x80, proto(testVA)} {
		m.set(4, 0, e)
		m.set(8, 1, 1<<45|0xB<<12|1<<11)
		f.Add(append([]byte(nil), m.b[:0xC000]...), uint64(0x1000), uint64(testVA), uint16(0x1000))
	}
	f.Fuzz(func(t *testing.T, b []byte, root, va uint64, n uint16) {
		// 64 pages of the fuzzer's choice, repeated: entries with small frame
		// numbers lead into them.
		m := newSmallRAM(64)
		for at := 0; len(b) > 0 && at < len(m.b); {
			at += copy(m.b[at:], b)
		}
		p := AMD64().Pagings()[root&1] // the walk takes no heed of the bit
		s := AMD64().AddressSpace(p, m, m.ram(), phys.Addr(root))
		mapping, err := s.Translate(t.Context(), phys.VirtAddr(va))
		if m.reads > 2*p.top+1 { // the tables to it, those to a prototype PTE, and that
			t.Errorf("one translation took %d reads", m.reads)
		}
		fuzzExtent(t, s, phys.VirtAddr(va), mapping, err)
		if err == nil && (mapping.Addr >= phys.MaxAddr || uint64(mapping.Addr)%mapping.Size != va%mapping.Size) {
			t.Errorf("Translate(%#x) = %+v", va, mapping)
		}
		te, ok := errors.AsType[*TranslateError](err)
		if ok != (err != nil) {
			t.Errorf("Translate(%#x) error = %v; want a TranslateError", va, err)
		}
		if err != nil && missing(te, phys.VirtAddr(va)) == 0 {
			t.Errorf("missing(%v) = 0", err)
		}
		read := make([]byte, n)
		readErr := s.ReadVirt(t.Context(), read, phys.VirtAddr(va))
		if n > 0 && readErr == nil && (err != nil || read[0] != m.b[mapping.Addr]) {
			t.Errorf("ReadVirt(%#x) read %#x, Translate: %+v, %v", va, read[0], mapping, err)
		}
		if _, err := readSparse(t.Context(), s, read, phys.VirtAddr(va)); err != nil {
			t.Errorf("readSparse failed: %v", err)
		}
	})
}

// fuzzExtent demands that Extent says the same as Translate.
func fuzzExtent(t *testing.T, s *AddressSpace, va phys.VirtAddr, m Mapping, translateErr error) {
	t.Helper()
	e, err := s.Extent(t.Context(), va)
	resident := err == nil && e.Residence == phys.Resident
	if resident != (translateErr == nil) || resident && e.At != m.Addr {
		t.Errorf("Extent(%#x) = %+v, %v; Translate: %+v, %v", uint64(va), e, err, m, translateErr)
	}
	if err == nil && (e.Size == 0 || uint64(va)+e.Size-1 < uint64(va)) {
		t.Errorf("Extent(%#x) = %+v", uint64(va), e)
	}
	if err != nil {
		return
	}
	// The last byte of it is as the first.
	last, err := s.Extent(t.Context(), va+phys.VirtAddr(e.Size-1))
	if err != nil || last.Residence != e.Residence || resident && last.At != e.At+phys.Addr(e.Size-1) {
		t.Errorf("Extent(%#x) = %+v, but of its last byte %+v, %v", uint64(va), e, last, err)
	}
}
