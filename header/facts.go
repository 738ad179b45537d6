package header

import (
	"errors"
	"fmt"
	"slices"

	"snap/phys"
)

// Facts is what a header says about a guest, each value with its origin, which
// the header that Make makes keeps. The caller fills it from the guest's
// memory; the package has no other source.
type Facts struct {
	Machine phys.Known[Machine] // MachineAMD64 or MachineI386

	// NtBuildNumber is the kernel variable of that name with its flags: the
	// build number in the low 16 bits, 0xF (free) or 0xC (checked) in the top four.
	NtBuildNumber phys.Known[uint32]

	// DirectoryTableBase is the System process's, as KPROCESS holds it. Bits
	// that are no part of the address are cleared.
	DirectoryTableBase phys.Known[phys.Addr]

	PAE phys.Known[bool] // MachineI386 only: paging uses PAE

	// Kernel virtual addresses. On MachineI386 they may be sign-extended, as
	// in the KDBG, or zero-extended.
	PfnDatabase         phys.Known[phys.VirtAddr] // value of MmPfnDatabase, 0 if unknown
	PsLoadedModuleList  phys.Known[phys.VirtAddr] // of the list head
	PsActiveProcessHead phys.Known[phys.VirtAddr] // of the list head
	KdDebuggerDataBlock phys.Known[phys.VirtAddr] // where the dump's memory will hold the decoded KDBG, 0 for nowhere

	NumberProcessors phys.Known[uint32] // active processors of all groups, 1 to MaxProcessors

	// Runs is the memory that will follow the header, in file order: ascending,
	// disjoint, in a full dump at most MaxRuns (MaxRuns32 on MachineI386). It is
	// copied. InitializeBitmapDumpHeader does not use it.
	Runs phys.Known[[]phys.Run]

	// BugCheckCode and BugCheckParameter: KiBugcheckData of a guest that has
	// crashed, else BugCheckLiveSystemDump or another code and any parameters.
	// SetBugCheck chooses.
	BugCheckCode      phys.Known[uint32]
	BugCheckParameter [4]phys.Known[uint64]

	SystemTime   phys.Known[uint64] // FILETIME, UTC: KUSER_SHARED_DATA.SystemTime
	SystemUpTime phys.Known[uint64] // units of 100 ns: KUSER_SHARED_DATA.InterruptTime
	ProductType  phys.Known[uint32] // KUSER_SHARED_DATA.NtProductType
	SuiteMask    phys.Known[uint32] // KUSER_SHARED_DATA.SuiteMask
	BootID       phys.Known[uint32] // KUSER_SHARED_DATA.BootId, 0 where Windows is too old to have one

	// Comment is printable ASCII of at most MaxComment characters; empty
	// leaves the field unset.
	Comment phys.Known[string]

	// Context is the CONTEXT of the processor that a debugger shows first, as
	// ContextFor makes it or as Windows saved it: that of the processor that crashed,
	// if one did. Nil leaves the area zero, which is what the kernel's routine does,
	// and the origin then says why, FromNoContext if it is empty. It is copied.
	Context phys.Known[[]byte]
}

// Origins of values that are not the guest's.
const (
	FromFormat     = "dump format"
	FromSize       = "size of header and pages"
	FromNotCrashed = "snap: the guest has not crashed"
	FromNoBugCheck = "snap: the guest's bug check can't be read"
	FromNoContext  = "snap: no processor's registers are known"
	FromNoKDBG     = "snap: the guest has no KDBG that can be used"
)

// SetBugCheck sets what a debugger is told of why the guest stopped. code and
// parameters are KiBugcheckData, of which the code is 0 while the guest runs,
// and without an origin where it can't be read: then the header says
// BugCheckLiveSystemDump, without parameters.
func (f *Facts) SetBugCheck(code phys.Known[uint64], parameters [4]phys.Known[uint64]) {
	if code.Value != 0 {
		f.BugCheckCode, f.BugCheckParameter = phys.Know(uint32(code.Value), code.From), parameters
		return
	}
	why := FromNotCrashed
	if code.From == "" {
		why = FromNoBugCheck
	}
	f.BugCheckCode = phys.Know(BugCheckLiveSystemDump, why)
	for i := range f.BugCheckParameter {
		f.BugCheckParameter[i] = phys.Know(uint64(0), why)
	}
}

// width returns the layout of the guest's header.
func (f *Facts) width() (Width, error) {
	switch f.Machine.Value {
	case MachineAMD64:
		return Width64, nil
	case MachineI386:
		return Width32, nil
	}
	return 0, &FactError{"Machine", uint64(f.Machine.Value), "headers are made for AMD64 and x86 only"}
}

// Masks of the address in KPROCESS.DirectoryTableBase. The low bits of a table
// that fills a page hold a PCID; with x86 PAE the table has 32 bytes (Intel SDM
// volume 3, 4.4.1 and 4.5).
const (
	maskPage phys.Addr = phys.PageSize - 1
	maskPAE  phys.Addr = 31
)

// tableBase is DirectoryTableBase without the bits that are no address.
func (f *Facts) tableBase() phys.Addr {
	if f.Machine.Value == MachineI386 && f.PAE.Value {
		return f.DirectoryTableBase.Value &^ maskPAE
	}
	return f.DirectoryTableBase.Value &^ maskPage
}

// check says which fact no reader of a dump of pages could work with, as a
// *FactError.
func (f *Facts) check(w Width, pages []phys.Run) error {
	if major := f.NtBuildNumber.Value >> 28; (major != 0xF && major != 0xC) || f.NtBuildNumber.Value&0xFFFF == 0 {
		return &FactError{"NtBuildNumber", uint64(f.NtBuildNumber.Value), "not the build number of a free or checked kernel"}
	}
	if f.NumberProcessors.Value < 1 || f.NumberProcessors.Value > MaxProcessors {
		return &FactError{"NumberProcessors", uint64(f.NumberProcessors.Value), fmt.Sprintf("Windows runs 1 to %d", MaxProcessors)}
	}
	if err := f.checkTableBase(w, pages); err != nil {
		return err
	}
	for _, check := range []func(Width) error{f.checkAddresses, f.checkBugCheck, f.checkComment, f.checkContext} {
		if err := check(w); err != nil {
			return err
		}
	}
	return nil
}

func (f *Facts) checkRuns(w Width) error {
	if len(f.Runs.Value) == 0 {
		return &FactError{"Runs", 0, "a full dump has at least one run"}
	}
	var bad *FormatError
	if errors.As(checkRuns(w, f.Runs.Value), &bad) {
		return &FactError{bad.Field, bad.Value, bad.Reason}
	}
	return nil
}

// checkTableBase also demands that the table is dumped: without its page no
// reader can translate an address.
func (f *Facts) checkTableBase(w Width, pages []phys.Run) error {
	base := f.tableBase()
	refuse := func(reason string) error {
		return &FactError{"DirectoryTableBase", uint64(f.DirectoryTableBase.Value), reason}
	}
	switch {
	case f.PAE.Value && w == Width64:
		return &FactError{"PAE", 1, "PAE is a mode of x86"}
	case base == 0:
		return refuse("no page table lies at physical address 0")
	case base >= phys.MaxAddr, w == Width32 && base > maxUint32:
		return refuse("outside what CR3 can address")
	case !slices.ContainsFunc(pages, func(r phys.Run) bool { return r.Base <= base.PFN() && base.PFN() < r.End() }):
		return refuse("the page is not among those that are dumped")
	}
	return nil
}

// checkAddresses demands kernel addresses, aligned as pointers are.
func (f *Facts) checkAddresses(w Width) error {
	for _, a := range []struct {
		name     string
		at       phys.VirtAddr
		optional bool
	}{
		{"PfnDatabase", f.PfnDatabase.Value, true},
		{"PsLoadedModuleList", f.PsLoadedModuleList.Value, false},
		{"PsActiveProcessHead", f.PsActiveProcessHead.Value, false},
		{"KdDebuggerDataBlock", f.KdDebuggerDataBlock.Value, true},
	} {
		if a.optional && a.at == 0 {
			continue
		}
		if !kernelAddress(w, a.at) {
			return &FactError{a.name, uint64(a.at), "not a kernel address"}
		}
		if a.at%phys.VirtAddr(w/8) != 0 {
			return &FactError{a.name, uint64(a.at), "not aligned"}
		}
	}
	return nil
}

// kernelAddress reports whether a lies in the kernel's half. x86 Windows never
// has its kernel below 2 GiB.
func kernelAddress(w Width, a phys.VirtAddr) bool {
	if w == Width64 {
		return a.Kernel()
	}
	high := a >> 31
	return high == 1 || high == 1<<33-1
}

func (f *Facts) checkBugCheck(w Width) error {
	for i, p := range f.BugCheckParameter {
		if w == Width32 && p.Value > maxUint32 {
			return &FactError{fmt.Sprintf("BugCheckParameter[%d]", i), p.Value, "does not fit 32 bits"}
		}
	}
	return nil
}

func (f *Facts) checkComment(Width) error {
	if len(f.Comment.Value) > MaxComment {
		return &FactError{"Comment", uint64(len(f.Comment.Value)), fmt.Sprintf("length is above %d", MaxComment)}
	}
	if !printable(f.Comment.Value) {
		return &FactError{"Comment", uint64(len(f.Comment.Value)), "not printable ASCII"}
	}
	return nil
}

// checkContext demands a CONTEXT of the right machine. kdmp-parser refuses a
// dump whose two copies of MXCSR differ.
func (f *Facts) checkContext(w Width) error {
	if f.Context.Value == nil {
		return nil
	}
	size, machine := f.Machine.Value.ContextSize(), f.Machine.Value.ContextFlag()
	c, err := DecodeContext(f.Machine.Value, f.Context.Value)
	switch {
	case err != nil || len(f.Context.Value) != size:
		return &FactError{"Context", uint64(len(f.Context.Value)), fmt.Sprintf("length is not %#x", size)}
	case c.Flags&machine == 0:
		return &FactError{"Context", uint64(c.Flags), "ContextFlags are not of this machine"}
	case w == Width64 && c.MxCsr != c.FltMxCsr():
		return &FactError{"Context", uint64(c.MxCsr), fmt.Sprintf("MxCsr differs from %#x in FltSave", c.FltMxCsr())}
	}
	return nil
}
