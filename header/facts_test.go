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

// TestNoKDBG: a guest may have none that can be used. The header says so, by an address
// that leads nowhere and its origin.
func TestNoKDBG(t *testing.T) {
	f := factsAMD64()
	f.KdDebuggerDataBlock = phys.Known[phys.VirtAddr]{}
	h, b, err := Make(f, DumpTypeFull)
	if err != nil {
		t.Fatal(err)
	}
	if h.KdDebuggerDataBlock != 0 || !h.IsSet("KdDebuggerDataBlock") || [8]byte(b[0x80:0x88]) != [8]byte{} {
		t.Errorf("KdDebuggerDataBlock is %#x, in the file %x; want 0", uint64(h.KdDebuggerDataBlock), b[0x80:0x88])
	}
	for _, v := range h.Fields() {
		if v.Name == "KdDebuggerDataBlock" && v.From != FromNoKDBG {
			t.Errorf("origin %q; want %q", v.From, FromNoKDBG)
		}
	}
}

func TestInitializeRefusesFacts(t *testing.T) {
	for _, tt := range []struct {
		name, field string
		facts       *Facts
		change      func(*Facts)
	}{
		{"no build", "NtBuildNumber", factsAMD64(), func(f *Facts) { f.NtBuildNumber.Value = 0xF000_0000 }},
		{"a build without flags", "NtBuildNumber", factsAMD64(), func(f *Facts) { f.NtBuildNumber.Value = 19041 }},
		{"no processor", "NumberProcessors", factsAMD64(), func(f *Facts) { f.NumberProcessors.Value = 0 }},
		{"too many processors", "NumberProcessors", factsAMD64(), func(f *Facts) { f.NumberProcessors.Value = 2049 }},
		{"no runs", "Runs", factsAMD64(), func(f *Facts) { f.Runs.Value = nil }},
		{"43 runs", "NumberOfRuns", factsAMD64(), func(f *Facts) { f.Runs.Value = manyRuns(43) }},
		{"87 runs", "NumberOfRuns", factsI386(), func(f *Facts) { f.Runs.Value = manyRuns(87) }},
		{"an empty run", "Run[1]", factsAMD64(), func(f *Facts) { f.Runs.Value[1].Pages = 0 }},
		{"an overlap", "Run[1]", factsAMD64(), func(f *Facts) { f.Runs.Value[1].Base = 0x9F }},
		{"disorder", "Run[1]", factsAMD64(), func(f *Facts) { slices.Reverse(f.Runs.Value) }},
		{"a run outside memory", "Run[2]", factsAMD64(), func(f *Facts) { f.Runs.Value[2].Base = 1 << 40 }},
		{"a run above 32 bits", "Run[1]", factsI386(), func(f *Facts) { f.Runs.Value[1].Base = 1 << 32 }},
		{"no page table", "DirectoryTableBase", factsAMD64(), func(f *Facts) { f.DirectoryTableBase.Value = 0xFFF }},
		{"a page table outside memory", "DirectoryTableBase", factsAMD64(), func(f *Facts) { f.DirectoryTableBase.Value = 1 << 52 }},
		{"a page table in no run", "DirectoryTableBase", factsAMD64(), func(f *Facts) { f.DirectoryTableBase.Value = 0xA0000 }},
		{"a page table after the last run", "DirectoryTableBase", factsAMD64(), func(f *Facts) { f.DirectoryTableBase.Value = 0x480000000 }},
		{"a page table above 4 GiB", "DirectoryTableBase", factsI386(), func(f *Facts) { f.DirectoryTableBase.Value = 1 << 32 }},
		{"PAE in 64 bits", "PAE", factsAMD64(), func(f *Facts) { f.PAE.Value = true }},
		{"a user address", "PfnDatabase", factsAMD64(), func(f *Facts) { f.PfnDatabase.Value = 0x7FFE_0000 }},
		{"no module list", "PsLoadedModuleList", factsAMD64(), func(f *Facts) { f.PsLoadedModuleList.Value = 0 }},
		{"a list that is not canonical", "PsActiveProcessHead", factsAMD64(), func(f *Facts) { f.PsActiveProcessHead.Value = 0xF000_F804_7C61_E200 }},
		{"a KDBG off by one", "KdDebuggerDataBlock", factsAMD64(), func(f *Facts) { f.KdDebuggerDataBlock.Value++ }},
		{"a KDBG off by 4", "KdDebuggerDataBlock", factsAMD64(), func(f *Facts) { f.KdDebuggerDataBlock.Value += 4 }},
		{"a user address, 32-bit", "PsLoadedModuleList", factsI386(), func(f *Facts) { f.PsLoadedModuleList.Value = 0x7FFE_0000 }},
		{"a half-extended address", "PsLoadedModuleList", factsI386(), func(f *Facts) { f.PsLoadedModuleList.Value = 0xFFFF_0000_8299_9850 }},
		{"a 64-bit address, 32-bit", "KdDebuggerDataBlock", factsI386(), func(f *Facts) { f.KdDebuggerDataBlock.Value = 0xFFFF_F804_7C60_0B20 }},
		{"a wide parameter", "BugCheckParameter[2]", factsI386(), func(f *Facts) { f.BugCheckParameter[2].Value = 1 << 32 }},
		{"a long comment", "Comment", factsAMD64(), func(f *Facts) { f.Comment.Value = strings.Repeat("c", 128) }},
		{"a comment with a NUL", "Comment", factsAMD64(), func(f *Facts) { f.Comment.Value = "a\x00" }},
		{"a comment beyond ASCII", "Comment", factsAMD64(), func(f *Facts) { f.Comment.Value = "für" }},
		{"an empty context", "Context", factsAMD64(), func(f *Facts) { f.Context.Value = []byte{} }},
		{"a short context", "Context", factsAMD64(), func(f *Facts) { f.Context.Value = f.Context.Value[:0x4CF] }},
		{"a long context", "Context", factsAMD64(), func(f *Facts) { f.Context.Value = append(f.Context.Value, 0) }},
		{"the other machine's context", "Context", factsI386(), func(f *Facts) { f.Context.Value = factsAMD64().Context.Value }},
		{"a context without machine", "Context", factsAMD64(), func(f *Facts) { f.Context.Value[0x32] = 0 }},
		{"two values of MXCSR", "Context", factsAMD64(), func(f *Facts) { f.Context.Value[0x118]++ }},
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
	f.Runs.Value = []phys.Run{{Base: 0, Pages: 0x100}, {Base: 0x100, Pages: 1<<40 - 0x100}}
	f.Comment.Value = strings.Repeat("c", 127)
	f.NumberProcessors.Value = 2048
	f.NtBuildNumber.Value = 0xCFFF_4A61
	b := make([]byte, 0x2000)
	if _, err := InitializeCrashDumpHeader(1, 0, b, f); err != nil {
		t.Fatalf("InitializeCrashDumpHeader failed: %v", err)
	}
	h, err := Decode(b)
	if err != nil || h.MajorVersion != 0xC || h.MinorVersion != 19041 || h.Comment != f.Comment.Value || h.NumberOfPages != 1<<40 || h.RequiredDumpSpace != 1<<52+0x2000 {
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
		Machine:             from(machine),
		NtBuildNumber:       from(rapid.SampledFrom([]uint32{0xF, 0xC}).Draw(t, "major")<<28 | rapid.Uint32Range(1, 0xFFFF).Draw(t, "minor")),
		PAE:                 from(machine == MachineI386 && rapid.Bool().Draw(t, "pae")),
		PfnDatabase:         from(address("pfn")),
		PsLoadedModuleList:  from(address("modules")),
		PsActiveProcessHead: from(address("processes")),
		KdDebuggerDataBlock: from(address("kdbg")),
		NumberProcessors:    from(rapid.Uint32Range(1, 2048).Draw(t, "processors")),
		BugCheckCode:        from(rapid.Uint32().Draw(t, "code")),
		SystemTime:          from(rapid.Uint64().Draw(t, "time")),
		SystemUpTime:        from(rapid.Uint64().Draw(t, "uptime")),
		ProductType:         from(rapid.Uint32().Draw(t, "product")),
		SuiteMask:           from(rapid.Uint32().Draw(t, "suites")),
		BootID:              from(rapid.Uint32().Draw(t, "boot")),
		Comment:             from(rapid.StringMatching(`[ -~]{0,127}`).Draw(t, "comment")),
	}
	for i := range f.BugCheckParameter {
		f.BugCheckParameter[i] = from(rapid.Uint64Range(0, maxParam).Draw(t, "parameter"))
	}
	f.Runs.From = "a test"
	step := runLimit / uint64(maxRuns) / 2
	at := uint64(1)
	for range rapid.IntRange(1, maxRuns).Draw(t, "runs") {
		at += rapid.Uint64Range(0, step-1).Draw(t, "gap")
		n := rapid.Uint64Range(1, step-1).Draw(t, "pages")
		f.Runs.Value = append(f.Runs.Value, phys.Run{Base: phys.PFN(at), Pages: n})
		at += n
	}
	r := rapid.SampledFrom(f.Runs.Value).Draw(t, "table's run")
	page := uint64(r.Base) + rapid.Uint64Range(0, r.Pages-1).Draw(t, "table's page")
	f.DirectoryTableBase = from(phys.Addr(page<<12 | rapid.Uint64Range(0, 0xFFF).Draw(t, "table's low bits")))
	if rapid.Bool().Draw(t, "has context") {
		regs := &phys.Registers{RIP: uint64(address("rip")), RSP: uint64(address("rsp"))}
		f.Context = from(ContextAMD64(regs))
		if machine == MachineI386 {
			f.Context = from(ContextI386(regs))
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
		if f.PAE.Value {
			mask = 0x1F
		}
		want := *f
		want.DirectoryTableBase.Value &^= mask
		got := Facts{
			Machine:             from(h.MachineImageType),
			NtBuildNumber:       from(h.MajorVersion<<28 | h.MinorVersion),
			DirectoryTableBase:  from(h.DirectoryTableBase),
			PAE:                 from(h.PaeEnabled == 1),
			PfnDatabase:         from(h.PfnDataBase),
			PsLoadedModuleList:  from(h.PsLoadedModuleList),
			PsActiveProcessHead: from(h.PsActiveProcessHead),
			KdDebuggerDataBlock: from(h.KdDebuggerDataBlock),
			NumberProcessors:    from(h.NumberProcessors),
			Runs:                from(h.Runs),
			BugCheckCode:        from(h.BugCheckCode),
			BugCheckParameter:   parameters(h.BugCheckParameter[:]...),
			SystemTime:          from(h.SystemTime),
			SystemUpTime:        from(h.SystemUpTime),
			ProductType:         from(h.ProductType),
			SuiteMask:           from(h.SuiteMask),
			BootID:              from(h.BootID),
			Comment:             from(h.Comment),
		}
		if f.Context.Value != nil {
			got.Context = from(h.ContextRecord[:len(f.Context.Value)])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("facts (-want +got):\n%s", diff)
		}
		var pages uint64
		for _, r := range f.Runs.Value {
			pages += r.Pages
		}
		if h.NumberOfPages != pages || h.RequiredDumpSpace != uint64(n)+pages*0x1000 || !h.Describes(f.Runs.Value) {
			t.Fatalf("NumberOfPages, RequiredDumpSpace = %#x, %#x; want %#x pages", h.NumberOfPages, h.RequiredDumpSpace, pages)
		}
	})
}
