package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// set32 writes entry i, of 4 bytes, of the table at a page number.
func (m *smallRAM) set32(page, i int, e uint32) {
	binary.LittleEndian.PutUint32(m.b[page<<phys.PageShift+4*i:], e)
}

const (
	testVA32 = phys.VirtAddr(0xFFFF_FFFF_8060_3000) // without PAE indexes 0x201, 0x203; with it 2, 3, 3
	paeRoot  = phys.Addr(0x12E0)
)

// tables32 is a walk to testVA32 without PAE: the directory in page 1, a table in 2.
func tables32() *smallRAM {
	m := newSmallRAM(64)
	m.set32(1, 0x201, 2<<12|userW)
	m.set32(1, 0x300, 1<<12|3)
	m.set32(2, 0x203, 9<<12|userW)
	return m
}

// tablesPAE is a walk to testVA32 with PAE: the row at 0x12E0, among others, directories
// in pages 4 to 7, a table in 8.
func tablesPAE() *smallRAM {
	m := newSmallRAM(64)
	for i := range 4 {
		m.set(1, int(paeRoot.Offset()/8)+i, uint64(4+i)<<12|1)
		m.set(7, i, uint64(4+i)<<12|3)
	}
	m.set(1, int(paeRoot.Offset()/8)-1, 0x3F<<12|1) // of other processes
	m.set(1, int(paeRoot.Offset()/8)+4, 0x3F<<12|1)
	m.set(6, 3, 8<<12|userW)
	m.set(8, 3, 9<<12|userW)
	return m
}

func translate32(t *testing.T, p *Paging, m *smallRAM, root phys.Addr, tests []translation) {
	t.Helper()
	for _, tt := range tests {
		if tt.edit != nil {
			tt.edit(m)
		}
		got, err := X86().AddressSpace(p, m, m.ram(), root).Translate(t.Context(), tt.va)
		if diff := cmp.Diff(tt.want, got); diff != "" || !errors.Is(err, tt.class) {
			t.Errorf("%s: %v, want class %v (-want +got):\n%s", tt.name, err, tt.class, diff)
		}
		if te, ok := errors.AsType[*TranslateError](err); ok && te.Level != tt.level {
			t.Errorf("%s: ended at level %d; want %d", tt.name, te.Level, tt.level)
		}
	}
}

func TestTranslateWithoutPAE(t *testing.T) {
	page := Mapping{Addr: 0x9123, Size: 0x1000, Writable: true, User: true}
	moved := page
	moved.Transition = true
	translate32(t, &pagingX86, tables32(), 0x1018, []translation{ // PWT and PCD of CR3 are ignored
		{"4 KiB", nil, testVA32 + 0x123, page, nil, 0},
		{"the lower half", func(m *smallRAM) { m.set32(1, 1, 2<<12|userW) }, 0x60_3123, page, nil, 0},
		{
			"read-only for the kernel",
			func(m *smallRAM) { m.set32(2, 0x203, 9<<12|1) },
			testVA32,
			Mapping{Addr: 0x9000, Size: 0x1000},
			nil, 0,
		},
		{
			"4 MiB, and a page above 4 GiB by PSE-36",
			func(m *smallRAM) { m.set32(1, 0x202, 0x1340_0000|0x5A<<13|3|0x80) },
			0xFFFF_FFFF_8081_2345,
			Mapping{Addr: 0x5A_1341_2345, Size: 4 << 20, Writable: true},
			nil, 0,
		},
		{"transition page", func(m *smallRAM) { m.set32(2, 0x203, 9<<12|1<<11|4<<5) }, testVA32 + 0x123, moved, nil, 0},
		{"transition table", func(m *smallRAM) { m.set32(1, 0x201, 2<<12|1<<11) }, testVA32 + 0x123, moved, nil, 0},
		{"transition frame outside of RAM", func(m *smallRAM) { m.set32(2, 0x203, 0xFFFFF<<12|1<<11) }, testVA32, Mapping{}, ErrNotPresent, 1},
		{"prototype", func(m *smallRAM) { m.set32(2, 0x203, 9<<12|1<<10) }, testVA32, Mapping{}, ErrNotPresent, 1},
		{"page file", func(m *smallRAM) { m.set32(2, 0x203, 77<<12) }, testVA32, Mapping{}, ErrNotPresent, 1},
		{"no entry in the directory", nil, 0xFFFF_FFFF_9000_0000, Mapping{}, ErrNotPresent, 2},
		{"not sign-extended", nil, 0x8060_3000, Mapping{}, ErrNotCanonical, 0},
		{"below the kernel's half of 64 bits", nil, 0xFFFF_FFFF_7060_3000, Mapping{}, ErrNotCanonical, 0},
	})
}

func TestTranslatePAE(t *testing.T) {
	page := Mapping{Addr: 0x9123, Size: 0x1000, Writable: true, User: true}
	moved := page
	moved.Transition = true
	translate32(t, &pagingPAE, tablesPAE(), paeRoot|0x18, []translation{
		{"4 KiB", nil, testVA32 + 0x123, page, nil, 0},
		{
			"2 MiB above 4 GiB, not to be executed",
			func(m *smallRAM) { m.set(6, 4, 0x12_3460_0000|3|0x80|1<<63) },
			0xFFFF_FFFF_8081_2345,
			Mapping{Addr: 0x12_3461_2345, Size: 2 << 20, Writable: true, NX: true},
			nil, 0,
		},
		{"transition page", func(m *smallRAM) { m.set(8, 3, 9<<12|1<<11|4<<5) }, testVA32 + 0x123, moved, nil, 0},
		{"transition frame hidden from L1TF", func(m *smallRAM) { m.set(8, 3, 9<<12|1<<37|1<<11|4<<5) }, testVA32 + 0x123, moved, nil, 0},
		{"transition frame that isn't hidden, outside of RAM", func(m *smallRAM) { m.set(8, 3, 9<<12|1<<37|1<<11|1<<4) }, testVA32, Mapping{}, ErrNotPresent, 1},
		{
			"prototype PTE, itself mapped",
			func(m *smallRAM) {
				m.set(6, 5, 10<<12|3)
				m.set(10, 1, 11<<12|3)       // 0x80A01000
				m.set(11, 0x10, 9<<12|userW) // the prototype PTE at 0x80A01080
				m.set(8, 3, 0x80A0_1080<<32|1<<10)
			},
			testVA32 + 0x123, moved, nil, 0,
		},
		{"prototype PTE of the user's half", func(m *smallRAM) { m.set(8, 3, 0x7000_0080<<32|1<<10) }, testVA32, Mapping{}, ErrNotPresent, 1},
		{"page file", func(m *smallRAM) { m.set(8, 3, 77<<32) }, testVA32, Mapping{}, ErrNotPresent, 1},
		{"no directory", func(m *smallRAM) { m.set(1, int(paeRoot.Offset()/8)+1, 0) }, 0x4000_0000, Mapping{}, ErrNotPresent, 3},
		{"a row's reserved bit", func(m *smallRAM) { m.set(1, int(paeRoot.Offset()/8), 4<<12|0x81) }, 0x1000, Mapping{}, ErrMalformed, 3},
	})
}

// TestSelfMap32: the directory maps itself; with PAE the last of the four does, and
// that is what is found in RAM, since it begins as the row does.
func TestSelfMap32(t *testing.T) {
	for _, tt := range []struct {
		p           *Paging
		m           *smallRAM
		root, maps  phys.Addr
		slot        int
		start, self phys.VirtAddr
	}{
		{&pagingX86, tables32(), 0x1000, 0x1000, 0x300, 0xFFFF_FFFF_C000_0000, 0xFFFF_FFFF_C030_0000},
		{&pagingPAE, tablesPAE(), paeRoot, 0x7000, 3, 0xFFFF_FFFF_C000_0000, 0xFFFF_FFFF_C060_3000},
	} {
		s := X86().AddressSpace(tt.p, tt.m, tt.m.ram(), tt.root)
		slots, err := s.SelfMapSlots(t.Context())
		if err != nil || !slices.Equal(slots, []int{tt.slot}) || tt.p.entryAddress(tt.slot) != tt.start {
			t.Errorf("%v: self-map in %v (%v) at %#x; want %#x at %#x", tt.p, slots, err, uint64(tt.p.entryAddress(tt.slot)), tt.slot, uint64(tt.start))
		}
		if m, err := s.Translate(t.Context(), tt.self); err != nil || m.Addr != tt.maps {
			t.Errorf("%v: %#x = %#x, %v; want %#x", tt.p, uint64(tt.self), uint64(m.Addr), err, uint64(tt.maps))
		}
		for page := range phys.Addr(len(tt.m.b) >> phys.PageShift) {
			at := page << phys.PageShift
			if got := tt.p.selfMapped(tt.m.b[at:at+phys.PageSize], at); got != (at == tt.maps) {
				t.Errorf("%v: page %#x maps itself: %v", tt.p, uint64(at), got)
			}
		}
		// From the table that is found the same is translated.
		found := X86().AddressSpace(tt.p, tt.m, tt.m.ram(), tt.maps)
		want, err := s.Translate(t.Context(), testVA32)
		got, err2 := found.Translate(t.Context(), testVA32)
		if err != nil || err2 != nil || got != want {
			t.Errorf("%v: through the table that maps itself %+v, %v; want %+v, %v", tt.p, got, err2, want, err)
		}
	}
}

// TestSameTable32: entries of 4 bytes are compared as such.
func TestSameTable32(t *testing.T) {
	x, y := make([]byte, phys.PageSize), make([]byte, phys.PageSize)
	binary.LittleEndian.PutUint32(x[4:], 0x1234_5001)
	binary.LittleEndian.PutUint32(y[4:], 0x1234_5001|1<<5|1<<6)
	if !pagingX86.SameTable(x, y) {
		t.Error("Accessed and Dirty tell two tables apart")
	}
	binary.LittleEndian.PutUint32(y, 1<<5)
	if pagingX86.SameTable(x, y) {
		t.Error("a bit of an entry that isn't present doesn't")
	}
}

// TestPagingsOf32 says how processors page by their control registers, and which
// Windows may run on them.
func TestPagingsOf32(t *testing.T) {
	const paged, pae = 0x8005_0033, 1 << 5
	long := phys.Registers{CR0: paged, CR4: pae, HasEFER: true, EFER: 1 << 10}
	for name, tt := range map[string]struct {
		r     phys.Registers
		want  string
		archs string
	}{
		"with PAE":               {phys.Registers{CR0: paged, CR4: 0x6F9, HasEFER: true}, "[PAE paging]", "[x86]"},
		"without":                {phys.Registers{CR0: paged, CR4: 0x6D9}, "[32-bit paging]", "[x86]"},
		"with PAE, without EFER": {phys.Registers{CR0: paged, CR4: pae, CS: phys.Segment{Flags: 0xC09B00}}, "[PAE paging]", "[x86]"},
		"long mode":              {long, "[]", "[amd64]"},
		"32-bit code, long mode": {phys.Registers{CR0: paged, CR4: pae, CS: phys.Segment{Flags: 0xC0FB00}, IDT: phys.DescriptorTable{Base: 0xFFFF_F800_0000_0000}}, "[]", "[amd64]"},
		"real mode":              {phys.Registers{CR0: 0x6000_0010}, "[]", "[amd64 x86]"},
		"nothing known":          {phys.Registers{CR3: 0x1000}, "[PAE paging 32-bit paging]", "[amd64 x86]"},
		"only that it is wide":   {phys.Registers{CR3: 0x1000, RIP: 0xFFFF_F800_0000_0000}, "[PAE paging 32-bit paging]", "[amd64]"},
	} {
		got, archs := fmt.Sprint(pagingsOfX86(&tt.r)), fmt.Sprint(archsOf([]phys.Registers{tt.r}))
		if got != tt.want || archs != tt.archs {
			t.Errorf("%s: %s by %s; want %s by %s", name, got, archs, tt.want, tt.archs)
		}
	}
}

// TestAddress32: pointers and registers of 32 bits are sign-extended.
func TestAddress32(t *testing.T) {
	for v, want := range map[uint64]phys.VirtAddr{
		0x8060_3000: 0xFFFF_FFFF_8060_3000, 0x7FFE_0000: 0x7FFE_0000, 0xFFFF_FFFF_FFDF_F000: 0xFFFF_FFFF_FFDF_F000,
	} {
		if got := X86().Address(v); got != want {
			t.Errorf("Address(%#x) = %#x; want %#x", v, uint64(got), uint64(want))
		}
	}
	if got := AMD64().Address(0x8060_3000); got != 0x8060_3000 {
		t.Errorf("of 64 bits: %#x", uint64(got))
	}
}

// FuzzWalk32 walks tables that were edited, with PAE and without: no walk panics, reads
// out of RAM or says of a page that it is larger than the largest. An edit is 8 bytes: a
// word of RAM (2 bytes), and what is stored there (4 bytes, and 2 for the high half).
func FuzzWalk32(f *testing.F) {
	const va = uint32(testVA32 & 0xFFFF_FFFF)
	edit := func(word uint16, v uint64) []byte {
		e := binary.LittleEndian.AppendUint16(nil, word)
		return binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint32(e, uint32(v)), uint16(v>>48))
	}
	f.Add(false, []byte{}, uint32(0x1000), va)
	f.Add(true, []byte{}, uint32(paeRoot), va)
	f.Add(false, edit(0x1804/4, 0x83), uint32(0x1000), va)                     // a large page
	f.Add(false, edit(0x280C/4, 9<<12|0x800), uint32(0x1000), va)              // in transition
	f.Add(true, edit(0x6018/4, 0x83|1<<63), uint32(paeRoot), va)               // a large page, not executable
	f.Add(true, edit(0x8018/4, 0x1234_5400), uint32(paeRoot), va)              // a prototype
	f.Add(true, edit(uint16(paeRoot/4+4), 7<<12|0x1E7), uint32(paeRoot|8), va) // reserved bits of a row
	f.Fuzz(func(t *testing.T, pae bool, edits []byte, root, va uint32) {
		m := tables32()
		if pae {
			m = tablesPAE()
		}
		for ; len(edits) >= 8; edits = edits[8:] {
			at := int(binary.LittleEndian.Uint16(edits)) * 4 % (len(m.b) - 8)
			copy(m.b[at:], edits[2:6])
			copy(m.b[at+6:], edits[6:8])
		}
		for _, p := range X86().Pagings() {
			s := X86().AddressSpace(p, m, m.ram(), phys.Addr(root))
			at := X86().Address(uint64(va))
			got, err := s.Translate(t.Context(), at)
			if err == nil && (got.Size > 4<<20 || uint64(got.Addr)&(got.Size-1) != uint64(at)&(got.Size-1)) {
				t.Errorf("%v: %#x = %+v", p, uint64(at), got)
			}
			if te, ok := errors.AsType[*TranslateError](err); err != nil && (!ok || te.Level < 1 || te.Level > p.Levels()) {
				t.Errorf("%v: error %v", p, err)
			}
			e, err := s.Extent(t.Context(), at)
			if err == nil && (e.Size == 0 || uint64(at)+e.Size-1 < uint64(at)) {
				t.Errorf("%v: extent of %#x = %+v", p, uint64(at), e)
			}
			if _, err := s.SelfMapSlots(t.Context()); err != nil && !errors.Is(err, phys.ErrNotRAM) {
				t.Errorf("%v: SelfMapSlots: %v", p, err)
			}
			if _, err := s.kernelTables(t.Context()); err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("%v: kernelTables: %v", p, err)
			}
		}
	})
}
