package header

import "testing"

func TestBugChecks(t *testing.T) {
	for _, tt := range []struct {
		code uint32
		name string
		live bool
	}{
		{0x161, "LIVE_SYSTEM_DUMP", true},
		{0x193, "", true},
		{0xE2, "MANUALLY_INITIATED_CRASH", false},
		{0x7E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED", false},
		{0x1000007E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED", false}, // of a real minidump
		{0xDEADDEAD, "MANUALLY_INITIATED_CRASH1", false},
		{0xC000021A, "WINLOGON_FATAL_ERROR", false},
		{0, "", false},
		{0x12345, "", false},
	} {
		if name, live := BugCheckName(tt.code), LiveBugCheck(tt.code); name != tt.name || live != tt.live {
			t.Errorf("%#x is %q, live: %v; want %q, %v", tt.code, name, live, tt.name, tt.live)
		}
	}
}

func TestSameBugCheck(t *testing.T) {
	for _, tt := range []struct {
		a, b uint32
		same bool
	}{{0x7E, 0x1000007E, true}, {0x1000007E, 0x7E, true}, {0xD1, 0xD1, true}, {0x7E, 0x7F, false}, {0xC000021A, 0x21A, false}} {
		if got := SameBugCheck(tt.a, tt.b); got != tt.same {
			t.Errorf("SameBugCheck(%#x, %#x) = %t", tt.a, tt.b, got)
		}
	}
}

// TestContextCode: the code segment tells the kernel, programs of 64 bits and those of 32.
func TestContextCode(t *testing.T) {
	for cs, want := range map[uint16]CodeMode{0x10: KernelCode, 0x33: UserCode, 0x23: UserCode32, 0x1B: UserCode32} {
		if got := (&Context{SegCs: cs}).Code(); got != want {
			t.Errorf("Code() with CS %#x = %d; want %d", cs, got, want)
		}
	}
}
