package header

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// registers returns a state in which each register has a value of its own.
func registers() *phys.Registers {
	r := &phys.Registers{
		RAX: 0xA0, RBX: 0xB0, RCX: 0xC0, RDX: 0xD0, RSI: 0x51, RDI: 0xD1, RBP: 0xB9, RSP: 0xFFFF_8504_2989_2120,
		R8: 8, R9: 9, R10: 10, R11: 11, R12: 12, R13: 13, R14: 14, R15: 15,
		RIP: 0xFFFF_F804_8B58_334C, RFLAGS: 0x5_0246,
		CS: phys.Segment{Selector: 0x10}, DS: phys.Segment{Selector: 0x2B}, ES: phys.Segment{Selector: 0x2B},
		FS: phys.Segment{Selector: 0x53}, GS: phys.Segment{Selector: 0x2B}, SS: phys.Segment{Selector: 0x18},
		HasDebug: true, DR: [8]uint64{0xD00, 0xD01, 0xD02, 0xD03, 0xBAD, 0xBAD, 0xFFFF0FF0, 0x400},
		HasFPU: true,
		FPU:    phys.FPU{FCW: 0x27F, FSW: 0x3800, FTW: 0x80, MXCSR: 0x1FA0},
	}
	for i := range r.FPU.ST {
		for j := range r.FPU.ST[i] {
			r.FPU.ST[i][j] = byte(0x10*i + j)
		}
	}
	for i := range r.FPU.XMM {
		for j := range r.FPU.XMM[i] {
			r.FPU.XMM[i][j] = byte(0x10*i + 15 - j)
		}
	}
	return r
}

// The offsets are those of WinContext64 in QEMU's include/qemu/win_dump_defs.h.
func TestContextAMD64Layout(t *testing.T) {
	r := registers()
	want := make([]byte, 0x4D0)
	put32 := func(at int, v uint32) { binary.LittleEndian.PutUint32(want[at:], v) }
	put64 := func(at int, vs ...uint64) {
		for i, v := range vs {
			binary.LittleEndian.PutUint64(want[at+8*i:], v)
		}
	}
	put32(0x30, 0x10001F)
	put32(0x34, 0x1FA0)
	for i, sel := range []uint16{0x10, 0x2B, 0x2B, 0x53, 0x2B, 0x18} { // CS DS ES FS GS SS
		binary.LittleEndian.PutUint16(want[0x38+2*i:], sel)
	}
	put32(0x44, 0x50246)
	put64(0x48, 0xD00, 0xD01, 0xD02, 0xD03, 0xFFFF0FF0, 0x400)
	put64(0x78, 0xA0, 0xC0, 0xD0, 0xB0, 0xFFFF_8504_2989_2120, 0xB9, 0x51, 0xD1) // AX CX DX BX SP BP SI DI
	put64(0xB8, 8, 9, 10, 11, 12, 13, 14, 15)
	put64(0xF8, 0xFFFF_F804_8B58_334C)
	put32(0x100, 0x3800_027F) // FCW, FSW
	want[0x104] = 0x80
	put32(0x118, 0x1FA0)
	for i, st := range r.FPU.ST {
		copy(want[0x120+16*i:], st[:])
	}
	for i, x := range r.FPU.XMM {
		copy(want[0x1A0+16*i:], x[:])
	}
	got := ContextAMD64(r)
	if len(got) != 0x4D0 {
		t.Fatalf("ContextAMD64 has %#x bytes; want 0x4d0", len(got))
	}
	for at := 0; at < len(got); at += 2 {
		if !bytes.Equal(got[at:at+2], want[at:at+2]) {
			t.Errorf("bytes at %#x = % x; want % x", at, got[at:at+2], want[at:at+2])
		}
	}
}

// The offsets are those of WinContext32 in QEMU's include/qemu/win_dump_defs.h,
// and of FXSAVE and FSAVE images in the Intel SDM.
func TestContextI386Layout(t *testing.T) {
	r := registers()
	r.RIP, r.RSP = 0xFFFF_FFFF_A013_3516, 0x8CC0_BB08
	r.CS.Selector, r.SS.Selector, r.FS.Selector, r.GS.Selector = 0x08, 0x10, 0x30, 0
	r.DS.Selector, r.ES.Selector = 0x23, 0x24
	want := make([]byte, 0x2CC)
	put := func(at int, vs ...uint32) {
		for i, v := range vs {
			binary.LittleEndian.PutUint32(want[at+4*i:], v)
		}
	}
	put(0x00, 0x1003F, 0xD00, 0xD01, 0xD02, 0xD03, 0xFFFF0FF0, 0x400)
	put(0x1C, 0x27F, 0x3800)
	// TOP is 7, so that ST0 is register 7, the only one in use. Its value has
	// neither the integer bit nor exponent 0: special.
	put(0x24, 0xBFFF)
	for i, st := range r.FPU.ST {
		copy(want[0x38+10*i:], st[:])
	}
	put(0x8C, 0, 0x30, 0x24, 0x23)                // GS FS ES DS
	put(0x9C, 0xD1, 0x51, 0xB0, 0xD0, 0xC0, 0xA0) // DI SI BX DX CX AX
	put(0xB4, 0xB9, 0xA0133516, 8, 0x50246, 0x8CC0BB08, 0x10)
	put(0xCC, 0x3800_027F)
	want[0xD0] = 0x80
	put(0xE4, 0x1FA0)
	for i, st := range r.FPU.ST {
		copy(want[0xEC+16*i:], st[:])
	}
	for i, x := range r.FPU.XMM[:8] {
		copy(want[0x16C+16*i:], x[:])
	}
	got := ContextI386(r)
	if len(got) != 0x2CC {
		t.Fatalf("ContextI386 has %#x bytes; want 0x2cc", len(got))
	}
	for at := 0; at < len(got); at += 4 {
		if !bytes.Equal(got[at:at+4], want[at:at+4]) {
			t.Errorf("bytes at %#x = % x; want % x", at, got[at:at+4], want[at:at+4])
		}
	}
}

// Groups that a source can't give are not claimed.
func TestContextWithoutGroups(t *testing.T) {
	for _, tt := range []struct {
		name        string
		debug, fpu  bool
		amd64, i386 uint32
		mxcsr       uint32
	}{
		{"all", true, true, 0x10001F, 0x1003F, 0x1FA0},
		{"no debug registers", false, true, 0x10000F, 0x1002F, 0x1FA0},
		{"no floating point", true, false, 0x100017, 0x10017, 0x1F80},
		{"neither", false, false, 0x100007, 0x10007, 0x1F80},
	} {
		r := registers()
		r.HasDebug, r.HasFPU = tt.debug, tt.fpu
		b := ContextAMD64(r)
		c, err := DecodeContextAMD64(b)
		if err != nil {
			t.Fatalf("DecodeContextAMD64 failed: %v", err)
		}
		if c.Flags != tt.amd64 || c.MxCsr != tt.mxcsr || c.FltMxCsr() != tt.mxcsr {
			t.Errorf("%s: AMD64 flags, MXCSR = %#x, %#x, %#x; want %#x, %#x twice", tt.name, c.Flags, c.MxCsr, c.FltMxCsr(), tt.amd64, tt.mxcsr)
		}
		if zero := c.Dr == [8]uint64{}; zero != !tt.debug {
			t.Errorf("%s: debug registers are zero: %v; want %v", tt.name, zero, !tt.debug)
		}
		if got := bytes.Count(b[0x120:0x2A0], []byte{0}) < 0x180; got != tt.fpu {
			t.Errorf("%s: there are x87 or SSE registers: %v; want %v", tt.name, got, tt.fpu)
		}
		c, err = DecodeContextI386(ContextI386(r))
		if err != nil || c.Flags != tt.i386 || c.FltMxCsr() != tt.mxcsr {
			t.Errorf("%s: x86 flags, MXCSR = %#x, %#x, %v; want %#x, %#x", tt.name, c.Flags, c.FltMxCsr(), err, tt.i386, tt.mxcsr)
		}
	}
}

func TestContextReplacesNullSelectors(t *testing.T) {
	seg := func(sel uint16) phys.Segment { return phys.Segment{Selector: sel} }
	type sels struct{ cs, ds, es, fs, gs, ss uint16 }
	for _, tt := range []struct {
		name     string
		make     func(*phys.Registers) []byte
		decode   func([]byte) (Context, error)
		in, want sels
	}{
		{"nothing known", ContextAMD64, DecodeContextAMD64, sels{}, sels{0x10, 0x2B, 0x2B, 0x53, 0x2B, 0x18}},
		{"null SS in the kernel", ContextAMD64, DecodeContextAMD64, sels{0x10, 0x2B, 0x2B, 0x53, 0x2B, 0}, sels{0x10, 0x2B, 0x2B, 0x53, 0x2B, 0x18}},
		{"user mode", ContextAMD64, DecodeContextAMD64, sels{cs: 0x33}, sels{0x33, 0x2B, 0x2B, 0x53, 0x2B, 0x2B}},
		{"null with an RPL", ContextAMD64, DecodeContextAMD64, sels{0x33, 3, 3, 3, 3, 3}, sels{0x33, 0x2B, 0x2B, 0x53, 0x2B, 0x2B}},
		{"others stay", ContextAMD64, DecodeContextAMD64, sels{0x23, 0x18, 0x20, 0x28, 0x30, 0x38}, sels{0x23, 0x18, 0x20, 0x28, 0x30, 0x38}},
		{"nothing known, x86", ContextI386, DecodeContextI386, sels{}, sels{0x08, 0x23, 0x23, 0x30, 0, 0x10}},
		{"user mode, x86", ContextI386, DecodeContextI386, sels{cs: 0x1B}, sels{0x1B, 0x23, 0x23, 0x3B, 0, 0x23}},
	} {
		r := registers()
		r.CS, r.DS, r.ES, r.FS, r.GS, r.SS = seg(tt.in.cs), seg(tt.in.ds), seg(tt.in.es), seg(tt.in.fs), seg(tt.in.gs), seg(tt.in.ss)
		c, err := tt.decode(tt.make(r))
		if err != nil {
			t.Fatalf("%s: decode failed: %v", tt.name, err)
		}
		if got := (sels{c.SegCs, c.SegDs, c.SegEs, c.SegFs, c.SegGs, c.SegSs}); got != tt.want {
			t.Errorf("%s: selectors = %#x; want %#x", tt.name, got, tt.want)
		}
	}
}

// The values are read off hex dumps of the files.
func TestDecodeRealContexts(t *testing.T) {
	ignore := cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "FltSave" }, cmp.Ignore())
	for _, tt := range []struct {
		file   string
		at     int
		decode func([]byte) (Context, error)
		want   Context
		mxcsr  uint32
	}{
		{"triage_x64.bin", 0x348, DecodeContextAMD64, Context{
			Flags: 0x10001F, MxCsr: 0x1F80, EFlags: 0x50246,
			SegCs: 0x10, SegDs: 0x2B, SegEs: 0x2B, SegFs: 0x53, SegGs: 0x2B, SegSs: 0x18,
			Rax: 0xFFFF_C08B_E4DA_6240, Rcx: 0x20, Rdx: 1, Rbx: 1,
			Rsp: 0xFFFF_8504_2989_2120, Rbp: 0xFFFF_F804_8B58_F598, Rsi: 0xFFFF_C08B_E457_FCF0, Rdi: 0xFFFF_C08B_E52E_7310,
			R8: 0xFFFF_9B00_0336_0008, R9: 0x44, R10: 0x20, R11: 0x20,
			R12: 0x15, R13: 0xFFFF_F804_8B59_0B01, R14: 0, R15: 0x15,
			Rip: 0xFFFF_F804_8B58_334C,
		}, 0x1F80},
		{"livekd_win10_x64.bin", 0x348, DecodeContextAMD64, Context{
			Flags: 0x10000F, MxCsr: 0x1F80, EFlags: 0x40246,
			SegCs: 0x10, SegDs: 0x2B, SegEs: 0x2B, SegFs: 0x53, SegGs: 0x2B, SegSs: 0x18,
			Dr:  [8]uint64{1: 0xEA_0000_0000, 2: 0x259_7038_1E00, 3: 0xEA_FFF6_E190, 6: 0x7FFF_1DD4_5220, 7: 0x259_7028_2C60},
			Rax: 0, Rcx: 0xEA_FFF6_E030, Rdx: 0x8000_0000_0000_0000, Rbx: 0xFFFF_F68E_96EF_B740,
			Rsp: 0xFFFF_F68E_96EF_B6D0, Rbp: 0xFFFF_F68E_96EF_BB80, Rsi: 0xEA_FFF6_DFB0, Rdi: 0,
			R8: 0, R9: 0xFFFF_CD8D_DDF4_4080, R10: 0xFF, R11: 0xFFFF_CD8D_E05F_0340,
			R12: 0xFF, R13: 1, R14: 1, R15: 0xFFFF_F68E_96EF_B968,
			Rip: 0xFFFF_F805_197B_2F8F,
		}, 0x1F80},
		{"livekd_win7_x86.bin", 0x320, DecodeContextI386, Context{
			Flags: 0x10007, EFlags: 0x246,
			SegCs: 0x08, SegDs: 0x23, SegEs: 0x23, SegFs: 0x30, SegGs: 0, SegSs: 0x10,
			Dr:  [8]uint64{0: 0x35ECA8, 1: 0x1300000, 2: 0x35E91C, 3: 0x35ED48, 6: 0x35ED44, 7: 0x777870F2},
			Rax: 0x35E8EC, Rcx: 0x2639CFCE, Rdx: 0, Rbx: 0x8CC0BB0C,
			Rsp: 0x8CC0BB08, Rbp: 0x8CC0BB28, Rsi: 0x35E8C4, Rdi: 0x8CC0BB6C,
			Rip: 0xA0133516,
		}, 0},
	} {
		got, err := tt.decode(realHeader(t, tt.file)[tt.at:])
		if err != nil {
			t.Errorf("%s: decode failed: %v", tt.file, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got, ignore); diff != "" {
			t.Errorf("context of %s (-want +got):\n%s", tt.file, diff)
		}
		if got.FltMxCsr() != tt.mxcsr {
			t.Errorf("%s: FltMxCsr() = %#x; want %#x", tt.file, got.FltMxCsr(), tt.mxcsr)
		}
	}
}

func TestDecodeContextRefusesFewBytes(t *testing.T) {
	var bad *FormatError
	if _, err := DecodeContextAMD64(make([]byte, 0x4CF)); !errors.As(err, &bad) {
		t.Errorf("DecodeContextAMD64 of 0x4cf bytes = %v; want a *FormatError", err)
	}
	if _, err := DecodeContextI386(make([]byte, 0x2CB)); !errors.As(err, &bad) {
		t.Errorf("DecodeContextI386 of 0x2cb bytes = %v; want a *FormatError", err)
	}
	if c, err := DecodeContextAMD64(make([]byte, 3000)); err != nil || c != (Context{}) {
		t.Errorf("DecodeContextAMD64 of zeros = %v, %v; want zeros", c, err)
	}
}

// Tags by the table of the Intel SDM, volume 1, 8.1.7.
func TestFullTagWord(t *testing.T) {
	one := [10]byte{7: 0x80, 8: 0xFF, 9: 0x3F}
	for _, tt := range []struct {
		name string
		fpu  phys.FPU
		want uint16
	}{
		{"empty", phys.FPU{}, 0xFFFF},
		{"1.0 in register 0 as ST0", phys.FPU{FTW: 1, ST: [8][10]byte{one}}, 0xFFFC},
		{"0.0 in register 7 as ST0", phys.FPU{FSW: 7 << 11, FTW: 0x80}, 0x7FFF},
		{"1.0 in register 2 as ST4", phys.FPU{FSW: 6 << 11, FTW: 4, ST: [8][10]byte{4: one}}, 0xFFCF},
		{"infinity", phys.FPU{FTW: 1, ST: [8][10]byte{{7: 0x80, 8: 0xFF, 9: 0x7F}}}, 0xFFFE},
		{"negative denormal", phys.FPU{FTW: 1, ST: [8][10]byte{{0: 1, 9: 0x80}}}, 0xFFFE},
		{"unnormal", phys.FPU{FTW: 1, ST: [8][10]byte{{7: 0x40, 8: 0xFF, 9: 0x3F}}}, 0xFFFE},
	} {
		if got := fullTags(&tt.fpu); got != tt.want {
			t.Errorf("%s: tags = %#x; want %#x", tt.name, got, tt.want)
		}
	}
}
