package guest

import (
	"context"
	"slices"

	"snap/phys"
)

// Arch is a processor architecture, as far as it decides how Windows lies in
// memory: where things are that have fixed addresses, how structures are laid out that
// hold pointers, and what registers tell. How page tables are read is a Paging, of
// which an architecture has several. The package has the values, see Archs; they are
// constant and safe for concurrent use.
//
// Addresses of the kernel's half are canonical as those of 64 bits are, whatever the
// architecture: where pointers have 32 bits, they are sign-extended, as Windows has
// them in its KDBG.
type Arch struct {
	name    string
	machine uint16
	pointer int // bytes
	// pagings are the ways in which page tables can be built, that which most guests
	// use first.
	pagings []*Paging

	// The kernel and the boot drivers are from kernelsLow up to kernelsLast, with
	// and without address space randomisation.
	kernelsLow, kernelsLast phys.VirtAddr
	kuser                   phys.VirtAddr

	contextSize, contextAlign int // bytes

	layout layout
	image  imageLayout

	registers RegisterNames
	// runsIn reports whether this architecture's Windows runs on processors in a mode.
	runsIn func(cpuMode) bool
	// pagingsOf returns how a processor may translate by tables that its registers
	// name: one way where they say which, all where they don't, and none of a
	// processor that doesn't page, or otherwise.
	pagingsOf func(*phys.Registers) []*Paging
	// kpcrs returns where a processor's KPCR may be, the likelier place first, as far as
	// registers and what an address space maps say it.
	kpcrs func(context.Context, *AddressSpace, *phys.Registers) []phys.VirtAddr
	// hints returns what the processors' registers know of where the kernel is.
	hints func(context.Context, *AddressSpace, []phys.Registers) []hint
	// lowStubs: Windows leaves a page that starts processors, of a known form.
	lowStubs bool
}

// layout is where structures have what is read of them, for the kernels whose KDBG
// doesn't say it and for what no KDBG says: offsets in bytes.
type layout struct {
	// KLDR_DATA_TABLE_ENTRY, and UNICODE_STRING.
	ldrDllBase, ldrEntryPoint, ldrSizeOfImage, ldrFullDllName, ldrBaseDllName int
	ldrSize                                                                   int // as far as it is used
	unicodeBuffer                                                             int

	kprocessDirectoryTableBase int

	// KPCR and KPRCB.
	kpcrGdtBase, kpcrIdtBase, kpcrSelf, kpcrPrcb int
	kpcrSize                                     int // as far as it is used here
	kpcrHead                                     int // up to what of the KPRCB is saved registers
	prcbNumber, prcbLegacyNumber                 int
	prcbContext                                  int // the CONTEXT in ProcessorState of kernels whose KDBG has no word on it, 0 for none
	switchReturn                                 int // KSWITCH_FRAME: where a thread that was switched goes on

	// PHYSICAL_MEMORY_DESCRIPTOR.
	descriptorPages, descriptorRuns int

	// KBUGCHECK_REASON_CALLBACK_RECORD.
	callbackRoutine, callbackComponent, callbackChecksum, callbackReason, callbackState, callbackSize int

	removePages int // size of a KBUGCHECK_REMOVE_PAGES
}

// RegisterNames are what people call the registers that every architecture has
// in some form.
type RegisterNames struct {
	ProgramCounter, StackPointer, PageTableRoot string
}

// Archs returns the architectures whose Windows is understood, in the order in
// which Discover looks for it.
func Archs() []*Arch { return []*Arch{AMD64(), X86()} }

// Name returns the usual short name in lower case, such as "amd64".
func (a *Arch) Name() string { return a.name }

// String is Name.
func (a *Arch) String() string { return a.name }

// Machine returns the IMAGE_FILE_MACHINE of kernels for a (Microsoft PE format).
func (a *Arch) Machine() uint16 { return a.machine }

// PointerSize returns the bytes of a kernel pointer.
func (a *Arch) PointerSize() int { return a.pointer }

// Pagings returns the ways in which page tables of a can be built, that which most
// guests use first.
func (a *Arch) Pagings() []*Paging { return slices.Clone(a.pagings) }

// KUSER returns the address at which every kernel for a maps KUSER_SHARED_DATA.
func (a *Arch) KUSER() phys.VirtAddr { return a.kuser }

// ContextSize returns the bytes of a CONTEXT (winnt.h).
func (a *Arch) ContextSize() int { return a.contextSize }

// SwitchReturn returns where the saved stack of a thread that isn't running has the
// address to which it goes on (KSWITCH_FRAME), bytes from the stack's top.
func (a *Arch) SwitchReturn() int { return a.layout.switchReturn }

// KPCRHead returns how many bytes a KPCR has, and the KPRCB in it, before the place where
// old kernels save the processor's registers.
func (a *Arch) KPCRHead() int { return a.layout.kpcrHead }

// ListEntrySize returns the bytes of a LIST_ENTRY.
func (a *Arch) ListEntrySize() int { return 2 * a.pointer }

// RemovePagesSize returns the bytes of a KBUGCHECK_REMOVE_PAGES (wdm.h).
func (a *Arch) RemovePagesSize() int { return a.layout.removePages }

// Registers returns the names of registers.
func (a *Arch) Registers() RegisterNames { return a.registers }

// Address returns the virtual address that a register or a pointer of a holds.
func (a *Arch) Address(v uint64) phys.VirtAddr {
	unused := 64 - 8*uint(a.pointer)
	return phys.VirtAddr(int64(v<<unused) >> unused)
}

// archOf returns the architecture of what reads virtual memory, AMD64 where it has none.
func archOf(mem VirtReader) *Arch {
	if of, ok := mem.(interface{ Arch() *Arch }); ok {
		return of.Arch()
	}
	return &amd64
}
