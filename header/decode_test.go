package header

import (
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"snap/phys"
)

// poke returns a copy of b with the little-endian v, of size bytes, at offset at.
func poke(b []byte, at, size int, v uint64) []byte {
	b = append([]byte(nil), b...)
	var w [8]byte
	binary.LittleEndian.PutUint64(w[:], v)
	copy(b[at:at+size], w[:])
	return b
}

func TestDecodeRefuses(t *testing.T) {
	x64 := realHeader(t, "livekd_win10_x64.bin")
	x86 := realHeader(t, "livekd_win7_x86.bin")
	for _, tt := range []struct {
		name   string
		b      []byte
		field  string
		offset int
	}{
		{"nothing", nil, "length", -1},
		{"seven bytes", x64[:7], "length", -1},
		{"one byte short", x64[:0x1FFF], "length", -1},
		{"one byte short, 32-bit", x86[:0xFFF], "length", -1},
		{"another signature", poke(x64, 0, 4, 0x464C457F), "Signature", 0},
		{"a dump that was never finished", poke(x64, 4, 4, 0), "ValidDump", 4},
		{"an unset dump type", poke(x64, 0xF98, 4, 0x45474150), "DumpType", 0xF98},
		{"dump type 0", poke(x64, 0xF98, 4, 0), "DumpType", 0xF98},
		{"dump type 7", poke(x64, 0xF98, 4, 7), "DumpType", 0xF98},
		{"dump type 11", poke(x64, 0xF98, 4, 11), "DumpType", 0xF98},
		{"dump type -1", poke(x86, 0xF88, 4, 0xFFFFFFFF), "DumpType", 0xF88},
		{"an unset machine", poke(x64, 0x30, 4, 0x45474150), "MachineImageType", 0x30},
		{"x86 in a 64-bit header", poke(x64, 0x30, 4, 0x14C), "MachineImageType", 0x30},
		{"AMD64 in a 32-bit header", poke(x86, 0x20, 4, 0x8664), "MachineImageType", 0x20},
		{"unset runs", poke(x64, 0x88, 4, 0x45474150), "NumberOfRuns", 0x88},
		{"no runs", poke(x64, 0x88, 4, 0), "NumberOfRuns", 0x88},
		{"43 runs", poke(x64, 0x88, 4, 43), "NumberOfRuns", 0x88},
		{"the most runs", poke(x64, 0x88, 4, 0xFFFFFFFF), "NumberOfRuns", 0x88},
		{"87 runs, 32-bit", poke(x86, 0x64, 4, 87), "NumberOfRuns", 0x64},
		{"an empty run", poke(x64, 0xB0, 8, 0), "Run[1]", 0xA8},
		{"a run below the one before", poke(x64, 0xA8, 8, 0), "Run[1]", 0xA8},
		{"a run that overlaps", poke(x64, 0xA8, 8, 0x9F), "Run[1]", 0xA8},
		{"a run past the address space", poke(x64, 0xC8, 8, 1<<40), "Run[3]", 0xC8},
		{"a run that ends past it", poke(x64, 0xD0, 8, 1<<40), "Run[3]", 0xC8},
		{"a run that wraps around", poke(x64, 0xD0, 8, math.MaxUint64), "Run[3]", 0xC8},
		{"an overlap, 32-bit", poke(x86, 0x74, 4, 0x9E), "Run[1]", 0x74},
		{"a page too many", poke(x64, 0x90, 8, 0x3FFC70), "NumberOfPages", 0x90},
		{"a page too few, 32-bit", poke(x86, 0x68, 4, 0xBFF7C), "NumberOfPages", 0x68},
	} {
		h, err := Decode(tt.b)
		var bad *FormatError
		if !errors.As(err, &bad) {
			t.Errorf("%s: Decode = %v, %v; want a *FormatError", tt.name, h, err)
			continue
		}
		if h != nil || bad.Field != tt.field || bad.Offset != tt.offset {
			t.Errorf("%s: Decode = %v, error at %s (%#x); want nil, %s (%#x)", tt.name, h, bad.Field, bad.Offset, tt.field, tt.offset)
		}
		if !strings.Contains(err.Error(), tt.field) {
			t.Errorf("%s: error %q does not name %s", tt.name, err, tt.field)
		}
	}
}

// The error shows what the field holds, so that one can look it up.
func TestFormatErrorShowsTheValue(t *testing.T) {
	b := realHeader(t, "livekd_win10_x64.bin")
	for _, tt := range []struct {
		b    []byte
		want string
	}{
		{poke(b, 0x90, 8, 0x3FFC70), "dump header: NumberOfPages at offset 0x90 is 0x3ffc70: the runs have 0x3ffc6f pages"},
		{b[:0x1000], "dump header: length is 0x1000: a header has 0x2000 bytes"},
	} {
		if _, err := Decode(tt.b); err == nil || err.Error() != tt.want {
			t.Errorf("Decode failed with %v; want %s", err, tt.want)
		}
	}
}

func TestDecodeTakes(t *testing.T) {
	x64 := realHeader(t, "livekd_win10_x64.bin")
	for _, tt := range []struct {
		name string
		b    []byte
		runs int
	}{
		{"more than a header", append(x64[:len(x64):len(x64)], 1, 2, 3), 4},
		{"runs that touch", poke(x64, 0xA8, 8, 0xA0), 4},
		{"a bitmap dump with runs", poke(x64, 0xF98, 4, 5), 4},
		{"a bitmap dump without", poke(poke(x64, 0xF98, 4, 5), 0x88, 4, 0), 0},
		{"a bitmap dump with runs in disorder", poke(poke(x64, 0xF98, 4, 5), 0xA8, 8, 0), 0},
		{"a triage dump with a count of anything", poke(poke(x64, 0xF98, 4, 4), 0x88, 4, 1000), 0},
	} {
		h, err := Decode(tt.b)
		if err != nil {
			t.Errorf("%s: Decode failed: %v", tt.name, err)
			continue
		}
		if len(h.Runs) != tt.runs {
			t.Errorf("%s: Decode found %d runs; want %d", tt.name, len(h.Runs), tt.runs)
		}
		got, err := h.Encode()
		if err != nil || string(got) != string(tt.b[:0x2000]) {
			t.Errorf("%s: Encode changed the bytes, error %v", tt.name, err)
		}
	}
}

func TestDecodeSharesNothing(t *testing.T) {
	b := realHeader(t, "triage_x64.bin")
	want := string(b)
	h, err := Decode(b)
	if err != nil {
		t.Fatalf("Decode failed: %v", err)
	}
	clear(b)
	got, err := h.Encode()
	if err != nil || string(got) != want {
		t.Errorf("Encode after the caller's buffer changed: error %v; want the bytes from before", err)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, file, field string
		change            func(*Header)
	}{
		{"no width", "livekd_win10_x64.bin", "Width", func(h *Header) { h.Width = 0 }},
		{"wrong signature", "livekd_win10_x64.bin", "Signature", func(h *Header) { h.Signature = 0 }},
		{"32-bit magic", "livekd_win10_x64.bin", "ValidDump", func(h *Header) { h.ValidDump = ValidDump32 }},
		{"64-bit magic", "livekd_win7_x86.bin", "ValidDump", func(h *Header) { h.ValidDump = ValidDump64 }},
		{"no type", "livekd_win10_x64.bin", "DumpType", func(h *Header) { h.DumpType = 0 }},
		{"other machine", "livekd_win7_x86.bin", "MachineImageType", func(h *Header) { h.MachineImageType = MachineAMD64 }},
		{"no runs", "livekd_win10_x64.bin", "NumberOfRuns", func(h *Header) { h.Runs = nil }},
		{"43 runs", "livekd_win10_x64.bin", "NumberOfRuns", func(h *Header) { h.Runs, h.NumberOfPages = manyRuns(43), 43 }},
		{"87 runs", "livekd_win7_x86.bin", "NumberOfRuns", func(h *Header) { h.Runs, h.NumberOfPages = manyRuns(87), 87 }},
		{"disorder", "livekd_win10_x64.bin", "Run[1]", func(h *Header) { h.Runs[0], h.Runs[1] = h.Runs[1], h.Runs[0] }},
		{"wrong sum", "livekd_win10_x64.bin", "NumberOfPages", func(h *Header) { h.NumberOfPages++ }},
		{"runs above 32 bits", "livekd_win7_x86.bin", "Run[1]", func(h *Header) { h.Runs[1].Base = 1 << 32 }},
		{"wide address", "livekd_win7_x86.bin", "PsLoadedModuleList", func(h *Header) { h.PsLoadedModuleList = 0xFFFF_FFFF_8299_9850 }},
		{"wide parameter", "livekd_win7_x86.bin", "BugCheckParameter4", func(h *Header) { h.BugCheckParameter[3] = 1 << 32 }},
		{"wide exception", "livekd_win7_x86.bin", "ExceptionInformation", func(h *Header) { h.ExceptionRecord.ExceptionInformation[2] = 1 << 32 }},
		{"short context", "livekd_win10_x64.bin", "ContextRecord", func(h *Header) { h.ContextRecord = h.ContextRecord[1:] }},
		{"long comment", "livekd_win10_x64.bin", "Comment", func(h *Header) { h.Comment = strings.Repeat("c", 128) }},
		{"NUL in a text", "livekd_win10_x64.bin", "VersionUser", func(h *Header) { h.VersionUser = "a\x00b" }},
	} {
		h, err := Decode(realHeader(t, tt.file))
		if err != nil {
			t.Fatalf("Decode(%s) failed: %v", tt.file, err)
		}
		tt.change(h)
		got, err := h.Encode()
		var bad *FormatError
		if !errors.As(err, &bad) || bad.Field != tt.field || got != nil {
			t.Errorf("%s: Encode = %d bytes, %v; want a *FormatError for %s", tt.name, len(got), err, tt.field)
		}
	}
}

// manyRuns returns n runs of one page each, with a page between them.
func manyRuns(n int) []phys.Run {
	runs := make([]phys.Run, n)
	for i := range runs {
		runs[i] = phys.Run{Base: phys.PFN(2*i + 1), Pages: 1}
	}
	return runs
}
