package header

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a person reads, for fields of each kind.
func TestFieldsOfRealHeaders(t *testing.T) {
	for _, tt := range []struct {
		file string
		want map[string]string
	}{
		{"triage_x64.bin", map[string]string{
			"Signature":          `"PAGE"`,
			"ValidDump":          `"DU64"`,
			"MinorVersion":       "19041",
			"DirectoryTableBase": "0x1ad000",
			"PsLoadedModuleList": "0xfffff8047c62a390",
			"MachineImageType":   "AMD64 (0x8664)",
			"NumberProcessors":   "16",
			"BugCheckCode":       "0x1000007e",
			"VersionUser":        "unset",
			"NumberOfRuns":       "unset",
			"Run":                "unset",
			"Padding3C":          "",
			"ContextRecord":      "flags 0x10001f rip 0xfffff8048b58334c rsp 0xffff850429892120",
			"DumpType":           "triage (4)",
			"SystemTime":         "2021-02-21T01:38:22.9877657Z",
			"SystemUpTime":       "3.7470697s",
			"Comment":            "unset",
			"KdSecondaryVersion": "0",
			"Attributes":         "unset",
		}},
		{"livekd_win10_x64.bin", map[string]string{
			"VersionUser":        `""`,
			"NumberOfRuns":       "4",
			"Run":                "[0x1000, 0xa0000) [0x100000, 0x7f8ef000) [0x7fbff000, 0x7ffe0000) [0x100000000, 0x480000000)",
			"DumpType":           "full (1)",
			"SystemUpTime":       "unset",
			"Comment":            `"LiveKD live system view"`,
			"KdSecondaryVersion": "2",
		}},
		{"livekd_win7_x86.bin", map[string]string{
			"MachineImageType":     "x86 (0x14c)",
			"PsLoadedModuleList":   "0x82999850",
			"PaeEnabled":           "1",
			"KdSecondaryVersion":   "unset",
			"KdDebuggerDataBlock":  "unset",
			"ContextRecord":        "flags 0x10007 eip 0xa0133516 esp 0x8cc0bb08",
			"ExceptionInformation": "0x76eea671 0x5dc 0x23450000 0x35e8c4 0x320 0x35e8c4 0x320 0x35e8a0 0x0 0x5a4 0x35edf0 0x25226 0x5dc 0x23450000 0x35e8c4",
		}},
		{"triage_arm64.bin", map[string]string{
			"MachineImageType":     "ARM64 (0xaa64)",
			"ContextRecord":        "3000 bytes",
			"ExceptionInformation": "unset",
			"BootId":               "13",
		}},
	} {
		h, err := Decode(realHeader(t, tt.file))
		if err != nil {
			t.Fatalf("Decode(%s) failed: %v", tt.file, err)
		}
		got := map[string]string{}
		end := 0
		for _, f := range h.Fields() {
			if f.Offset != end {
				t.Errorf("%s: %s is listed at %#x; want %#x", tt.file, f.Name, f.Offset, end)
			}
			end = f.Offset + f.Size
			if _, ok := tt.want[f.Name]; ok {
				got[f.Name] = f.Value
			}
			if f.Kind != KindReserved && f.Set == (f.Value == "unset") {
				t.Errorf("%s: %s has the value %q, but Set = %v", tt.file, f.Name, f.Value, f.Set)
			}
			if h.IsSet(f.Name) != f.Set {
				t.Errorf("%s: IsSet(%s) = %v; want %v", tt.file, f.Name, !f.Set, f.Set)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("fields of %s (-want +got):\n%s", tt.file, diff)
		}
	}
}

func TestFieldsFollowChanges(t *testing.T) {
	h, err := Decode(realHeader(t, "triage_x64.bin"))
	if err != nil {
		t.Fatalf("Decode failed: %v", err)
	}
	if h.IsSet("BootId") || h.IsSet("NoSuchField") {
		t.Errorf("IsSet(BootId), IsSet(NoSuchField) = %v, %v; want false", h.IsSet("BootId"), h.IsSet("NoSuchField"))
	}
	h.BootID = 3
	h.ContextRecord = make([]byte, 3000)
	h.SystemUpTime = 1 << 63
	want := map[string]string{"BootId": "3", "ContextRecord": "all zero", "SystemUpTime": "9223372036854775808 units of 100 ns"}
	for _, f := range h.Fields() {
		if v, ok := want[f.Name]; ok && (f.Value != v || !f.Set) {
			t.Errorf("%s = %q, set %v; want %q", f.Name, f.Value, f.Set, v)
		}
	}
}

// A header that Encode refuses can still be looked at.
func TestFieldsOfABrokenHeader(t *testing.T) {
	h, err := Decode(realHeader(t, "livekd_win7_x86.bin"))
	if err != nil {
		t.Fatalf("Decode failed: %v", err)
	}
	h.Runs = manyRuns(200)
	h.BugCheckParameter[0] = 1 << 40
	h.Comment = "\xFF"
	if got := len(h.Fields()); got != len(Layout(Width32)) {
		t.Errorf("Fields() lists %d fields; want %d", got, len(Layout(Width32)))
	}
	if got := (&Header{Runs: manyRuns(3)}).Fields(); got != nil {
		t.Errorf("Fields() of a header without width = %v; want nil", got)
	}
}
