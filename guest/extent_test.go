package guest

import (
	"context"
	"errors"
	"testing"

	"snap/phys"
)

func TestExtent(t *testing.T) {
	mapped := func(at phys.Addr, n uint64) phys.Extent {
		return phys.Extent{Residence: phys.Resident, At: at, Size: n}
	}
	absent := func(n uint64) phys.Extent { return phys.Extent{Size: n} }
	unresolved := func(n uint64) phys.Extent { return phys.Extent{Residence: phys.Unresolved, Size: n} }
	tests := []extentOf{
		{"two pages that follow each other", nil, testVA, mapped(0x9000, 0x2000)},
		{"from inside a page", nil, testVA + 0x234, mapped(0x9234, 0x1DCC)},
		{"the last of them", nil, testVA + 0x1000, mapped(0xA000, 0x1000)},
		{"a page that follows in virtual memory only", nil, testVA + 0x2000, mapped(0x8000, 0x1000)},
		{"the rest of a table", nil, testVA + 0x3000, absent(0x1F_D000)},
		{
			"up to the next page in a table", func(m *smallRAM) { m.set(4, 7, 9<<12|userW) }, testVA + 0x4010,
			absent(0x2FF0),
		},
		{
			"a transition page between others", func(m *smallRAM) { m.set(4, 1, 10<<12|1<<11|4<<5) }, testVA,
			mapped(0x9000, 0x2000),
		},
		{
			"a hole of a page file and of what was never written to", func(m *smallRAM) {
				m.set(4, 0, 77<<32)
				m.set(4, 1, 0x80)
				m.set(4, 3, 1<<10)
			}, testVA,
			absent(0x2000),
		},
		{
			"transition hidden from L1TF", func(m *smallRAM) { m.set(4, 1, 1<<45|10<<12|1<<11) }, testVA,
			mapped(0x9000, 0x2000),
		},
		{
			"hidden by all the bits that no RAM has", func(m *smallRAM) { m.set(4, 0, 0xF_FFC0_0000_0000|1<<22|9<<12|1<<11) }, testVA + 0x234,
			mapped(0x9234, 0x1DCC),
		},
		{
			"a frame that would be hidden, but SwizzleBit says it isn't", func(m *smallRAM) { m.set(4, 0, 1<<45|9<<12|1<<11|1<<4) }, testVA,
			unresolved(0x1000),
		},
		{
			"a hidden frame that isn't RAM (a hole), twice", func(m *smallRAM) {
				m.set(4, 0, 1<<45|0x80<<12|1<<11)
				m.set(4, 1, 1<<45|0x80<<12|1<<11)
			}, testVA,
			unresolved(0x2000),
		},
		{
			"a table in transition, hidden", func(m *smallRAM) { m.set(3, 0, 1<<45|4<<12|1<<11) }, testVA,
			mapped(0x9000, 0x2000),
		},
		{
			"a table in transition that isn't RAM", func(m *smallRAM) { m.set(3, 0, 1<<45|0x80<<12|1<<11) }, testVA + 0x1000,
			unresolved(0x1F_F000),
		},
		{
			"a table in a page file", func(m *smallRAM) { m.set(3, 0, 77<<32|0x80) }, testVA,
			unresolved(0x20_0000),
		},
		{
			"a table that was never made", func(m *smallRAM) { m.set(3, 0, 0x80) }, testVA,
			absent(1 << 30),
		},
		{
			"a prototype entry after others", func(m *smallRAM) { m.set(4, 1, proto(testVA+0x2000)) }, testVA,
			mapped(0x9000, 0x1000),
		},
		{
			"by a prototype entry: valid", func(m *smallRAM) {
				m.set(4, 0, proto(testVA+0x2008))
				m.set(4, 1, proto(testVA+0x2008))
				m.set(8, 1, 0xB<<12|userW|1<<63)
			}, testVA + 0x10,
			mapped(0xB010, 0xFF0),
		},
		{
			"by a prototype entry with the Transition bit, which then means combined", func(m *smallRAM) {
				m.set(4, 0, proto(testVA+0x2008)|1<<11)
				m.set(8, 1, 0xB<<12|userW)
			}, testVA,
			mapped(0xB000, 0x1000),
		},
		{
			"by a prototype entry: transition", func(m *smallRAM) {
				m.set(4, 0, proto(testVA+0x2008))
				m.set(8, 1, 0xB<<12|1<<11|1<<4)
			}, testVA,
			mapped(0xB000, 0x1000),
		},
		{
			"by a prototype entry: transition, hidden", func(m *smallRAM) {
				m.set(4, 0, proto(testVA+0x2008))
				m.set(8, 1, 1<<45|0xB<<12|1<<11)
			}, testVA,
			mapped(0xB000, 0x1000),
		},
		{
			"by a prototype entry: never written to", func(m *smallRAM) {
				m.set(4, 0, proto(testVA+0x2008))
				m.set(8, 1, 0x80)
			}, testVA,
			absent(0x1000),
		},
		{
			"by a prototype entry: in a page file", func(m *smallRAM) {
				m.set(4, 0, proto(testVA+0x2008))
				m.set(8, 1, 77<<32|0x80)
			}, testVA,
			absent(0x1000),
		},
		{
			"by a prototype entry: another one", func(m *smallRAM) {
				m.set(4, 0, proto(testVA+0x2008))
				m.set(8, 1, proto(testVA+0x2010))
				m.set(8, 2, 0xB<<12|userW)
			}, testVA,
			unresolved(0x1000),
		},
		{
			"by a prototype entry: itself", func(m *smallRAM) {
				m.set(3, 1, 4<<12|userW)
				m.set(4, 0, proto(testVA+0x20_0000))
				m.set(4, 512-1, 4<<12|userW) // the table maps itself
			}, testVA,
			unresolved(0x1000),
		},
		{
			"by a prototype entry: what isn't RAM", func(m *smallRAM) {
				m.set(4, 0, proto(testVA+0x2008))
				m.set(8, 1, 0x80<<12|userW)
			}, testVA,
			unresolved(0x1000),
		},
		{"by a prototype entry: nothing is there", func(m *smallRAM) { m.set(4, 0, proto(testVA+0x5000)) }, testVA, unresolved(0x1000)},
		{"by a prototype entry: it is no RAM", func(m *smallRAM) {
			m.set(4, 0, proto(testVA+0x4000))
			m.set(4, 4, 0x80<<12|userW)
		}, testVA, unresolved(0x1000)},
		{"by a prototype entry: in the user half", func(m *smallRAM) { m.set(4, 0, 0x1000<<16|1<<10) }, testVA, unresolved(0x1000)},
		{"by a prototype entry: between two", func(m *smallRAM) { m.set(4, 0, proto(testVA+0x2004)) }, testVA, unresolved(0x1000)},
		{"by the VAD", func(m *smallRAM) { m.set(4, 0, 0xFFFF_FFFF_0000_0420) }, testVA, unresolved(0x1000)},
		{"by the VAD, hidden from L1TF", func(m *smallRAM) { m.set(4, 0, 0xFFFF_DFFF_0000_0420) }, testVA, unresolved(0x1000)},
		{"a prototype bit in an upper level", func(m *smallRAM) { m.set(3, 0, proto(testVA+0x2000)) }, testVA, unresolved(0x20_0000)},
		{
			"a page that isn't RAM", func(m *smallRAM) { m.set(4, 0, 0xFEC0_0000|userW) }, testVA + 0x10,
			mapped(0xFEC0_0010, 0xFF0),
		},
		{
			"a table in transition", func(m *smallRAM) { m.set(3, 0, 4<<12|1<<11) }, testVA,
			mapped(0x9000, 0x2000),
		},
		{
			"2 MiB pages that follow each other, with the PAT bit", func(m *smallRAM) {
				m.set(3, 0, 0x20_0000|1<<12|userW|0x80)
				m.set(3, 1, 0x40_0000|1<<12|userW|0x80)
				m.set(3, 2, 0x20_0000|userW|0x80)
			}, testVA + 0x12_3456,
			mapped(0x32_3456, 0x40_0000-0x12_3456),
		},
		{
			"a 2 MiB page after which a table begins where it ends", func(m *smallRAM) {
				m.set(3, 1, 0x20_0000|userW|0x80)
				m.set(3, 2, 0x40_0000|userW)
			}, testVA + 0x20_0000,
			mapped(0x20_0000, 0x20_0000),
		},
		{
			"a 1 GiB page", func(m *smallRAM) { m.set(2, 0, 0x4000_0000|userW|0x80) }, testVA + 0x1234_5678,
			mapped(0x5234_5678, 0x4000_0000-0x1234_5678),
		},
		{"the rest of a page directory", nil, testVA + 0x20_0000, absent(511 << 21)},
		{"the rest of a page directory pointer table", nil, testVA + 0x4000_0001, absent(511<<30 - 1)},
	}
	testExtents(t, &fourLevels, append(tests, []extentOf{
		{"top-level entries up to the next", nil, 0xFFFF_8000_0000_0000, absent(0xF0 << 39)},
		{"the top of the address space", nil, 0xFFFF_FFFF_FFFF_F000, absent(0x1000)},
		{"the user half, which ends in the middle of the table", nil, 0x1000, absent(1<<47 - 0x1000)},
		{
			"a reserved bit in the top level", func(m *smallRAM) { m.set(1, 0x1FF, 2<<12|userW|0x80) }, 0xFFFF_FF80_0000_0000,
			absent(1 << 39),
		},
		{"an address that isn't canonical", nil, 0x0000_8000_0000_0000, absent(0xFFFF_0000_0000_0000)},
		{"the last of those", nil, 0xFFFF_7FFF_FFFF_FFFF, absent(1)},
	}...))
	testExtents(t, &fiveLevels, append(tests, []extentOf{
		{"PML4 entries up to the next", nil, 0xFFFF_8000_0000_0000, absent(0xF0 << 39)},
		{"PML5 entries up to the next", nil, 0xFF00_0000_0000_0000, absent(0xFF << 48)},
		{"the user half, which ends in the middle of the table", nil, 0x1000, absent(1<<56 - 0x1000)},
		{
			"a reserved bit in the top level", func(m *smallRAM) { m.set(6, 0x1FF, 1<<12|userW|0x80) }, testVA,
			absent(0x800_0000_0000),
		},
		{
			"a reserved bit in the level below", func(m *smallRAM) { m.set(1, 0x1FF, 2<<12|userW|0x80) }, 0xFFFF_FF80_0000_0000,
			absent(1 << 39),
		},
		{
			"a PML4 in transition", func(m *smallRAM) { m.set(6, 0x1FE, 1<<12|1<<11) }, 0xFFFE_F800_0000_0000,
			absent(1<<48 - 0xF800_0000_0000),
		},
		{
			"a PDPT in transition", func(m *smallRAM) { m.set(1, 0x1F0, 2<<12|1<<11) }, testVA,
			mapped(0x9000, 0x2000),
		},
		{"an address that isn't canonical", nil, 0x0100_0000_0000_0000, absent(0xFE00_0000_0000_0000)},
		{"the last of those", nil, 0xFEFF_FFFF_FFFF_FFFF, absent(1)},
	}...))
}

// extentOf is what Extent says of an address by edited tables.
type extentOf struct {
	name string
	edit func(m *smallRAM)
	va   phys.VirtAddr
	want phys.Extent
}

// testExtents holds extents of tables by p, whose PML5 is in page 6, against what is
// to be said of them.
func testExtents(t *testing.T, p *Paging, tests []extentOf) {
	t.Helper()
	for _, tt := range tests {
		m := tables()
		root := phys.Addr(0x1000)
		if p == &fiveLevels {
			root = 0x6000
			m.set(6, 0x1FF, 1<<12|userW)
		}
		if tt.edit != nil {
			tt.edit(m)
		}
		s := AMD64().AddressSpace(p, m, m.ram().Minus(phys.Runs{{Base: 0x80, Pages: 1}}), root)
		if got, err := s.Extent(t.Context(), tt.va); err != nil || got != tt.want {
			t.Errorf("%v, %s: Extent(%#x) = %+v, %v; want %+v", p, tt.name, uint64(tt.va), got, err, tt.want)
		}
	}
}

// proto is an entry that names the prototype PTE at va.
func proto(va phys.VirtAddr) uint64 { return uint64(va)<<16 | 1<<10 }

// What can't be looked up is no hole.
func TestExtentFailures(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	broken := errors.New("the connection is gone")
	tests := []struct {
		name string
		ctx  context.Context
		edit func(m *smallRAM)
		mem  func(m *smallRAM) phys.Reader
		want error
	}{
		{"table outside of RAM", t.Context(), func(m *smallRAM) { m.set(3, 0, 1<<30|userW) }, nil, phys.ErrNotRAM},
		{"table that can't be read", t.Context(), nil, func(*smallRAM) phys.Reader { return failing{broken} }, broken},
		{"canceled", canceled, nil, nil, context.Canceled},
	}
	for _, tt := range tests {
		m := tables()
		if tt.edit != nil {
			tt.edit(m)
		}
		var mem phys.Reader = m
		if tt.mem != nil {
			mem = tt.mem(m)
		}
		got, err := NewAddressSpace(mem, m.ram(), 0x1000).Extent(tt.ctx, testVA)
		if !errors.Is(err, tt.want) || got != (phys.Extent{}) {
			t.Errorf("%s: Extent = %+v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}

type failing struct{ err error }

func (f failing) ReadPhys(context.Context, []byte, phys.Addr) error { return f.err }

// The whole kernel half of a guest with one table each takes few calls.
func TestExtentSteps(t *testing.T) {
	m := tables()
	s := NewAddressSpace(m, m.ram(), 0x1000)
	calls, pages := 0, uint64(0)
	for va := fourLevels.kernelHalf(); ; {
		e, err := s.Extent(t.Context(), va)
		if err != nil {
			t.Fatal(err)
		}
		if e.Residence == phys.Resident {
			pages += e.Size >> phys.PageShift
		}
		if calls++; calls > 100 {
			t.Fatal("more than 100 calls")
		}
		if va += phys.VirtAddr(e.Size); va == 0 {
			break
		}
	}
	// Holes before, after the pages in three levels, and at the end; two extents.
	if calls != 7 || pages != 3 {
		t.Errorf("%d calls found %d pages; want 7 and 3", calls, pages)
	}
}
