package capture

import (
	"fmt"
	"strings"
	"testing"

	"snap/exclude"
	"snap/header"
	"snap/internal/ntlab"
)

// TestOriginsAreOfTheValues: every set field of a header that was made for a
// dump has the origin of the value that is in it, in the header and in the
// manifest, whatever was found in the guest and whatever was chosen instead.
func TestOriginsAreOfTheValues(t *testing.T) {
	crash := [5]uint64{0xE2, 1, 2, 3, 4}
	out := []exclude.Request{{By: "test", Reason: exclude.Operator, Flags: exclude.FlagPhysical, Address: 0x50_0000, Pages: 1}}
	for name, tt := range map[string]struct {
		config ntlab.Config
		look   LookOptions
		want   map[string]string // by field; what the origin begins with
	}{
		"running": {want: map[string]string{
			"BugCheckCode": header.FromNotCrashed, "BugCheckParameter1": header.FromNotCrashed,
			"Run": "KDBG MmPhysicalMemoryBlock", "NumberOfRuns": "KDBG MmPhysicalMemoryBlock",
			"DirectoryTableBase": "PsInitialSystemProcess", "PfnDataBase": "KDBG MmPfnDatabase",
			"KdDebuggerDataBlock": "kernel image, decoded", "Signature": header.FromFormat,
		}},
		"crashed": {config: ntlab.Config{BugCheck: crash}, want: map[string]string{
			"BugCheckCode": "KDBG KiBugcheckData", "BugCheckParameter1": "KDBG KiBugcheckData", "BugCheckParameter4": "KDBG KiBugcheckData",
		}},
		"plain KDBG": {config: ntlab.Config{PlainKDBG: true}, want: map[string]string{
			"KdDebuggerDataBlock": "kernel image, plain",
		}},
		"bitmap": {look: LookOptions{Format: FormatBitmap}, want: map[string]string{
			"DumpType": header.FromFormat, "RequiredDumpSpace": header.FromSize,
		}},
		"left out": {look: LookOptions{Exclusion: Exclusion{Requests: out}}, want: map[string]string{
			"Run": "KDBG MmPhysicalMemoryBlock, without", "NumberOfPages": "KDBG MmPhysicalMemoryBlock, without",
		}},
	} {
		for _, profile := range ntlab.Profiles() {
			tt.config.Profile = profile
			if !tt.config.Possible() {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s", name, profile), func(t *testing.T) {
				vm := newGuest(t, tt.config)
				look := tt.look
				look.Comment = "a comment"
				a, err := Analyze(t.Context(), vm.im, vm.im.RAM(), vm.im.Registers(), look)
				if err != nil {
					t.Fatal(err)
				}
				m := Describe(a)
				set := 0
				for _, f := range a.Header.Fields() {
					if !f.Set || f.Kind == header.KindReserved {
						continue
					}
					set++
					got, ok := m.Header.Fields[f.Name]
					if f.From == "" || !ok || got.From != f.From || got.Value != f.Value {
						t.Errorf("%s is %s, from %q; the manifest has %+v", f.Name, f.Value, f.From, got)
					}
				}
				if set != len(m.Header.Fields) || set < 20 {
					t.Errorf("the manifest has %d fields; %d are set", len(m.Header.Fields), set)
				}
				for field, from := range tt.want {
					if got := m.Header.Fields[field].From; !strings.HasPrefix(got, from) {
						if profile == "ws2003sp1-x64" && field == "KdDebuggerDataBlock" {
							continue // no kernel of that time encodes its KDBG
						}
						t.Errorf("%s is %s, from %q; want %q", field, m.Header.Fields[field].Value, got, from)
					}
				}
				if m.Guest.KernelBaseFrom == "" {
					t.Error("where the kernel's base is from is not told")
				}
				decoded, err := header.Decode(a.Plan.Header)
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range decoded.Fields() {
					if f.From != "" {
						t.Errorf("of a header that was read, %s is from %q; nobody knows", f.Name, f.From)
					}
				}
			})
		}
	}
}
