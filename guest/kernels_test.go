package guest

import (
	"strconv"
	"strings"
	"testing"

	"snap/internal/ntlab/kerneltables"
	"snap/phys"
)

const realKernels = "../internal/ntlab/testdata/windows/"

// realKernel is a row of kernels.csv.
type realKernel struct {
	t    *testing.T
	arch *Arch
	row  map[string]string
	met  map[string]int // how often each column was used, of all rows
}

// value returns a column's number, and false where the row has none.
func (k realKernel) value(column string) (int, bool) {
	k.t.Helper()
	text, ok := k.row[column]
	if !ok {
		k.t.Fatalf("there is no column %s", column)
	}
	if text == "" {
		return 0, false
	}
	v, err := strconv.ParseInt(text, 0, 64)
	if err != nil {
		k.t.Fatalf("%s, column %s: %v", k.row["version"], column, err)
	}
	k.met[column]++
	return int(v), true
}

// build returns the row's build number, which some rows say more about.
func (k realKernel) build() int {
	digits, _, _ := strings.Cut(k.row["build"], " ")
	n, err := strconv.Atoi(digits)
	switch {
	case strings.HasPrefix(k.row["version"], "win7"):
		return 7601 // the one row that doesn't state it, and one that states its revision
	case err != nil:
		return 22621 // the others that don't state it are of Windows 10 and 11
	}
	return n
}

// is demands that a column is a constant.
func (k realKernel) is(column string, constant int) {
	k.t.Helper()
	if got, ok := k.value(column); ok && got != constant {
		k.t.Errorf("%s: %s is %#x; snap takes it for %#x", k.row["version"], column, got, constant)
	}
}

// within demands that a column is in a range, its ends included.
func (k realKernel) within(column string, low, high int) {
	k.t.Helper()
	if got, ok := k.value(column); ok && (got < low || got > high) {
		k.t.Errorf("%s: %s is %#x; snap takes it to be from %#x to %#x", k.row["version"], column, got, low, high)
	}
}

// TestConstantsOfKernels holds every constant of the package that is of a structure of
// Windows against all kernels of each architecture whose structures are known.
func TestConstantsOfKernels(t *testing.T) {
	for arch, want := range map[*Arch]int{AMD64(): 238, X86(): 25} {
		t.Run(arch.Name(), func(t *testing.T) { testConstants(t, arch, want) })
	}
}

func testConstants(t *testing.T, arch *Arch, want int) {
	met := map[string]int{}
	kernels := 0
	for _, row := range kerneltables.Read(t, realKernels+"kernels.csv") {
		if row["arch"] != arch.Name() {
			continue
		}
		kernels++
		k := realKernel{t, arch, row, met}
		k.processor()
		k.process()
		k.lists()
		k.shared()
		k.entries()
		k.is("CONTEXT_size", arch.contextSize)
		k.within("KDBG_room", kdbgMinSize, kdbgMaxSize)
		k.within("KiProcessorBlock_entries", 1, maxProcessors)
	}
	if kernels < want {
		t.Errorf("%d kernels; want the %d of the table", kernels, want)
	}
	for column, n := range met {
		if n < 3 {
			t.Errorf("only %d rows have %s", n, column)
		}
	}
}

func (k realKernel) processor() {
	l := &k.arch.layout
	k.is("KPCR_GdtBase", l.kpcrGdtBase)
	k.is("KPCR_Self", l.kpcrSelf)
	k.is("KPCR_IdtBase", l.kpcrIdtBase)
	k.containedPRCB()
	k.within("KPCR_size", l.kpcrSize, kpcrSizeMost)
	k.within("KPRCB_size", 0, kpcrSizeMost-l.kpcrPrcb)
	k.within("KPRCB_ProcessorState", l.kpcrHead-l.kpcrPrcb, kpcrSizeMost)
	k.is("KPRCB_LegacyNumber", l.prcbLegacyNumber)
	if k.build() < prcbNumberSince {
		k.is("KPRCB_Number", l.prcbLegacyNumber)
	} else {
		k.is("KPRCB_Number", l.prcbNumber)
	}
	if l.prcbContext != 0 && k.build() < prcbNumberSince {
		state, _ := k.value("KPRCB_ProcessorState")
		k.is("KPROCESSOR_STATE_ContextFrame", l.prcbContext-state)
	}
	if at, ok := k.value("KPRCB_KernelDirectoryTableBase"); ok {
		if page := phys.VirtAddr(l.kpcrPrcb + at); page.Offset() != 0 || page < shadowFirst || page >= shadowEnd {
			k.t.Errorf("%s: KernelDirectoryTableBase is at %#x of the KPCR", k.row["version"], uint64(page))
		}
	}
}

// containedPRCB: where in its KPCR a KPRCB is. On x86 the table has no word of it but
// the sizes: it is the last of it.
func (k realKernel) containedPRCB() {
	if k.arch == X86() {
		size, _ := k.value("KPCR_size")
		k.is("KPRCB_size", size-k.arch.layout.kpcrPrcb)
		return
	}
	k.is("KPCR_Prcb", k.arch.layout.kpcrPrcb)
}

func (k realKernel) process() {
	k.is("KPROCESS_DirectoryTableBase", k.arch.layout.kprocessDirectoryTableBase)
	k.within("EPROCESS_size", minEProcess, maxEProcess)
	pid, ok := k.value("EPROCESS_UniqueProcessId")
	if !ok {
		return
	}
	size, _ := k.value("EPROCESS_size")
	k.is("EPROCESS_ActiveProcessLinks", pid+k.arch.pointer)
	k.within("EPROCESS_UniqueProcessId", minProcessID, size)
	k.within("EPROCESS_ImageFileName", 0, size-imageFileNameSize)
}

func (k realKernel) lists() {
	l := &k.arch.layout
	k.is("LDR_DllBase", l.ldrDllBase)
	k.is("LDR_EntryPoint", l.ldrEntryPoint)
	k.is("LDR_SizeOfImage", l.ldrSizeOfImage)
	k.is("LDR_FullDllName", l.ldrFullDllName)
	k.is("LDR_BaseDllName", l.ldrBaseDllName)
	k.within("LDR_size", l.ldrSize, 1<<16)
	k.is("PHYSMEM_NumberOfPages", l.descriptorPages)
	k.is("PHYSMEM_Run", l.descriptorRuns)
	k.is("PHYSMEM_size", l.descriptorRuns+2*k.arch.pointer)
}

// shared: KUSER_SHARED_DATA, and which of its fields this Windows has.
func (k realKernel) shared() {
	k.is("KUSER_InterruptTime", kuserInterruptTime)
	k.is("KUSER_SystemTime", kuserSystemTime)
	k.is("KUSER_ImageNumberLow", kuserImageNumberLow)
	k.is("KUSER_NtSystemRoot", kuserNtSystemRoot)
	k.is("KUSER_NtBuildNumber", kuserNtBuildNumber)
	k.is("KUSER_NtProductType", kuserNtProductType)
	k.is("KUSER_NtMajorVersion", kuserNtMajorVersion)
	k.is("KUSER_NtMinorVersion", kuserNtMinorVersion)
	k.is("KUSER_BootId", kuserBootID)
	k.is("KUSER_SuiteMask", kuserSuiteMask)
	k.is("KUSER_KdDebuggerEnabled", kuserKdDebuggerEnabled)
	k.is("KUSER_NumberOfPhysicalPages", kuserNumberOfPhysPages)
	k.is("KUSER_ActiveProcessorCount", kuserActiveProcessorCount)
	if _, ok := k.value("KUSER_size"); !ok {
		return
	}
	u := KUSER{NtBuildNumber: 1, BootID: 1, ActiveProcessorCount: 1}
	u.NtMajorVersion, u.NtMinorVersion = versionOf(k.build())
	u.forgetLater()
	for column, read := range map[string]uint32{
		"KUSER_NtBuildNumber": u.NtBuildNumber, "KUSER_BootId": u.BootID, "KUSER_ActiveProcessorCount": u.ActiveProcessorCount,
	} {
		if has := k.row[column] != ""; has != (read != 0) {
			k.t.Errorf("%s: has %s: %v; snap reads it: %v", k.row["version"], column, has, read != 0)
		}
	}
}

// versionOf is NtMajorVersion and NtMinorVersion of a build.
func versionOf(build int) (major, minor uint32) {
	switch {
	case build < 6000:
		return 5, 2
	case build < 7600:
		return 6, 0
	case build < 9200:
		return 6, 1
	case build < 9600:
		return 6, 2
	case build < 9841:
		return 6, 3
	}
	return 10, 0
}

// entries: software page-table entries, as "bit4+1", from which bit on how many.
func (k realKernel) entries() {
	k.t.Helper()
	field := func(column string) (mask uint64, ok bool) {
		text := k.row[column]
		if text == "" {
			return 0, false
		}
		from, count, _ := strings.Cut(strings.TrimPrefix(text, "bit"), "+")
		bit, err := strconv.Atoi(from)
		n, err2 := strconv.Atoi(count)
		if err != nil || err2 != nil {
			k.t.Fatalf("%s: column %s is %q", k.row["version"], column, text)
		}
		k.met[column]++
		return (1<<n - 1) << bit, true
	}
	if mask, ok := field("TRANSITION_SwizzleBit"); ok && mask != entryAMD64.swizzle {
		k.t.Errorf("%s: SwizzleBit is %#x; snap takes it for %#x", k.row["version"], mask, entryAMD64.swizzle)
	}
	if mask, ok := field("TRANSITION_PageFrameNumber"); ok && (mask&^entryAMD64.frame != 0 || mask&(1<<phys.PageShift) == 0) {
		k.t.Errorf("%s: PageFrameNumber is %#x; snap takes it for %#x", k.row["version"], mask, entryAMD64.frame)
	}
}

// TestKDBGSizesOfKernels: every size that a KDBG is known to have is one that is taken.
func TestKDBGSizesOfKernels(t *testing.T) {
	rows := kerneltables.Read(t, realKernels+"kdbg_sizes.csv")
	for _, r := range rows {
		size, err := strconv.ParseUint(r["size"], 0, 32)
		if err != nil || !kdbgSizeOK(uint32(size)) {
			t.Errorf("%s: a KDBG of %s bytes is not taken (%v)", r["generation"], r["size"], err)
		}
	}
	if len(rows) < 11 {
		t.Errorf("%d sizes", len(rows))
	}
}

// TestBasesOfKernels: every kernel base that was seen is where kernels are looked for.
func TestBasesOfKernels(t *testing.T) {
	rows := kerneltables.Read(t, realKernels+"kernel_bases.csv")
	for _, r := range rows {
		base, err := strconv.ParseUint(r["KernBase"], 0, 64)
		if at := phys.VirtAddr(base); err != nil || at < amd64.kernelsLow || at > amd64.kernelsLast || at.Offset() != 0 {
			t.Errorf("%s: kernels are not looked for at %s (%v)", r["build"], r["KernBase"], err)
		}
	}
	if len(rows) < 27 {
		t.Errorf("%d bases", len(rows))
	}
}

// TestRealTransitionPTE: a real entry whose frame number is hidden leads to the frame
// that WinDbg gives for it.
func TestRealTransitionPTE(t *testing.T) {
	for _, r := range kerneltables.Read(t, realKernels+"transition_pte.csv") {
		pte, err := strconv.ParseUint(r["pte"], 0, 64)
		pfn, err2 := strconv.ParseUint(r["true_pfn"], 0, 64)
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		ram := phys.Runs{{Base: 0, Pages: 2 << 30 >> phys.PageShift}}
		got := entryFormat{&fourLevels, ram}.lead(pte, 1)
		if want := (lead{kind: leadsToPage, at: phys.PFN(pfn).Addr(), transition: true}); got != want {
			t.Errorf("entry %#x = %+v; want %+v", pte, got, want)
		}
	}
}
