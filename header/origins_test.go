package header_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/guest"
	"snap/header"
	"snap/internal/ntlab"
	"snap/phys"
)

// factsOf are the facts of a guest as Discover finds it.
func factsOf(sys *guest.System, cpus []phys.Registers) *header.Facts {
	f := &header.Facts{
		Machine:             phys.Know(header.Machine(sys.Machine.Value), sys.Machine.From),
		NtBuildNumber:       sys.NtBuildNumber,
		DirectoryTableBase:  sys.DirectoryTableBase,
		PfnDatabase:         sys.MmPfnDatabase,
		PsLoadedModuleList:  sys.PsLoadedModuleList,
		PsActiveProcessHead: sys.PsActiveProcessHead,
		KdDebuggerDataBlock: sys.KdDebuggerDataBlock,
		NumberProcessors:    sys.NumberProcessors,
		SystemTime:          sys.SystemTime,
		SystemUpTime:        sys.SystemUpTime,
		ProductType:         sys.ProductType,
		SuiteMask:           sys.SuiteMask,
		BootID:              sys.BootID,
		Comment:             phys.Know("a test", "snap"),
	}
	f.SetBugCheck(sys.BugCheck.Code, sys.BugCheck.Parameter)
	f.Runs, _ = sys.DumpMemory()
	if len(cpus) > 0 {
		f.Context = phys.Know(header.ContextFor(f.Machine.Value, &cpus[0]), "registers of vCPU 0")
	}
	return f
}

// TestOrigins follows each value from the guest's memory into the header: every
// field that is set has the origin of the value that is in it.
func TestOrigins(t *testing.T) {
	for _, profile := range ntlab.Profiles() {
		for _, crash := range [][5]uint64{{}, {0xE2, 1, 2, 3, 4}} {
			for _, plain := range []bool{false, true} {
				im, err := ntlab.Build(ntlab.Config{
					Profile: profile, Seed: 150, Memory: 256 << 20, CPUs: 2, BugCheck: crash, PlainKDBG: plain,
				})
				if err != nil {
					t.Fatal(err)
				}
				for _, cpus := range [][]phys.Registers{im.Registers(), nil} {
					for _, kind := range []header.DumpType{header.DumpTypeFull, header.DumpTypeBitmapFull} {
						name := fmt.Sprintf("%s, bug check %#x, plain KDBG %v, %d vCPUs, %v", profile, crash[0], plain, len(cpus), kind)
						checkOrigins(t, name, im, cpus, kind)
					}
				}
			}
		}
	}
}

func checkOrigins(t *testing.T, name string, im *ntlab.Image, cpus []phys.Registers, kind header.DumpType) {
	t.Helper()
	sys, err := guest.Discover(t.Context(), im, im.RAM(), cpus)
	if err != nil {
		t.Fatalf("%s: Discover failed: %v", name, err)
	}
	h, img, err := header.Make(factsOf(sys, cpus), kind)
	if err != nil {
		t.Fatalf("%s: Make failed: %v", name, err)
	}
	want := wantOrigins(im, cpus, kind)
	got, decoded := map[string]string{}, map[string]string{}
	for _, f := range h.Fields() {
		if f.Set && f.Kind != header.KindReserved {
			got[f.Name] = f.From
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: origins (-want +got):\n%s", name, diff)
	}

	// The values are those of the origins.
	back, err := header.Decode(img)
	if err != nil {
		t.Fatalf("%s: Decode failed: %v", name, err)
	}
	for _, f := range back.Fields() {
		if f.From != "" {
			decoded[f.Name] = f.From
		}
	}
	if len(decoded) > 0 {
		t.Errorf("%s: a decoded header has the origins %v; want none", name, decoded)
	}
	code := uint32(im.Config.BugCheck[0])
	if code == 0 {
		code = header.BugCheckLiveSystemDump
	}
	if back.BugCheckCode != code || back.BugCheckParameter[3] != im.Config.BugCheck[4] {
		t.Errorf("%s: bug check %#x, last parameter %#x; want %#x, %#x", name,
			back.BugCheckCode, back.BugCheckParameter[3], code, im.Config.BugCheck[4])
	}
	if kind == header.DumpTypeFull && !back.Describes(im.Truth.Runs) {
		t.Errorf("%s: runs %v; want those of MmPhysicalMemoryBlock, %v", name, back.Runs, im.Truth.Runs)
	}
	if ctx := back.ContextRecord; bytes.Equal(ctx, make([]byte, len(ctx))) != (len(cpus) == 0) {
		t.Errorf("%s: ContextRecord is all zero: %v", name, len(cpus) > 0)
	}
}

// wantOrigins are the fields that must be set, and where their values are from.
func wantOrigins(im *ntlab.Image, cpus []phys.Registers, kind header.DumpType) map[string]string {
	want := map[string]string{
		"MachineImageType":    "kernel image",
		"MajorVersion":        "export NtBuildNumber",
		"MinorVersion":        "export NtBuildNumber",
		"DirectoryTableBase":  "PsInitialSystemProcess",
		"PfnDataBase":         "KDBG MmPfnDatabase",
		"PsLoadedModuleList":  "KDBG PsLoadedModuleList",
		"PsActiveProcessHead": "KDBG PsActiveProcessHead",
		"KdDebuggerDataBlock": "kernel image, decoded by known plaintext",
		"NumberProcessors":    "KDBG KiProcessorBlock",
		"NumberOfRuns":        "KDBG MmPhysicalMemoryBlock",
		"NumberOfPages":       "KDBG MmPhysicalMemoryBlock",
		"Run":                 "KDBG MmPhysicalMemoryBlock",
		"RequiredDumpSpace":   header.FromSize,
		"ContextRecord":       "registers of vCPU 0",
		"ExceptionAddress":    "registers of vCPU 0",
		"Comment":             "snap",
	}
	for _, name := range strings.Fields("SystemTime SystemUpTime ProductType SuiteMask BootId") {
		want[name] = "KUSER_SHARED_DATA"
	}
	for _, name := range strings.Fields(`Signature ValidDump DumpType KdSecondaryVersion Attributes WriterStatus
		ExceptionCode ExceptionFlags ExceptionRecord NumberParameters`) {
		want[name] = header.FromFormat
	}
	for _, name := range strings.Fields(`BugCheckCode BugCheckParameter1 BugCheckParameter2 BugCheckParameter3
		BugCheckParameter4`) {
		want[name] = "KDBG KiBugcheckData"
		if im.Config.BugCheck[0] == 0 {
			want[name] = header.FromNotCrashed
		}
	}
	if !im.Truth.KDBGEncoded {
		want["KdDebuggerDataBlock"] = "kernel image, plain"
	}
	if len(cpus) == 0 {
		want["ContextRecord"], want["ExceptionAddress"] = header.FromNoContext, header.FromNoContext
	}
	if kind.HasBitmap() {
		want["NumberOfRuns"], want["NumberOfPages"], want["Run"] = header.FromFormat, header.FromFormat, header.FromFormat
	}
	return want
}
