package guest

import (
	"encoding/binary"
	"errors"
	"testing"

	"snap/phys"
)

// A block in the data that the kernel writes to is found by reading only that; one
// anywhere else, and whatever a section table says, is found by the second part, which
// reads nothing twice.
func TestKDBGSearchBeginsInData(t *testing.T) {
	plain := realBlocks(t)["kdbg_19041_amd64.bin"]
	base := phys.VirtAddr(binary.LittleEndian.Uint64(plain[0x18:]))
	const (
		size  = 2 << 20
		text  = 0x0_1000
		data  = 0x10_0000
		dataN = 0x0_8000
		code  = 0x6000_0020 // IMAGE_SCN_CNT_CODE, MEM_EXECUTE, MEM_READ
		write = 0xC000_0040 // IMAGE_SCN_CNT_INITIALIZED_DATA, MEM_READ, MEM_WRITE
	)
	sound := []Section{{".text", text, data - text, code}, {".data", data, dataN, write}}
	tests := []struct {
		name     string
		sections []Section
		at       uint64
		part     int
		read     int // at most, of the first part
	}{
		{"in data", sound, data + 0x1230, 0, dataN + len(plain)},
		{"at the end of data", sound, data + dataN - uint64(len(plain)), 0, dataN + len(plain)},
		{"in code", sound, text + 0x2008, 1, dataN},
		{"in no section", sound, size - uint64(len(plain)), 1, dataN},
		{"no sections", nil, data, 1, 0},
		{"data that isn't aligned", []Section{{".data", data + 8, dataN, write}}, data, 1, 0},
		{"data once more", []Section{sound[1], sound[1], sound[1]}, data + 0x1230, 0, dataN + len(plain)},
		{"data without bytes", []Section{{".data", data, 0, write}}, data, 1, 0},
	}
	for _, tt := range tests {
		mem := &pagedMemory{flatMemory: flatMemory{base, make([]byte, size)}}
		copy(mem.b[tt.at:], plain)
		s := newKDBGSearch(&Image{Base: base, Size: realImageSize, Sections: tt.sections, mem: mem}, newBudget(1))
		first := s.part(t.Context(), 0)
		if mem.read > tt.read {
			t.Errorf("%s: the first part read %d bytes; want at most %d", tt.name, mem.read, tt.read)
		}
		for i, in := range []foundBlocks{first, s.part(t.Context(), 1)} {
			want := 0
			if i == tt.part {
				want = 1
			}
			if len(in.blocks) != want || want == 1 && in.blocks[0].At != base+phys.VirtAddr(tt.at) {
				t.Errorf("%s: part %d has %v; want %d block at %#x", tt.name, i, in.blocks, want, uint64(base)+tt.at)
			}
			if in.err != nil {
				t.Errorf("%s: part %d: %v", tt.name, i, in.err)
			}
		}
		if most := size + len(plain); mem.read > most {
			t.Errorf("%s: %d bytes were read; want each of %d once, and the block again", tt.name, mem.read, size)
		}
	}
}

// Without a block the last part says so.
func TestKDBGSearchFindsNone(t *testing.T) {
	mem := flatMemory{0x1000, make([]byte, 1<<20)}
	s := newKDBGSearch(&Image{Base: 0x1000, Size: 1 << 20, mem: mem}, newBudget(1))
	if in := s.part(t.Context(), 0); in.err != nil || in.blocks != nil {
		t.Errorf("part 0 = %v, %v; want nothing", in.blocks, in.err)
	}
	if in := s.part(t.Context(), kdbgParts-1); !errors.Is(in.err, ErrNoKDBG) {
		t.Errorf("the last part = %v; want %v", in.err, ErrNoKDBG)
	}
}
