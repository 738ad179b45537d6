package guest

import (
	"encoding/binary"
	"testing"

	"snap/phys"
)

// advertPages is how much memory a fuzzed guest has for its drivers.
const advertPages = 16

// advertGuest is a guest whose kernel half maps b and nothing else, from
// testVA on, with the head of its module list at the start.
func advertGuest(b []byte) (*System, *smallRAM) {
	const first = 8 // page, after the page tables
	m := newSmallRAM(first + advertPages)
	m.set(1, 0x1F0, 2<<12|userW)
	m.set(2, 0, 3<<12|userW)
	m.set(3, 0, 4<<12|userW)
	for i := range advertPages {
		// Neighbours in virtual memory are none in physical.
		m.set(4, i, uint64(first+i*7%advertPages)<<12|userW)
		if len(b) > i<<phys.PageShift {
			copy(m.b[(first+i*7%advertPages)<<phys.PageShift:][:phys.PageSize], b[i<<phys.PageShift:])
		}
	}
	return &System{
		Space: NewAddressSpace(m, m.ram(), 0x1000), PsLoadedModuleList: phys.Know[phys.VirtAddr](testVA, "a test"), Kernel: &Image{Base: testVA - 0x1000},
	}, m
}

// advertSeed is the memory of a guest with one driver, which has a table, one
// behind it, and a callback.
func advertSeed() []byte {
	b := make([]byte, 6<<phys.PageShift)
	put := func(off int, values ...uint64) {
		for i, v := range values {
			binary.LittleEndian.PutUint64(b[off+8*i:], v)
		}
	}
	put16 := func(off int, v uint16) { binary.LittleEndian.PutUint16(b[off:], v) }
	put32 := func(off int, values ...uint32) {
		for i, v := range values {
			binary.LittleEndian.PutUint32(b[off+4*i:], v)
		}
	}
	const va, image, size = uint64(testVA), 0x1000, 0x5000
	put(0, va+0x100, va+0x100) // the list head, and its one entry
	put(0x100, va, va)
	put(0x130, va+image, va+image+0x500, size)
	put(0x158, 10<<16|10, va+0x200)
	copy(b[0x200:], "a\x00.\x00s\x00y\x00s\x00")

	copy(b[image:], "MZ")
	put32(image+0x3C, 0x40)
	copy(b[image+0x40:], "PE\x00\x00")
	put16(image+0x44, MachineAMD64)
	put16(image+0x46, 1)
	put16(image+0x54, 0xF0)
	put16(image+0x58, 0x20B)
	put32(image+0x58+56, size, 0x400)
	put32(image+0x58+108, 16, 0x400, 0x80)
	copy(b[image+0x148:], ".data")
	put32(image+0x148+8, 0x3000, 0x1000)
	put32(image+0x148+36, 0xC000_0040)
	put32(image+0x400+0x14, 1, 1, 0x428, 0x42C, 0x430, 0x1000, 0x432)
	copy(b[image+0x432:], "\x00\x00SnapRemovePages\x00") // the ordinal is before it
	put32(image+0x42C, 0x434)

	for i, next := range []uint64{va + image + 0x2FC0, 0} {
		at := image + 0x1000 + i*0x1FC0
		copy(b[at:], "SNAPRMPG")
		put32(at+8, 1|0x20<<16, 4, 2, 2)
		put(at+0x18, next, 0, 1, va, 3, 0, 2, 0x1000, 1)
	}
	routine, component := va+image+0x40, va+image+0x148 // .data, by coincidence
	put(image+0x3810, routine, component, routine+6+component, 1<<32|6)
	return b
}

// silentSeed is advertSeed without a table.
func silentSeed() []byte {
	b := advertSeed()
	b[0x1434] = 'T'
	return b
}

func TestAdvertSeed(t *testing.T) {
	s, _ := advertGuest(advertSeed())
	a, err := s.Adverts(t.Context())
	if err != nil || len(a.Tables) != 2 || len(a.Problems) != 0 || len(a.Tables[1].Entries) != 0x40 {
		t.Errorf("Adverts of the seed = %+v, %v; want two tables", a, err)
	}
	s, _ = advertGuest(silentSeed())
	a, err = s.Adverts(t.Context())
	if err != nil || len(a.Tables) != 0 || len(a.Silent) != 1 || a.Silent[0].Component != ".data" {
		t.Errorf("Adverts of the seed without a table = %+v, %v; want a silent driver", a, err)
	}
}

// The fuzzer's bytes are changes to a sound guest: 2 bytes say where, the 8 that
// follow what to write there.
func FuzzAdvert(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, edits []byte, silent bool) {
		b := advertSeed()
		if silent {
			b = silentSeed()
		}
		b = append(b, make([]byte, advertPages<<phys.PageShift-len(b))...)
		for ; len(edits) >= 10; edits = edits[10:] {
			copy(b[binary.LittleEndian.Uint16(edits):], edits[2:10])
		}
		s, m := advertGuest(b)
		a := newAdvertReader(s)
		a.pauses = 0
		a.run(t.Context())
		seen := map[phys.VirtAddr]bool{}
		for _, table := range a.out.Tables {
			n := uint32(len(table.Entries))
			if seen[table.At] || n%0x20 != 0 || n/0x20 > table.Count || table.Count > table.Capacity || table.Sequence%2 != 0 {
				t.Errorf("table %+v", table)
			}
			seen[table.At] = true
		}
		if len(a.out.Tables) > maxAdvertTables || len(a.out.Silent) > maxSilentDrivers {
			t.Errorf("%d tables, %d silent drivers", len(a.out.Tables), len(a.out.Silent))
		}
		// At most some 16 modules fit, with some hundred tables in chains.
		if m.reads > 1<<18 {
			t.Errorf("%d reads", m.reads)
		}
		if _, err := s.Protected(t.Context()); err != nil {
			t.Errorf("Protected failed: %v", err)
		}
	})
}
