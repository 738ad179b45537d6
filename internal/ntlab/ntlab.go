// Package ntlab builds the memory of a Windows guest: a synthetic image laid
// out as Windows lays it out, from published structure layouts and real dumps,
// for tests, benchmarks, fuzz seeds and the lab:/// connection.
//
// It shares no code with the packages under test beyond phys: every
// structure offset is written down here again from its public source, and
// Truth says what a correct reader must find.
package ntlab

import (
	"context"
	"errors"

	"snap/phys"
)

// Config says which guest to build. The zero value of a field means the
// profile's default.
type Config struct {
	Profile string // one of Profiles(), Generations() or Generations32()
	Seed    uint64 // everything random comes from here: same Config, same image
	Memory  uint64 // bytes of RAM, a multiple of 2 MiB
	CPUs    int
	Machine string // "q35" or "i440fx": where the hole below 4 GiB lies

	PlainKDBG  bool // a debugger was enabled at boot: the KDBG is not encoded
	EncodeKDBG bool // the KDBG is encoded in generations too that aren't known to do so, those before Windows 8
	// HalfDecodedKDBG is how many bytes from the start of an encoded KDBG the kernel has
	// decoded, as it does for a moment when it writes a live dump: a multiple of 8, at
	// most the block's size less 8; 0 for none.
	HalfDecodedKDBG uint32
	KPTI            bool // processes have a user CR3 that maps only the trampoline and KUSER_SHARED_DATA
	UserMode        bool // the processors are stopped in user mode, in processes other than System

	IdentityCPUs     bool      // vCPU i is Windows processor i
	SmallPages       bool      // the kernel image is mapped by 4 KiB pages everywhere
	StraddleKDBG     bool      // the KDBG straddles two pages that are not neighbours in physical memory
	NoLowStub        bool      // the processor start block has been overwritten
	LA57             bool      // page tables have 5 levels
	NoPAE            bool      // of a 32-bit Windows: its page tables have two levels and entries of 4 bytes
	UserSpace3GB     bool      // of a 32-bit Windows: the boot option /3GB, the kernel's half begins at 3 GiB
	FarKernel        bool      // with 5 levels: kernel and drivers are elsewhere in the kernel's half than with 4
	UnalignedKernel  bool      // the kernel's base is a multiple of 4 KiB only, so that it is mapped by such pages
	TablesAbove      uint64    // where the System process's table is: above so many bytes, a multiple of 4 KiB [below 16 MiB]
	DummySelfMap     bool      // a page of low memory looks like a top-level table: it maps itself and the kernel's images
	Nested           bool      // the processors are in a hypervisor that runs inside the guest
	VBS              bool      // Windows runs a secure kernel and Credential Guard: there are processes that stand for them
	HotPlug          uint64    // bytes of RAM, a multiple of 2 MiB, that were plugged in and Windows doesn't use yet
	Unreadable       uint64    // bytes of RAM, a multiple of 4 KiB, that can't be read: pages that the guest doesn't use
	MonitorRegisters bool      // Registers lacks what QEMU's monitor doesn't print: KERNEL_GS_BASE, LSTAR
	BugCheck         [5]uint64 // the guest shows its blue screen: code and 4 parameters, see Crash
}

// Image is a guest's physical memory, sparse in the host's. It is a
// phys.Reader. Reads and writes may run concurrently if they don't touch the
// same page; what allocates or maps pages, or fills memory, runs alone.
type Image struct {
	Config Config
	Truth  Truth

	mem  sparse
	ram  phys.Runs
	gone phys.Runs // of ram: can't be read
	regs []phys.Registers

	published []byte // an ELF note, nil for none

	tables *pageTables
	alloc  *allocator

	pool, paged, ptes, loader region

	kuser   phys.PFN
	cpus    []cpu
	spare   phys.VirtAddr
	symbols map[string]phys.VirtAddr
}

// Truth is what the builder put into an image.
type Truth struct {
	Build               uint32 // NtBuildNumber without its flags, e.g. 19045
	DirectoryTableBase  phys.Addr
	UserDirectoryTable  phys.Addr // of the process that processor 0 runs; 0 without KPTI and UserMode
	SelfMapSlot         int
	KernelBase          phys.VirtAddr
	KernelSize          uint32
	PsLoadedModuleList  phys.VirtAddr
	PsActiveProcessHead phys.VirtAddr
	SystemProcess       phys.VirtAddr // EPROCESS of System
	KDBG                phys.VirtAddr
	KDBGPlain           []byte // the decoded block
	KDBGEncoded         bool
	PfnDatabase         phys.VirtAddr // the value of MmPfnDatabase
	Runs                []phys.Run    // MmPhysicalMemoryBlock
	Processors          []Processor   // by Windows processor number
	Modules             []Module      // in load order
	Processes           []Process     // in list order
	ProductType         uint32
	SuiteMask           uint32
	BootID              uint32
	SystemTime          uint64    // FILETIME
	InterruptTime       uint64    // 100 ns units
	LowStub             phys.Addr // of the processor start block, 0 if there is none
	Mappings            []Mapping // pages that are mapped in another way than most

	Crash *Crash // of Config.BugCheck, nil for none

	Adverts       []Advertised   // by Advertise, in that order
	Registrations []Registration // by Register
	Marks         []Marked       // by Mark
}

// Processor is one processor of the guest.
type Processor struct {
	VCPU    int // the hypervisor's index, which the builder shuffles
	KPCR    phys.VirtAddr
	KPRCB   phys.VirtAddr
	Context phys.VirtAddr // where the CONTEXT for a debugger goes
}

// Module is an entry of PsLoadedModuleList.
type Module struct {
	Name string
	Base phys.VirtAddr
	Size uint32
}

// Process is an entry of PsActiveProcessHead.
type Process struct {
	Name               string // as in ImageFileName, at most 15 bytes
	PID                uint64
	EPROCESS           phys.VirtAddr
	DirectoryTableBase phys.Addr
}

var _ phys.Reader = (*Image)(nil)

// RAM returns the image's RAM map.
func (im *Image) RAM() phys.Runs { return im.ram }

// Registers returns the processors' state, by vCPU index.
func (im *Image) Registers() []phys.Registers { return im.regs }

// ReadPhys implements phys.Reader.
func (im *Image) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if r, ok := phys.RunOf(at, uint64(len(p))); ok && len(im.gone.Intersect(phys.Runs{r})) > 0 {
		return &phys.AccessError{At: at, Len: len(p), Err: ErrGone}
	}
	return im.mem.read(ctx, im.ram, p, at)
}

// Gone returns the pages of RAM that can't be read.
func (im *Image) Gone() phys.Runs { return im.gone }

// ErrGone is why memory can't be read by Config.Unreadable.
var ErrGone = errors.New("the host has no such memory")
