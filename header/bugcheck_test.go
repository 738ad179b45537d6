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
