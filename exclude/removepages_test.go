package exclude

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// entry64 is a structure in the x64 layout, byte for byte.
var entry64 = []byte{
	0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, // Context
	0x01, 0x0a, 0x00, 0x80, // Flags
	0x61, 0x01, 0x00, 0x00, // BugCheckCode
	0x00, 0x30, 0x12, 0x00, 0x80, 0xa1, 0xff, 0xff, // Address
	0x05, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, // Count
}

// entry32 is one in the x86 layout.
var entry32 = []byte{
	0x04, 0x03, 0x02, 0x01, // Context
	0x02, 0x00, 0x00, 0x00, // Flags
	0xe2, 0x00, 0x00, 0x00, // BugCheckCode
	0x34, 0x12, 0x00, 0x80, // Address
	0xff, 0xff, 0xff, 0xff, // Count
}

func TestDecodeRemovePages(t *testing.T) {
	tests := []struct {
		name   string
		b      []byte
		layout Layout
		want   RemovePages
	}{
		{"x64", entry64, Layout64, RemovePages{0x0102030405060708, 0x80000a01, 0x161, 0xffffa18000123000, 0x100000005}},
		{"x86", entry32, Layout32, RemovePages{0x01020304, 2, 0xe2, 0x80001234, 0xffffffff}},
		{"more bytes follow", append(entry32[:20:20], 9), Layout32, RemovePages{0x01020304, 2, 0xe2, 0x80001234, 0xffffffff}},
	}
	for _, tt := range tests {
		got, err := DecodeRemovePages(tt.b, tt.layout)
		if err != nil || got != tt.want {
			t.Errorf("%s: DecodeRemovePages = %+v, %v; want %+v", tt.name, got, err, tt.want)
		}
	}
	for _, layout := range []Layout{Layout64, Layout32, 0, -1, 0x18} {
		short := make([]byte, max(int(layout)-1, 0))
		if got, err := DecodeRemovePages(short, layout); err == nil {
			t.Errorf("DecodeRemovePages(%d bytes, layout %#x) = %+v; want an error", len(short), int(layout), got)
		}
	}
}

func TestStatus(t *testing.T) {
	const (
		success    = 0
		parameter  = 0xc000000d
		parameter4 = 0xc00000f2
	)
	tests := []struct {
		flags uint32
		count uint64
		want  NTStatus
	}{
		{0x00000001, 1, success},
		{0x00000002, 1, success},
		{0x80000001, 1, success},
		{0x80000002, ^uint64(0), success},
		{0x00000ff1, 1, success},
		{0x80000ff2, 1, success},
		{0x00000000, 1, parameter},
		{0x00000003, 1, parameter},
		{0x80000000, 1, parameter},
		{0x80000ff3, 1, parameter},
		{0x00000005, 1, parameter4},
		{0x00000009, 1, parameter4},
		{0x00001001, 1, parameter4},
		{0x40000001, 1, parameter4},
		{0x00001000, 1, parameter4}, // more wrong than neither kind
		{0xffffffff, 1, parameter4},
		{0x00000000, 0, success}, // asks for nothing
		{0xffffffff, 0, success},
	}
	for _, tt := range tests {
		if got := (RemovePages{Flags: tt.flags, Count: tt.count}).Status(); got != tt.want {
			t.Errorf("Status of flags %#x, count %d = %v; want %v", tt.flags, tt.count, got, tt.want)
		}
	}
}

func TestAppliesTo(t *testing.T) {
	for _, tt := range []struct {
		code, dump uint32
		want       bool
	}{{0, 0x161, true}, {0x161, 0x161, true}, {0xe2, 0x161, false}, {0x161, 0, false}, {0, 0, true}} {
		if got := (RemovePages{BugCheckCode: tt.code}).AppliesTo(tt.dump); got != tt.want {
			t.Errorf("code %#x applies to a dump of %#x = %v; want %v", tt.code, tt.dump, got, tt.want)
		}
	}
}

func TestDecodeTable(t *testing.T) {
	got, err := DecodeTable("a.sys", append(entry64[:0x20:0x20], make([]byte, 0x20)...), Layout64)
	want := []Request{
		{By: "a.sys", Reason: Advertised, Flags: 0x80000a01, BugCheckCode: 0x161, Address: 0xffffa18000123000, Pages: 0x100000005},
		{By: "a.sys", Reason: Advertised},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("DecodeTable failed with %v, or (-want +got):\n%s", err, diff)
	}
	if got[0].Kind() != Virtual || got[0].Features() != 0xa00 {
		t.Errorf("Kind, Features = %v, %#x; want virtual, 0xa00", got[0].Kind(), got[0].Features())
	}
	if got, err := DecodeTable("a.sys", make([]byte, MaxTableEntries*0x14), Layout32); err != nil || len(got) != 65536 {
		t.Errorf("DecodeTable of the largest table = %d requests, %v; want 65536", len(got), err)
	}
	for name, tt := range map[string]struct {
		bytes  int
		layout Layout
	}{
		"not a whole number":  {0x21, Layout64},
		"the other layout":    {0x14, Layout64},
		"too many":            {(65536 + 1) * 0x14, Layout32},
		"no such layout":      {0x20, 0x10},
		"a layout of nothing": {0x20, 0},
	} {
		if got, err := DecodeTable("a.sys", make([]byte, tt.bytes), tt.layout); err == nil {
			t.Errorf("%s: DecodeTable = %d requests; want an error", name, len(got))
		}
	}
}

// FuzzRemovePages decodes tables and plans with them: whatever they say, a plan
// keeps its promises.
func FuzzRemovePages(f *testing.F) {
	f.Add(entry64, false)
	f.Add(entry32, true)
	f.Fuzz(func(t *testing.T, b []byte, narrow bool) {
		layout := Layout64
		if narrow {
			layout = Layout32
		}
		if len(b) > 64*int(layout) {
			return
		}
		rs, err := DecodeTable("fuzz.sys", b, layout)
		if (err == nil) != (len(b)%int(layout) == 0) {
			t.Fatalf("DecodeTable of %d bytes of layout %#x: %v", len(b), int(layout), err)
		}
		for i, r := range rs {
			e, err := DecodeRemovePages(b[i*int(layout):], layout)
			if err != nil {
				t.Fatal(err)
			}
			if back := encode(e, layout); string(back) != string(b[i*int(layout):][:layout]) {
				t.Fatalf("entry %d encodes to %x; want %x", i, back, b[i*int(layout):][:layout])
			}
			if r.Pages != e.Count || r.Address != e.Address || r.Flags != e.Flags || r.BugCheckCode != e.BugCheckCode {
				t.Fatalf("entry %d: %+v became %+v", i, e, r)
			}
		}
		in := smallGuest()
		in.Requests, in.Limit = rs, 1<<40
		plan, err := NewPlan(t.Context(), in)
		if err != nil {
			t.Fatalf("NewPlan failed: %v", err)
		}
		checkPlan(t, in, plan)
	})
}

// encode is the inverse of DecodeRemovePages.
func encode(e RemovePages, layout Layout) []byte {
	le := binary.LittleEndian
	if layout == Layout32 {
		b := le.AppendUint32(nil, uint32(e.Context))
		b = le.AppendUint32(b, e.Flags)
		b = le.AppendUint32(b, e.BugCheckCode)
		b = le.AppendUint32(b, uint32(e.Address))
		return le.AppendUint32(b, uint32(e.Count))
	}
	b := le.AppendUint64(nil, e.Context)
	b = le.AppendUint32(b, e.Flags)
	b = le.AppendUint32(b, e.BugCheckCode)
	b = le.AppendUint64(b, e.Address)
	return le.AppendUint64(b, e.Count)
}
