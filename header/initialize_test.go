package header

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"snap/phys"
)

// from is a value with an origin.
func from[T any](v T) phys.Known[T] { return phys.Know(v, "a test") }

func parameters(p ...uint64) (out [4]phys.Known[uint64]) {
	for i := range out {
		out[i] = from(p[i])
	}
	return out
}

// factsAMD64 describes a guest like the one of triage_x64.bin.
func factsAMD64() *Facts {
	ctx := ContextAMD64(&phys.Registers{
		RIP: 0xFFFF_F804_8B58_334C, RSP: 0xFFFF_8504_2989_2120, RFLAGS: 0x50246,
		CS: phys.Segment{Selector: 0x10}, SS: phys.Segment{Selector: 0x18},
	})
	return &Facts{
		Machine:             from[Machine](MachineAMD64),
		NtBuildNumber:       from[uint32](0xF000_4A61),
		DirectoryTableBase:  from[phys.Addr](0x1A_D002), // with a PCID
		PfnDatabase:         from[phys.VirtAddr](0xFFFF_FA80_0000_0000),
		PsLoadedModuleList:  from[phys.VirtAddr](0xFFFF_F804_7C62_A390),
		PsActiveProcessHead: from[phys.VirtAddr](0xFFFF_F804_7C61_E200),
		KdDebuggerDataBlock: from[phys.VirtAddr](0xFFFF_F804_7C60_0B20),
		NumberProcessors:    from[uint32](16),
		Runs:                from([]phys.Run{{Base: 1, Pages: 0x9F}, {Base: 0x100, Pages: 0x7F7EF}, {Base: 0x100000, Pages: 0x380000}}),
		BugCheckCode:        from[uint32](BugCheckLiveSystemDump),
		BugCheckParameter:   parameters(1, 2, 3, 0xFFFF_F804_0000_0004),
		SystemTime:          from[uint64](0x01D7_07F2_3DBB_3399),
		SystemUpTime:        from[uint64](0x023B_C1E9),
		ProductType:         from[uint32](1),
		SuiteMask:           from[uint32](0x110),
		BootID:              from[uint32](0xD),
		Comment:             from("taken from outside"),
		Context:             from(ctx),
	}
}

// factsI386 describes a guest like the one of livekd_win7_x86.bin. Addresses
// are sign-extended, as in a KDBG.
func factsI386() *Facts {
	ctx := ContextI386(&phys.Registers{
		RIP: 0xA013_3516, RSP: 0x8CC0_BB08, RFLAGS: 0x246,
		CS: phys.Segment{Selector: 0x08}, SS: phys.Segment{Selector: 0x10},
	})
	return &Facts{
		Machine:             from[Machine](MachineI386),
		NtBuildNumber:       from[uint32](0xF000_1DB1),
		DirectoryTableBase:  from[phys.Addr](0x18_52E7),
		PAE:                 from[bool](true),
		PfnDatabase:         from[phys.VirtAddr](0xFFFF_FFFF_8300_0000),
		PsLoadedModuleList:  from[phys.VirtAddr](0xFFFF_FFFF_8299_9850),
		PsActiveProcessHead: from[phys.VirtAddr](0x8299_1F18),
		KdDebuggerDataBlock: from[phys.VirtAddr](0xFFFF_FFFF_8297_8C28),
		NumberProcessors:    from[uint32](2),
		Runs:                from([]phys.Run{{Base: 1, Pages: 0x9E}, {Base: 0x100, Pages: 0xBFEDF}}),
		BugCheckCode:        from[uint32](0xE2),
		BugCheckParameter:   parameters(0, 0, 0, 0),
		SystemTime:          from[uint64](0x01D6_5091_99BF_63E0),
		SystemUpTime:        from[uint64](0x1_0000_0001),
		ProductType:         from[uint32](3),
		SuiteMask:           from[uint32](0x112),
		BootID:              from[uint32](0),
		Context:             from(ctx),
	}
}

// expectation is bytes that must be at an offset, all others being 'PAGE'.
type expectation struct {
	at   int
	want any // uint32, uint64, []byte, string
}

// holdBytes compares got with 'PAGE' everywhere but where it is told otherwise.
// It shares nothing with the field table.
func holdBytes(t *testing.T, got []byte, size int, wants []expectation) {
	t.Helper()
	want := bytes.Repeat([]byte("PAGE"), size/4)
	for _, e := range wants {
		var n int
		var err error
		switch v := e.want.(type) {
		case []byte:
			n = copy(want[e.at:], v)
		case string:
			n = copy(want[e.at:], v)
		default:
			n, err = binary.Encode(want[e.at:], binary.LittleEndian, v)
		}
		if err != nil || n == 0 {
			t.Fatalf("expectation at %#x: %d bytes, %v", e.at, n, err)
		}
	}
	if len(got) != size {
		t.Fatalf("header has %#x bytes; want %#x", len(got), size)
	}
	for at := 0; at < size; at += 4 {
		if !bytes.Equal(got[at:at+4], want[at:at+4]) {
			t.Errorf("bytes at %#x = % x; want % x", at, got[at:at+4], want[at:at+4])
		}
	}
}

func TestInitializeAMD64(t *testing.T) {
	facts := factsAMD64()
	buffer := make([]byte, 0x2000)
	if n, err := InitializeCrashDumpHeader(1, 0, buffer, facts); err != nil || n != 0x2000 {
		t.Fatalf("InitializeCrashDumpHeader = %#x, %v; want 0x2000", n, err)
	}
	context := make([]byte, 3000)
	copy(context, facts.Context.Value)
	holdBytes(t, buffer, 0x2000, []expectation{
		{0x0004, "DU64"},
		{0x0008, []uint32{0xF, 19041}},
		{0x0010, uint64(0x1AD000)},
		{0x0018, uint64(0xFFFF_FA80_0000_0000)},
		{0x0020, uint64(0xFFFF_F804_7C62_A390)},
		{0x0028, uint64(0xFFFF_F804_7C61_E200)},
		{0x0030, []uint32{0x8664, 16, 0x161}},
		{0x0040, []uint64{1, 2, 3, 0xFFFF_F804_0000_0004}},
		{0x0080, uint64(0xFFFF_F804_7C60_0B20)},
		{0x0088, uint32(3)},
		{0x0090, uint64(0x9F + 0x7F7EF + 0x380000)},
		{0x0098, []uint64{1, 0x9F, 0x100, 0x7F7EF, 0x100000, 0x380000}},
		{0x0348, context},
		{0x0F00, []uint32{0x80000003, 1}},
		{0x0F08, []uint64{0, 0xFFFF_F804_8B58_334C}},
		{0x0F18, uint32(0)},
		{0x0F98, uint32(1)},
		{0x0FA0, uint64(0x2000 + (0x9F+0x7F7EF+0x380000)*0x1000)},
		{0x0FA8, uint64(0x01D7_07F2_3DBB_3399)},
		{0x0FB0, "taken from outside\x00"},
		{0x1030, uint64(0x023B_C1E9)},
		{0x1040, []uint32{1, 0x110, 0}},
		{0x104D, []byte{2}},
		{0x1050, []uint32{0, 0xD}},
	})
}

func TestInitializeI386(t *testing.T) {
	facts := factsI386()
	buffer := make([]byte, 0x1000)
	if n, err := InitializeCrashDumpHeader(1, 0, buffer, facts); err != nil || n != 0x1000 {
		t.Fatalf("InitializeCrashDumpHeader = %#x, %v; want 0x1000", n, err)
	}
	context := make([]byte, 1200)
	copy(context, facts.Context.Value)
	holdBytes(t, buffer, 0x1000, []expectation{
		{0x004, "DUMP"},
		{0x008, []uint32{0xF, 7601, 0x1852E0, 0x8300_0000, 0x8299_9850, 0x8299_1F18, 0x14C, 2, 0xE2, 0, 0, 0, 0}},
		{0x05C, []byte{1, 0}},
		{0x060, []uint32{0x8297_8C28, 2, 0x9E + 0xBFEDF, 1, 0x9E, 0x100, 0xBFEDF}},
		{0x320, context},
		{0x7D0, []uint32{0x80000003, 1, 0, 0xA013_3516, 0}},
		{0x8A0, []uint32{0, 0}},
		{0xF88, uint32(1)},
		{0xF94, []uint32{3, 0x112, 0}},
		{0xFA0, uint64(0x1000 + (0x9E+0xBFEDF)*0x1000)},
		{0xFB8, uint64(0x1_0000_0001)},
		{0xFC0, uint64(0x01D6_5091_99BF_63E0)},
	})
}

// Without PAE the page directory fills a page.
func TestInitializeI386WithoutPAE(t *testing.T) {
	facts := factsI386()
	facts.PAE.Value = false
	buffer := make([]byte, 0x1000)
	if _, err := InitializeCrashDumpHeader(1, 0, buffer, facts); err != nil {
		t.Fatalf("InitializeCrashDumpHeader failed: %v", err)
	}
	if got := binary.LittleEndian.Uint32(buffer[0x10:]); got != 0x185000 || buffer[0x5C] != 0 {
		t.Errorf("DirectoryTableBase, PaeEnabled = %#x, %d; want 0x185000, 0", got, buffer[0x5C])
	}
}

// What the facts lack stays as the kernel's routine leaves it.
func TestInitializeWithTheLeast(t *testing.T) {
	facts := factsAMD64()
	facts.Context.Value, facts.Comment.Value, facts.PfnDatabase.Value = nil, "", 0
	buffer := make([]byte, 0x2000)
	if _, err := InitializeCrashDumpHeader(1, 0, buffer, facts); err != nil {
		t.Fatalf("InitializeCrashDumpHeader failed: %v", err)
	}
	if got := string(buffer[0x18:0x20]); got != "PAGEPAGE" {
		t.Errorf("PfnDataBase = %q; want it unset", got)
	}
	if got := buffer[0xFB0:0x1030]; !bytes.Equal(got, bytes.Repeat([]byte("PAGE"), 32)) {
		t.Errorf("Comment = %q; want it unset", got)
	}
	if got := buffer[0x348:0xF00]; !bytes.Equal(got, make([]byte, 3000)) {
		t.Errorf("ContextRecord is not all zero")
	}
	if got := binary.LittleEndian.Uint64(buffer[0xF10:]); got != 0 {
		t.Errorf("ExceptionAddress = %#x; want 0 without a context", got)
	}
}

func TestInitializeContract(t *testing.T) {
	none := factsAMD64()
	none.Machine.Value = MachineARM64
	for _, tt := range []struct {
		name            string
		dumpType, flags uint32
		buffer          int
		facts           *Facts
		needed          int
		status          NTSTATUS
	}{
		{"an exact buffer", 1, 0, 0x2000, factsAMD64(), 0x2000, 0},
		{"a long buffer", 1, 0, 0x3000, factsAMD64(), 0x2000, 0},
		{"an exact buffer, 32-bit", 1, 0, 0x1000, factsI386(), 0x1000, 0},
		{"no buffer", 1, 0, 0, factsAMD64(), 0x2000, 0xC0000023},
		{"a byte too few", 1, 0, 0x1FFF, factsAMD64(), 0x2000, 0xC0000023},
		{"a byte too few, 32-bit", 1, 0, 0xFFF, factsI386(), 0x1000, 0xC0000023},
		{"a triage dump", 4, 0, 0x2000, factsAMD64(), 0, 0xC000000D},
		{"a bitmap dump", 5, 0, 0x2000, factsAMD64(), 0, 0xC000000D},
		{"type 0", 0, 0, 0x2000, factsAMD64(), 0, 0xC000000D},
		{"flags", 1, 1, 0x2000, factsAMD64(), 0, 0xC000000D},
		{"type before buffer", 2, 0, 0, factsAMD64(), 0, 0xC000000D},
		{"no facts", 1, 0, 0x2000, nil, 0, 0xC000000D},
		{"facts that can't be", 1, 0, 0x2000, &Facts{Machine: from(MachineAMD64)}, 0x2000, 0xC000000D},
		{"the size comes first", 1, 0, 0, &Facts{Machine: from(MachineAMD64)}, 0x2000, 0xC0000023},
		{"another machine", 1, 0, 0x2000, none, 0, 0xC000000D},
	} {
		before := bytes.Repeat([]byte{0xA5}, tt.buffer)
		buffer := bytes.Clone(before)
		n, err := InitializeCrashDumpHeader(tt.dumpType, tt.flags, buffer, tt.facts)
		if n != tt.needed {
			t.Errorf("%s: needed = %#x; want %#x", tt.name, n, tt.needed)
		}
		if tt.status == 0 {
			if err != nil || bytes.Equal(buffer, before) || !bytes.Equal(buffer[n:], before[n:]) {
				t.Errorf("%s: error %v, or the bytes after the header changed", tt.name, err)
			}
			continue
		}
		var status *StatusError
		if !errors.As(err, &status) || status.Status != tt.status {
			t.Errorf("%s: error = %v; want status %v", tt.name, err, tt.status)
		}
		if !bytes.Equal(buffer, before) {
			t.Errorf("%s: the buffer changed", tt.name)
		}
	}
}

func TestStatusErrorText(t *testing.T) {
	_, err := InitializeCrashDumpHeader(1, 0, make([]byte, 16), factsAMD64())
	want := "initialize crash dump header: buffer of 0x10 bytes: a header has 0x2000 (STATUS_BUFFER_TOO_SMALL)"
	if err == nil || err.Error() != want {
		t.Errorf("error = %v; want %s", err, want)
	}
	if got := NTSTATUS(0xC00000BB).String(); got != "0xc00000bb" {
		t.Errorf("String() of another status = %s; want 0xc00000bb", got)
	}
}
