package guest

import (
	"context"
	"errors"
	"testing"

	"snap/phys"
)

func TestExtent(t *testing.T) {
	type answer struct {
		At     phys.Addr
		N      uint64
		Mapped bool
	}
	tests := []struct {
		name string
		edit func(m *smallRAM)
		va   phys.VirtAddr
		want answer
	}{
		{"two pages that follow each other", nil, testVA, answer{0x9000, 0x2000, true}},
		{"from inside a page", nil, testVA + 0x234, answer{0x9234, 0x1DCC, true}},
		{"the last of them", nil, testVA + 0x1000, answer{0xA000, 0x1000, true}},
		{"a page that follows in virtual memory only", nil, testVA + 0x2000, answer{0x8000, 0x1000, true}},
		{"the rest of a table", nil, testVA + 0x3000, answer{0, 0x1F_D000, false}},
		{
			"up to the next page in a table", func(m *smallRAM) { m.set(4, 7, 9<<12|userW) }, testVA + 0x4010,
			answer{0, 0x2FF0, false},
		},
		{
			"a transition page between others", func(m *smallRAM) { m.set(4, 1, 10<<12|1<<11|4<<5) }, testVA,
			answer{0x9000, 0x2000, true},
		},
		{
			"a prototype entry", func(m *smallRAM) { m.set(4, 1, 10<<12|1<<11|1<<10) }, testVA,
			answer{0x9000, 0x1000, true},
		},
		{
			"a hole of a prototype entry and one of a page file", func(m *smallRAM) {
				m.set(4, 0, 10<<12|1<<11|1<<10)
				m.set(4, 1, 77<<32)
			}, testVA,
			answer{0, 0x2000, false},
		},
		{
			"a page that isn't RAM", func(m *smallRAM) { m.set(4, 0, 0xFEC0_0000|userW) }, testVA + 0x10,
			answer{0xFEC0_0010, 0xFF0, true},
		},
		{
			"a table in transition", func(m *smallRAM) { m.set(3, 0, 4<<12|1<<11) }, testVA,
			answer{0x9000, 0x2000, true},
		},
		{
			"2 MiB pages that follow each other, with the PAT bit", func(m *smallRAM) {
				m.set(3, 0, 0x20_0000|1<<12|userW|0x80)
				m.set(3, 1, 0x40_0000|1<<12|userW|0x80)
				m.set(3, 2, 0x20_0000|userW|0x80)
			}, testVA + 0x12_3456,
			answer{0x32_3456, 0x40_0000 - 0x12_3456, true},
		},
		{
			"a 2 MiB page after which a table begins where it ends", func(m *smallRAM) {
				m.set(3, 1, 0x20_0000|userW|0x80)
				m.set(3, 2, 0x40_0000|userW)
			}, testVA + 0x20_0000,
			answer{0x20_0000, 0x20_0000, true},
		},
		{
			"a 1 GiB page", func(m *smallRAM) { m.set(2, 0, 0x4000_0000|userW|0x80) }, testVA + 0x1234_5678,
			answer{0x5234_5678, 0x4000_0000 - 0x1234_5678, true},
		},
		{"the rest of a page directory", nil, testVA + 0x20_0000, answer{0, 511 << 21, false}},
		{"the rest of a page directory pointer table", nil, testVA + 0x4000_0001, answer{0, 511<<30 - 1, false}},
		{"top-level entries up to the next", nil, 0xFFFF_8000_0000_0000, answer{0, 0xF0 << 39, false}},
		{"the top of the address space", nil, 0xFFFF_FFFF_FFFF_F000, answer{0, 0x1000, false}},
		{"the user half, which ends in the middle of the table", nil, 0x1000, answer{0, 1<<47 - 0x1000, false}},
		{
			"a reserved bit in the top level", func(m *smallRAM) { m.set(1, 0x1FF, 2<<12|userW|0x80) }, 0xFFFF_FF80_0000_0000,
			answer{0, 1 << 39, false},
		},
		{"an address that isn't canonical", nil, 0x0000_8000_0000_0000, answer{0, 0xFFFF_0000_0000_0000, false}},
		{"the last of those", nil, 0xFFFF_7FFF_FFFF_FFFF, answer{0, 1, false}},
	}
	for _, tt := range tests {
		m := tables()
		if tt.edit != nil {
			tt.edit(m)
		}
		s := NewAddressSpace(m, m.ram(), 0x1000)
		at, n, mapped, err := s.Extent(t.Context(), tt.va)
		if got := (answer{at, n, mapped}); err != nil || got != tt.want {
			t.Errorf("%s: Extent(%#x) = %#x, %#x, %v, %v; want %#x, %#x, %v", tt.name, uint64(tt.va),
				uint64(at), n, mapped, err, uint64(tt.want.At), tt.want.N, tt.want.Mapped)
		}
	}
}

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
		at, n, mapped, err := NewAddressSpace(mem, m.ram(), 0x1000).Extent(tt.ctx, testVA)
		if !errors.Is(err, tt.want) || mapped || n != 0 || at != 0 {
			t.Errorf("%s: Extent = %#x, %#x, %v, %v; want %v", tt.name, uint64(at), n, mapped, err, tt.want)
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
	for va := amd64.kernelHalf; ; {
		_, n, mapped, err := s.Extent(t.Context(), va)
		if err != nil {
			t.Fatal(err)
		}
		if mapped {
			pages += n >> phys.PageShift
		}
		if calls++; calls > 100 {
			t.Fatal("more than 100 calls")
		}
		if va += phys.VirtAddr(n); va == 0 {
			break
		}
	}
	// Holes before, after the pages in three levels, and at the end; two extents.
	if calls != 7 || pages != 3 {
		t.Errorf("%d calls found %d pages; want 7 and 3", calls, pages)
	}
}
