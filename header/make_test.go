package header

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"snap/phys"
)

// makes are headers of each kind, with the facts that they are made of.
func makes() map[string]struct {
	facts *Facts
	t     DumpType
} {
	bare := factsAMD64()
	bare.Context, bare.Comment, bare.PfnDatabase = phys.Known[[]byte]{}, phys.Known[string]{}, phys.Known[phys.VirtAddr]{}
	type made = struct {
		facts *Facts
		t     DumpType
	}
	return map[string]made{
		"full":           {factsAMD64(), DumpTypeFull},
		"bitmap":         {factsAMD64(), DumpTypeBitmapFull},
		"bare":           {bare, DumpTypeFull},
		"full, 32-bit":   {factsI386(), DumpTypeFull},
		"bitmap, 32-bit": {factsI386(), DumpTypeBitmapFull},
	}
}

// TestMake demands the very bytes of the older ways, and a header that agrees
// with them.
func TestMake(t *testing.T) {
	for name, tt := range makes() {
		h, got, err := Make(tt.facts, tt.t)
		if err != nil {
			t.Errorf("%s: Make failed: %v", name, err)
			continue
		}
		want := make([]byte, h.Width.Size())
		if tt.t == DumpTypeFull {
			_, err = InitializeCrashDumpHeader(uint32(tt.t), 0, want, tt.facts)
		} else {
			want, err = InitializeBitmapDumpHeader(tt.facts, tt.facts.Runs.Value)
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: Make gives other bytes than Initialize…, error %v", name, err)
		}
		back, err := h.Encode()
		if err != nil || !bytes.Equal(back, got[:h.Width.Size()]) {
			t.Errorf("%s: the header encodes to other bytes than it was made with, error %v", name, err)
		}
	}
}

// TestMakeKeepsOrigins: each field that is set has the origin of its fact, and
// loses it with its value.
func TestMakeKeepsOrigins(t *testing.T) {
	for name, tt := range makes() {
		h, img, err := Make(tt.facts, tt.t)
		if err != nil {
			t.Fatalf("%s: Make failed: %v", name, err)
		}
		for _, f := range h.Fields() {
			want := f.Kind != KindReserved && f.Set
			if got := f.From != ""; got != want {
				t.Errorf("%s: %s is set %v, kind %d, and From = %q", name, f.Name, f.Set, f.Kind, f.From)
			}
		}
		decoded, err := Decode(img)
		if err != nil {
			t.Fatalf("%s: Decode failed: %v", name, err)
		}
		for _, f := range decoded.Fields() {
			if f.From != "" {
				t.Errorf("%s: %s of a decoded header has the origin %q; want none", name, f.Name, f.From)
			}
		}
	}
	h, _, err := Make(factsAMD64(), DumpTypeFull)
	if err != nil {
		t.Fatal(err)
	}
	h.BootID++
	for _, f := range h.Fields() {
		want := map[string]string{
			"BootId": "", "SuiteMask": "a test", "Run": "a test", "NumberOfPages": "a test", "Signature": FromFormat,
			"DumpType": FromFormat, "RequiredDumpSpace": FromSize, "ExceptionAddress": "a test",
		}
		if from, ok := want[f.Name]; ok && f.From != from {
			t.Errorf("origin of %s = %q; want %q", f.Name, f.From, from)
		}
	}
}

func TestMakeRefuses(t *testing.T) {
	many := factsAMD64()
	many.Runs.Value = append(manyRuns(43), phys.Run{Base: 0x1AD, Pages: 1})
	slices.SortFunc(many.Runs.Value, func(a, b phys.Run) int { return int(a.Base) - int(b.Base) })
	for name, tt := range map[string]struct {
		facts *Facts
		t     DumpType
		want  string
	}{
		"no facts":          {nil, DumpTypeFull, "make the header of a full dump: no facts"},
		"a triage dump":     {factsAMD64(), DumpTypeTriage, "make the header of a triage dump: dump type 4: headers are made for 1"},
		"a kernel dump":     {factsAMD64(), DumpTypeBitmapKernel, "dump type 6"},
		"another machine":   {&Facts{Machine: from(MachineARM64)}, DumpTypeFull, "Machine is 0xaa64"},
		"no runs":           {&Facts{Machine: from(MachineAMD64)}, DumpTypeFull, "Runs is 0x0"},
		"no pages":          {&Facts{Machine: from(MachineAMD64)}, DumpTypeBitmapFull, "NtBuildNumber is 0x0"},
		"more runs than 42": {many, DumpTypeFull, "NumberOfRuns"},
	} {
		h, img, err := Make(tt.facts, tt.t)
		if h != nil || img != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Make = %v, %d bytes, %v; want an error with %q", name, h, len(img), err, tt.want)
		}
	}
	_, _, err := Make(many, DumpTypeFull)
	if bad, ok := errors.AsType[*FactError](err); !ok || bad.Field != "NumberOfRuns" {
		t.Errorf("Make of 44 runs failed with %v; want a *FactError for NumberOfRuns", err)
	}
}

// TestSetBugCheck: the guest's own bug check, or else that there is none, each
// with its origin.
func TestSetBugCheck(t *testing.T) {
	var none [4]phys.Known[uint64]
	for name, tt := range map[string]struct {
		code   phys.Known[uint64]
		params [4]phys.Known[uint64]
		want   phys.Known[uint32]
		last   phys.Known[uint64]
	}{
		"crashed":    {from[uint64](0xE2), parameters(1, 2, 3, 4), from[uint32](0xE2), from[uint64](4)},
		"running":    {from[uint64](0), parameters(1, 2, 3, 4), phys.Know[uint32](0x161, FromNotCrashed), phys.Know[uint64](0, FromNotCrashed)},
		"unreadable": {phys.Known[uint64]{}, none, phys.Know[uint32](0x161, FromNoBugCheck), phys.Know[uint64](0, FromNoBugCheck)},
	} {
		f := &Facts{BugCheckCode: from[uint32](1), BugCheckParameter: parameters(9, 9, 9, 9)}
		f.SetBugCheck(tt.code, tt.params)
		if f.BugCheckCode != tt.want || f.BugCheckParameter[3] != tt.last {
			t.Errorf("%s: code %v, last parameter %v; want %v, %v", name, f.BugCheckCode, f.BugCheckParameter[3], tt.want, tt.last)
		}
	}
}

// TestContextFor chooses the CONTEXT by machine.
func TestContextFor(t *testing.T) {
	r := &phys.Registers{RIP: 0x1234, RSP: 0x5678}
	for m, want := range map[Machine][]byte{MachineAMD64: ContextAMD64(r), MachineI386: ContextI386(r), MachineARM64: nil} {
		got := ContextFor(m, r)
		if !bytes.Equal(got, want) {
			t.Errorf("ContextFor(%v) has %d bytes; want %d", m, len(got), len(want))
		}
		c, err := DecodeContext(m, got)
		if (err == nil) != (want != nil) || err == nil && c.Rip != 0x1234 {
			t.Errorf("DecodeContext(%v) = rip %#x, %v; want rip 0x1234 and an error %v", m, c.Rip, err, want == nil)
		}
	}
}
