package header

import (
	"errors"
	"fmt"
	"slices"

	"snap/phys"
)

// Facts is what a header says about a guest. The caller fills it from the
// guest's memory; the package has no other source.
type Facts struct {
	Machine Machine // MachineAMD64 or MachineI386

	// NtBuildNumber is the kernel variable of that name with its flags: the
	// build number in the low 16 bits, 0xF (free) or 0xC (checked) in the top four.
	NtBuildNumber uint32

	// DirectoryTableBase is the System process's, as KPROCESS holds it. Bits
	// that are no part of the address are cleared.
	DirectoryTableBase phys.Addr

	PAE bool // MachineI386 only: paging uses PAE

	// Kernel virtual addresses. On MachineI386 they may be sign-extended, as
	// in the KDBG, or zero-extended.
	PfnDatabase         phys.VirtAddr // value of MmPfnDatabase, 0 if unknown
	PsLoadedModuleList  phys.VirtAddr // of the list head
	PsActiveProcessHead phys.VirtAddr // of the list head
	KdDebuggerDataBlock phys.VirtAddr // where the dump's memory will hold the decoded KDBG

	NumberProcessors uint32 // active processors of all groups, 1 to MaxProcessors

	// Runs is the memory that will follow the header of a full dump, in file
	// order: ascending, disjoint, at most MaxRuns (MaxRuns32 on MachineI386).
	// It is copied. InitializeBitmapDumpHeader does not use it.
	Runs []phys.Run

	// BugCheckCode and BugCheckParameter: KiBugcheckData of a guest that has
	// crashed, else BugCheckLiveSystemDump or another code and any parameters.
	BugCheckCode      uint32
	BugCheckParameter [4]uint64

	SystemTime   uint64 // FILETIME, UTC: KUSER_SHARED_DATA.SystemTime
	SystemUpTime uint64 // units of 100 ns: KUSER_SHARED_DATA.InterruptTime
	ProductType  uint32 // KUSER_SHARED_DATA.NtProductType
	SuiteMask    uint32 // KUSER_SHARED_DATA.SuiteMask
	BootID       uint32 // KUSER_SHARED_DATA.BootId, 0 where Windows is too old to have one

	// Comment is printable ASCII of at most MaxComment characters; empty
	// leaves the field unset.
	Comment string

	// Context is the CONTEXT of the processor that a debugger shows first, as
	// ContextAMD64 or ContextI386 makes it. Nil leaves the area zero, which is
	// what the kernel's routine does. It is copied.
	Context []byte
}

// width returns the layout of the guest's header.
func (f *Facts) width() (Width, error) {
	switch f.Machine {
	case MachineAMD64:
		return Width64, nil
	case MachineI386:
		return Width32, nil
	}
	return 0, &FactError{"Machine", uint64(f.Machine), "headers are made for AMD64 and x86 only"}
}

// address is a as the header stores it.
func (f *Facts) address(a phys.VirtAddr) phys.VirtAddr {
	if f.Machine == MachineI386 {
		return a & maxUint32
	}
	return a
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
	if f.Machine == MachineI386 && f.PAE {
		return f.DirectoryTableBase &^ maskPAE
	}
	return f.DirectoryTableBase &^ maskPage
}

// checkFull is check for a full dump of the runs.
func (f *Facts) checkFull(w Width) error {
	if err := f.checkRuns(w); err != nil {
		return err
	}
	return f.check(w, f.Runs)
}

// check says which fact no reader of a dump of pages could work with, as a
// *FactError.
func (f *Facts) check(w Width, pages []phys.Run) error {
	if major := f.NtBuildNumber >> 28; (major != 0xF && major != 0xC) || f.NtBuildNumber&0xFFFF == 0 {
		return &FactError{"NtBuildNumber", uint64(f.NtBuildNumber), "not the build number of a free or checked kernel"}
	}
	if f.NumberProcessors < 1 || f.NumberProcessors > MaxProcessors {
		return &FactError{"NumberProcessors", uint64(f.NumberProcessors), fmt.Sprintf("Windows runs 1 to %d", MaxProcessors)}
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
	if len(f.Runs) == 0 {
		return &FactError{"Runs", 0, "a full dump has at least one run"}
	}
	var bad *FormatError
	if errors.As(checkRuns(w, f.Runs), &bad) {
		return &FactError{bad.Field, bad.Value, bad.Reason}
	}
	return nil
}

// checkTableBase also demands that the table is dumped: without its page no
// reader can translate an address.
func (f *Facts) checkTableBase(w Width, pages []phys.Run) error {
	base := f.tableBase()
	refuse := func(reason string) error {
		return &FactError{"DirectoryTableBase", uint64(f.DirectoryTableBase), reason}
	}
	switch {
	case f.PAE && w == Width64:
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
		{"PfnDatabase", f.PfnDatabase, true},
		{"PsLoadedModuleList", f.PsLoadedModuleList, false},
		{"PsActiveProcessHead", f.PsActiveProcessHead, false},
		{"KdDebuggerDataBlock", f.KdDebuggerDataBlock, false},
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
		if w == Width32 && p > maxUint32 {
			return &FactError{fmt.Sprintf("BugCheckParameter[%d]", i), p, "does not fit 32 bits"}
		}
	}
	return nil
}

func (f *Facts) checkComment(Width) error {
	if len(f.Comment) > MaxComment {
		return &FactError{"Comment", uint64(len(f.Comment)), fmt.Sprintf("length is above %d", MaxComment)}
	}
	if !printable(f.Comment) {
		return &FactError{"Comment", uint64(len(f.Comment)), "not printable ASCII"}
	}
	return nil
}

// context decodes the CONTEXT.
func (f *Facts) context() (Context, error) {
	if f.Machine == MachineI386 {
		return DecodeContextI386(f.Context)
	}
	return DecodeContextAMD64(f.Context)
}

// checkContext demands a CONTEXT of the right machine. kdmp-parser refuses a
// dump whose two copies of MXCSR differ.
func (f *Facts) checkContext(w Width) error {
	if f.Context == nil {
		return nil
	}
	size, machine := ContextSizeAMD64, ContextFlagAMD64
	if w == Width32 {
		size, machine = ContextSizeI386, ContextFlagI386
	}
	c, err := f.context()
	switch {
	case err != nil || len(f.Context) != size:
		return &FactError{"Context", uint64(len(f.Context)), fmt.Sprintf("length is not %#x", size)}
	case c.Flags&machine == 0:
		return &FactError{"Context", uint64(c.Flags), "ContextFlags are not of this machine"}
	case w == Width64 && c.MxCsr != c.FltMxCsr():
		return &FactError{"Context", uint64(c.MxCsr), fmt.Sprintf("MxCsr differs from %#x in FltSave", c.FltMxCsr())}
	}
	return nil
}
