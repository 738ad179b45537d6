package header

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"snap/phys"
)

func TestInitializeRefusesFacts(t *testing.T) {
	for _, tt := range []struct {
		name, field string
		facts       *Facts
		change      func(*Facts)
	}{
		{"no build", "NtBuildNumber", factsAMD64(), func(f *Facts) { f.NtBuildNumber = 0xF000_0000 }},
		{"a build without flags", "NtBuildNumber", factsAMD64(), func(f *Facts) { f.NtBuildNumber = 19041 }},
		{"no processor", "NumberProcessors", factsAMD64(), func(f *Facts) { f.NumberProcessors = 0 }},
		{"too many processors", "NumberProcessors", factsAMD64(), func(f *Facts) { f.NumberProcessors = 2049 }},
		{"no runs", "Runs", factsAMD64(), func(f *Facts) { f.Runs = nil }},
		{"43 runs", "NumberOfRuns", factsAMD64(), func(f *Facts) { f.Runs = manyRuns(43) }},
		{"87 runs", "NumberOfRuns", factsI386(), func(f *Facts) { f.Runs = manyRuns(87) }},
		{"an empty run", "Run[1]", factsAMD64(), func(f *Facts) { f.Runs[1].Pages = 0 }},
		{"an overlap", "Run[1]", factsAMD64(), func(f *Facts) { f.Runs[1].Base = 0x9F }},
		{"disorder", "Run[1]", factsAMD64(), func(f *Facts) { slices.Reverse(f.Runs) }},
		{"a run outside memory", "Run[2]", factsAMD64(), func(f *Facts) { f.Runs[2].Base = 1 << 40 }},
		{"a run above 32 bits", "Run[1]", factsI386(), func(f *Facts) { f.Runs[1].Base = 1 << 32 }},
		{"no page table", "DirectoryTableBase", factsAMD64(), func(f *Facts) { f.DirectoryTableBase = 0xFFF }},
		{"a page table outside memory", "DirectoryTableBase", factsAMD64(), func(f *Facts) { f.DirectoryTableBase = 1 << 52 }},
		{"a page table in no run", "DirectoryTableBase", factsAMD64(), func(f *Facts) { f.DirectoryTableBase = 0xA0000 }},
		{"a page table after the last run", "DirectoryTableBase", factsAMD64(), func(f *Facts) { f.DirectoryTableBase = 0x480000000 }},
		{"a page table above 4 GiB", "DirectoryTableBase", factsI386(), func(f *Facts) { f.DirectoryTableBase = 1 << 32 }},
		{"PAE in 64 bits", "PAE", factsAMD64(), func(f *Facts) { f.PAE = true }},
		{"a user address", "PfnDatabase", factsAMD64(), func(f *Facts) { f.PfnDatabase = 0x7FFE_0000 }},
		{"no module list", "PsLoadedModuleList", factsAMD64(), func(f *Facts) { f.PsLoadedModuleList = 0 }},
		{"a list that is not canonical", "PsActiveProcessHead", factsAMD64(), func(f *Facts) { f.PsActiveProcessHead = 0xF000_F804_7C61_E200 }},
		{"a KDBG off by one", "KdDebuggerDataBlock", factsAMD64(), func(f *Facts) { f.KdDebuggerDataBlock++ }},
		{"a KDBG off by 4", "KdDebuggerDataBlock", factsAMD64(), func(f *Facts) { f.KdDebuggerDataBlock += 4 }},
		{"a user address, 32-bit", "PsLoadedModuleList", factsI386(), func(f *Facts) { f.PsLoadedModuleList = 0x7FFE_0000 }},
		{"a half-extended address", "PsLoadedModuleList", factsI386(), func(f *Facts) { f.PsLoadedModuleList = 0xFFFF_0000_8299_9850 }},
		{"a 64-bit address, 32-bit", "KdDebuggerDataBlock", factsI386(), func(f *Facts) { f.KdDebuggerDataBlock = 0xFFFF_F804_7C60_0B20 }},
		{"a wide parameter", "BugCheckParameter[2]", factsI386(), func(f *Facts) { f.BugCheckParameter[2] = 1 << 32 }},
		{"a long comment", "Comment", factsAMD64(), func(f *Facts) { f.Comment = strings.Repeat("c", 128) }},
		{"a comment with a NUL", "Comment", factsAMD64(), func(f *Facts) { f.Comment = "a\x00" }},
		{"a comment beyond ASCII", "Comment", factsAMD64(), func(f *Facts) { f.Comment = "für" }},
		{"an empty context", "Context", factsAMD64(), func(f *Facts) { f.Context = []byte{} }},
		{"a short context", "Context", factsAMD64(), func(f *Facts) { f.Context = f.Context[:0x4CF] }},
		{"a long context", "Context", factsAMD64(), func(f *Facts) { f.Context = append(f.Context, 0) }},
		{"the other machine's context", "Context", factsI386(), func(f *Facts) { f.Context = factsAMD64().Context }},
		{"a context without machine", "Context", factsAMD64(), func(f *Facts) { f.Context[0x32] = 0 }},
		{"two values of MXCSR", "Context", factsAMD64(), func(f *Facts) { f.Context[0x118]++ }},
	} {
		tt.change(tt.facts)
		_, err := InitializeCrashDumpHeader(1, 0, make([]byte, 0x2000), tt.facts)
		var bad *FactError
		if !errors.As(err, &bad) || bad.Field != tt.field {
			t.Errorf("%s: InitializeCrashDumpHeader failed with %v; want a *FactError for %s", tt.name, err, tt.field)
			continue
		}
		var status *StatusError
		if !errors.As(err, &status) || status.Status != StatusInvalidParameter {
			t.Errorf("%s: error = %v; want STATUS_INVALID_PARAMETER", tt.name, err)
		}
	}
}

// Runs that touch, the longest comment, the most processors, page 0, and bits
// of the build number that mean nothing.
func TestInitializeTakesTheExtremes(t *testing.T) {
	f := factsAMD64()
	f.Runs = []phys.Run{{Base: 0, Pages: 0x100}, {Base: 0x100, Pages: 1<<40 - 0x100}}
	f.Comment = strings.Repeat("c", 127)
	f.NumberProcessors = 2048
	f.NtBuildNumber = 0xCFFF_4A61
	b := make([]byte, 0x2000)
	if _, err := InitializeCrashDumpHeader(1, 0, b, f); err != nil {
		t.Fatalf("InitializeCrashDumpHeader failed: %v", err)
	}
	h, err := Decode(b)
	if err != nil || h.MajorVersion != 0xC || h.MinorVersion != 19041 || h.Comment != f.Comment || h.NumberOfPages != 1<<40 || h.RequiredDumpSpace != 1<<52+0x2000 {
		t.Errorf("Decode = %+v, %v; want checked build 19041, the comment and %#x pages", h, err, uint64(1)<<40)
	}
}

func drawFacts(t *rapid.T) *Facts {
	machine := rapid.SampledFrom([]Machine{MachineAMD64, MachineI386}).Draw(t, "machine")
	lo, hi, maxRuns, maxParam := uint64(0xFFFF_8000_0000_0000)>>3, ^uint64(0)>>3, 42, ^uint64(0)
	runLimit := uint64(1) << 36
	if machine == MachineI386 {
		lo, hi, maxRuns, maxParam, runLimit = 0x8000_0000>>3, 0xFFFF_FFFF>>3, 86, 1<<32-1, 1<<20
	}
	address := func(name string) phys.VirtAddr {
		return phys.VirtAddr(rapid.Uint64Range(lo, hi).Draw(t, name) << 3)
	}
	f := &Facts{
		Machine:             machine,
		NtBuildNumber:       rapid.SampledFrom([]uint32{0xF, 0xC}).Draw(t, "major")<<28 | rapid.Uint32Range(1, 0xFFFF).Draw(t, "minor"),
		PAE:                 machine == MachineI386 && rapid.Bool().Draw(t, "pae"),
		PfnDatabase:         address("pfn"),
		PsLoadedModuleList:  address("modules"),
		PsActiveProcessHead: address("processes"),
		KdDebuggerDataBlock: address("kdbg"),
		NumberProcessors:    rapid.Uint32Range(1, 2048).Draw(t, "processors"),
		BugCheckCode:        rapid.Uint32().Draw(t, "code"),
		SystemTime:          rapid.Uint64().Draw(t, "time"),
		SystemUpTime:        rapid.Uint64().Draw(t, "uptime"),
		ProductType:         rapid.Uint32().Draw(t, "product"),
		SuiteMask:           rapid.Uint32().Draw(t, "suites"),
		BootID:              rapid.Uint32().Draw(t, "boot"),
		Comment:             rapid.StringMatching(`[ -~]{0,127}`).Draw(t, "comment"),
	}
	for i := range f.BugCheckParameter {
		f.BugCheckParameter[i] = rapid.Uint64Range(0, maxParam).Draw(t, "parameter")
	}
	step := runLimit / uint64(maxRuns) / 2
	at := uint64(1)
	for range rapid.IntRange(1, maxRuns).Draw(t, "runs") {
		at += rapid.Uint64Range(0, step-1).Draw(t, "gap")
		n := rapid.Uint64Range(1, step-1).Draw(t, "pages")
		f.Runs = append(f.Runs, phys.Run{Base: phys.PFN(at), Pages: n})
		at += n
	}
	r := rapid.SampledFrom(f.Runs).Draw(t, "table's run")
	page := uint64(r.Base) + rapid.Uint64Range(0, r.Pages-1).Draw(t, "table's page")
	f.DirectoryTableBase = phys.Addr(page<<12 | rapid.Uint64Range(0, 0xFFF).Draw(t, "table's low bits"))
	if rapid.Bool().Draw(t, "has context") {
		regs := &phys.Registers{RIP: uint64(address("rip")), RSP: uint64(address("rsp"))}
		f.Context = ContextAMD64(regs)
		if machine == MachineI386 {
			f.Context = ContextI386(regs)
		}
	}
	return f
}

// Whatever the guest, the header that is made of the facts says the facts.
func TestInitializeThenDecode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := drawFacts(t)
		b := make([]byte, 0x2000)
		n, err := InitializeCrashDumpHeader(1, 0, b, f)
		if err != nil {
			t.Fatalf("InitializeCrashDumpHeader failed: %v", err)
		}
		h, err := Decode(b[:n])
		if err != nil {
			t.Fatalf("Decode failed: %v", err)
		}
		mask := phys.Addr(0xFFF)
		if f.PAE {
			mask = 0x1F
		}
		want := *f
		want.DirectoryTableBase &^= mask
		got := Facts{
			Machine:             h.MachineImageType,
			NtBuildNumber:       h.MajorVersion<<28 | h.MinorVersion,
			DirectoryTableBase:  h.DirectoryTableBase,
			PAE:                 h.PaeEnabled == 1,
			PfnDatabase:         h.PfnDataBase,
			PsLoadedModuleList:  h.PsLoadedModuleList,
			PsActiveProcessHead: h.PsActiveProcessHead,
			KdDebuggerDataBlock: h.KdDebuggerDataBlock,
			NumberProcessors:    h.NumberProcessors,
			Runs:                h.Runs,
			BugCheckCode:        h.BugCheckCode,
			BugCheckParameter:   h.BugCheckParameter,
			SystemTime:          h.SystemTime,
			SystemUpTime:        h.SystemUpTime,
			ProductType:         h.ProductType,
			SuiteMask:           h.SuiteMask,
			BootID:              h.BootID,
			Comment:             h.Comment,
		}
		if f.Context != nil {
			got.Context = h.ContextRecord[:len(f.Context)]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("facts (-want +got):\n%s", diff)
		}
		var pages uint64
		for _, r := range f.Runs {
			pages += r.Pages
		}
		if h.NumberOfPages != pages || h.RequiredDumpSpace != uint64(n)+pages*0x1000 || !h.Describes(f.Runs) {
			t.Fatalf("NumberOfPages, RequiredDumpSpace = %#x, %#x; want %#x pages", h.NumberOfPages, h.RequiredDumpSpace, pages)
		}
	})
}
