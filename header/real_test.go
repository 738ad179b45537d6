package header

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"snap/phys"
)

// realHeader reads a header from testdata.
func realHeader(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatalf("read a real header: %v", err)
	}
	return b
}

// The values are read off a hex dump of the files. Texts that are not set are
// "", integers Unset32 or Unset64.
var realHeaders = map[string]Header{
	"livekd_win10_x64.bin": {
		Width: 64, Signature: 0x45474150, ValidDump: 0x34365544,
		MajorVersion: 0xF, MinorVersion: 0x23F0,
		DirectoryTableBase: 0x3_E6B1_A000, PfnDataBase: 0xFFFF_DF80_0000_0000,
		PsLoadedModuleList: 0xFFFF_F805_10A2_A2B0, PsActiveProcessHead: 0xFFFF_F805_10A1_E060,
		MachineImageType: 0x8664, NumberProcessors: 8,
		KdSecondaryVersion: 2, KdDebuggerDataBlock: 0xFFFF_F805_10A0_0B20,
		Runs: []phys.Run{
			{Base: 1, Pages: 0x9F},
			{Base: 0x100, Pages: 0x7F7EF},
			{Base: 0x7FBFF, Pages: 0x3E1},
			{Base: 0x100000, Pages: 0x380000},
		},
		NumberOfPages: 0x3F_FC6F,
		ExceptionRecord: ExceptionRecord{
			ExceptionCode: 0x8000_0003, ExceptionFlags: 1, ExceptionAddress: 0xFFFF_F805_197B_2F8F,
		},
		DumpType: 1, RequiredDumpSpace: 0x3_FFC6_F000,
		SystemTime: 0x01D6_4CB3_A523_A374, SystemUpTime: 0x4547_4150_4547_4150,
		Comment:        "LiveKD live system view",
		MiniDumpFields: Unset32, SecondaryDataState: 0, ProductType: Unset32, SuiteMask: Unset32,
		WriterStatus: Unset32, Attributes: Unset32, BootID: Unset32,
	},
	"livekd_win7_x86.bin": {
		Width: 32, Signature: 0x45474150, ValidDump: 0x504D5544,
		MajorVersion: 0xF, MinorVersion: 0x1DB1,
		DirectoryTableBase: 0xBF62_F2E0, PfnDataBase: 0x829B_9700,
		PsLoadedModuleList: 0x8299_9850, PsActiveProcessHead: 0x8299_1F18,
		MachineImageType: 0x14C, NumberProcessors: 2,
		PaeEnabled: 1, KdSecondaryVersion: 'A', KdDebuggerDataBlock: 0x4547_4150,
		Runs:          []phys.Run{{Base: 1, Pages: 0x9E}, {Base: 0x100, Pages: 0xBFEDF}},
		NumberOfPages: 0xB_FF7D,
		ExceptionRecord: ExceptionRecord{
			ExceptionCode: 0x8000_0003, ExceptionFlags: 1, ExceptionAddress: 0xA013_3516,
		},
		DumpType: 1, RequiredDumpSpace: 0xBFF7_D000,
		SystemTime: 0x01D6_5091_99BF_63E0, SystemUpTime: 0x4547_4150_4547_4150,
		Comment:        "LiveKD live system view",
		MiniDumpFields: Unset32, SecondaryDataState: Unset32, ProductType: Unset32, SuiteMask: Unset32,
		WriterStatus: Unset32, Attributes: Unset32, BootID: Unset32,
	},
	"triage_x64.bin": {
		Width: 64, Signature: 0x45474150, ValidDump: 0x34365544,
		MajorVersion: 0xF, MinorVersion: 0x4A61,
		DirectoryTableBase: 0x1A_D000, PfnDataBase: 0xFFFF_F804_7C6F_C500,
		PsLoadedModuleList: 0xFFFF_F804_7C62_A390, PsActiveProcessHead: 0xFFFF_F804_7C61_E200,
		MachineImageType: 0x8664, NumberProcessors: 16,
		BugCheckCode: 0x1000_007E,
		BugCheckParameter: [4]uint64{
			0xFFFF_FFFF_C000_0005, 0xFFFF_F804_8B58_334C, 0xFFFF_8504_2989_1EE8, 0xFFFF_8504_2989_1720,
		},
		KdSecondaryVersion: 0, KdDebuggerDataBlock: 0xFFFF_F804_7C60_0B20,
		NumberOfPages: 0x4547_4150_4547_4150,
		ExceptionRecord: ExceptionRecord{
			ExceptionCode: 0x8000_0003, ExceptionFlags: 1, ExceptionAddress: 0xFFFF_F804_7BDF_5A80,
		},
		DumpType: 4, RequiredDumpSpace: 0x19_7915,
		SystemTime: 0x01D7_07F2_3DBB_3399, SystemUpTime: 0x023B_C1E9,
		MiniDumpFields: 0xCFF, SecondaryDataState: Unset32, ProductType: 1, SuiteMask: 0x110,
		WriterStatus: 0, Attributes: Unset32, BootID: Unset32,
	},
	"triage_arm64.bin": {
		Width: 64, Signature: 0x45474150, ValidDump: 0x34365544,
		MajorVersion: 0xF, MinorVersion: 0x55F0,
		DirectoryTableBase: 0x946A_A000, PfnDataBase: 0xFFFF_F803_F3B1_9960,
		PsLoadedModuleList: 0xFFFF_F803_F3A2_AA20, PsActiveProcessHead: 0xFFFF_F803_F3A1_D1C0,
		MachineImageType: 0xAA64, NumberProcessors: 8,
		BugCheckCode: 0x1C8, BugCheckParameter: [4]uint64{0x1B58, 0xFFFF_F803_F3A2_0860},
		KdSecondaryVersion: 0, KdDebuggerDataBlock: 0xFFFF_F803_F3A0_0D00,
		NumberOfPages: 0x4547_4150_4547_4150,
		ExceptionRecord: ExceptionRecord{
			ExceptionCode: 0x8000_0003, ExceptionFlags: 1, ExceptionAddress: 0xFFFF_F803_F32D_E014,
		},
		DumpType: 4, RequiredDumpSpace: 0x16_1714,
		SystemTime: 0x01D7_A913_7C0D_BDD7, SystemUpTime: 0x1_DADF_9678,
		MiniDumpFields: 0xCFF, SecondaryDataState: Unset32, ProductType: 1, SuiteMask: 0x110,
		WriterStatus: 0, Attributes: Unset32, BootID: 0xD,
	},
}

func TestDecodeRealHeaders(t *testing.T) {
	for name, want := range realHeaders {
		b := realHeader(t, name)
		got, err := Decode(b)
		if err != nil {
			t.Errorf("Decode(%s) failed: %v", name, err)
			continue
		}
		// Both areas are held against the file's bytes below, and by the tests of Context.
		ignore := []cmp.Option{
			cmpopts.IgnoreUnexported(Header{}),
			cmpopts.IgnoreFields(Header{}, "ContextRecord"),
			cmpopts.IgnoreFields(ExceptionRecord{}, "ExceptionInformation"),
		}
		if diff := cmp.Diff(&want, got, ignore...); diff != "" {
			t.Errorf("Decode(%s) (-want +got):\n%s", name, diff)
		}
		at, n := 0x348, 3000
		if want.Width == Width32 {
			at, n = 0x320, 1200
		}
		if !bytes.Equal(got.ContextRecord, b[at:at+n]) {
			t.Errorf("Decode(%s).ContextRecord differs from the bytes at %#x", name, at)
		}
		if n, err := SizeOf(b[:8]); err != nil || n != len(b) {
			t.Errorf("SizeOf(%s) = %#x, %v; want %#x", name, n, err, len(b))
		}
	}
}

func TestRealHeadersEncodeToTheSameBytes(t *testing.T) {
	for name := range realHeaders {
		b := realHeader(t, name)
		h, err := Decode(b)
		if err != nil {
			t.Errorf("Decode(%s) failed: %v", name, err)
			continue
		}
		got, err := h.Encode()
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("Encode of %s: error %v, equal %v; want the same bytes", name, err, bytes.Equal(got, b))
		}
	}
}

// A change of one field changes that field's bytes only.
func TestEncodeTouchesOnlyWhatChanged(t *testing.T) {
	for _, tt := range []struct {
		file   string
		change func(*Header)
		at     int
		want   string // bytes at that offset; all others stay
	}{
		{"triage_x64.bin", func(h *Header) { h.BootID = 7 }, 0x1054, "\x07\x00\x00\x00"},
		{"triage_x64.bin", func(h *Header) { h.KdSecondaryVersion = 2 }, 0x104D, "\x02"},
		{"triage_arm64.bin", func(h *Header) { h.ExceptionRecord.ExceptionInformation[14] = 5 }, 0xF90, "\x05\x00\x00\x00\x00\x00\x00\x00"},
		{"livekd_win7_x86.bin", func(h *Header) { h.KdDebuggerDataBlock = 0x8297_8C28 }, 0x60, "\x28\x8C\x97\x82"},
		{"livekd_win7_x86.bin", func(h *Header) { h.ExceptionRecord.ExceptionInformation[14] = 5 }, 0x81C, "\x05\x00\x00\x00"},
		{"livekd_win10_x64.bin", func(h *Header) { h.VersionUser = "v" }, 0x60, "v\x00GE"},
		{"livekd_win10_x64.bin", func(h *Header) { h.Comment = "another one" }, 0xFB0, "another one\x00PAGEPAGEPAGEPAGE"},
	} {
		b := realHeader(t, tt.file)
		h, err := Decode(b)
		if err != nil {
			t.Fatalf("Decode(%s) failed: %v", tt.file, err)
		}
		tt.change(h)
		got, err := h.Encode()
		if err != nil {
			t.Errorf("%s, change at %#x: Encode failed: %v", tt.file, tt.at, err)
			continue
		}
		copy(b[tt.at:], tt.want)
		if !bytes.Equal(got, b) {
			t.Errorf("%s, change at %#x: bytes there are % x; want % x and no other change",
				tt.file, tt.at, got[tt.at:tt.at+len(tt.want)], tt.want)
		}
	}
}
