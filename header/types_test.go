package header

import (
	"testing"
	"time"
)

// FILETIMEs from Microsoft's documentation and from the real dumps.
func TestFileTime(t *testing.T) {
	for _, tt := range []struct {
		v    uint64
		want time.Time
	}{
		{0, time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC)},
		{116444736000000000, time.Unix(0, 0).UTC()},
		{0x01D7_07F2_3DBB_3399, time.Date(2021, 2, 21, 1, 38, 22, 987765700, time.UTC)},
		{1, time.Date(1601, 1, 1, 0, 0, 0, 100, time.UTC)},
	} {
		if got := FileTime(tt.v); !got.Equal(tt.want) {
			t.Errorf("FileTime(%d) = %v; want %v", tt.v, got, tt.want)
		}
	}
}

func TestNames(t *testing.T) {
	types := map[DumpType]string{
		0xFFFFFFFF: "invalid", 0: "unknown", 1: "full", 2: "summary", 3: "header only", 4: "triage",
		5: "bitmap full", 6: "bitmap kernel", 7: "automatic", 8: "kernel memory",
		9: "kernel and user memory", 10: "complete memory", 11: "type 0xb",
	}
	for v, want := range types {
		if got := v.String(); got != want {
			t.Errorf("DumpType(%d).String() = %q; want %q", uint32(v), got, want)
		}
	}
	machines := map[Machine]string{
		0x14C: "x86", 0x1C4: "ARM", 0x200: "IA-64", 0x8664: "AMD64", 0xAA64: "ARM64", 0x45474150: "machine 0x45474150",
	}
	for v, want := range machines {
		if got := v.String(); got != want {
			t.Errorf("Machine(%#x).String() = %q; want %q", uint32(v), got, want)
		}
	}
}
