package phys

// Segment is a segment register with its hidden part.
type Segment struct {
	Selector uint16
	Base     uint64 // virtual
	Limit    uint32 // bytes, already scaled by the granularity bit
	Flags    uint32 // the second descriptor doubleword: access byte in bits 8-15, AVL/L/D/G in 20-23
}

// DescriptorTable is the contents of GDTR or IDTR.
type DescriptorTable struct {
	Base  uint64 // virtual
	Limit uint32
}

// FPU is the x87 and SSE state, in the terms of the FXSAVE image (Intel SDM
// volume 1, 10.5.1).
type FPU struct {
	FCW   uint16
	FSW   uint16
	FTW   uint8 // abridged tag word: bit set means the register is in use
	MXCSR uint32
	ST    [8][10]byte  // by stack position ST0..ST7, 80-bit little-endian
	XMM   [16][16]byte // little-endian
}

// Registers is the state of one virtual processor at one moment. A source
// that can't give a group leaves it zero and the matching Has field false.
type Registers struct {
	CPU int // the hypervisor's index, which need not be the guest's number

	RAX, RBX, RCX, RDX, RSI, RDI, RBP, RSP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64

	CS, DS, ES, FS, GS, SS, LDT, TR Segment
	GDT, IDT                        DescriptorTable

	// Halves says that the source knew just what 32-bit code of a 64-bit guest sees:
	// R8 to R15, and the upper halves of the other general registers, RIP among them,
	// and of the segments' bases, are not known and zero.
	Halves bool

	CR0, CR2, CR3, CR4 uint64

	HasEFER bool
	EFER    uint64

	HasDebug bool
	DR       [8]uint64 // DR4 and DR5 are unused

	HasFPU bool
	FPU    FPU

	HasKernelGSBase bool
	KernelGSBase    uint64

	HasLSTAR bool
	LSTAR    uint64
}

// CR4LA57 is the bit of CR4 that turns on 5-level paging (Intel SDM volume 3, 4.5).
const CR4LA57 = 1 << 12

// UserMode reports whether the processor runs at CPL 3.
func (r *Registers) UserMode() bool { return r.CS.Selector&3 == 3 }

// ProgramCounter returns the virtual address of the next instruction.
func (r *Registers) ProgramCounter() VirtAddr { return VirtAddr(r.RIP) }

// StackPointer returns the virtual address of the top of the stack.
func (r *Registers) StackPointer() VirtAddr { return VirtAddr(r.RSP) }

// cr3Address are the bits of CR3 that are an address (Intel SDM volume 3,
// 4.5.2): those below are flags or the PCID.
const cr3Address = uint64(MaxAddr-1) &^ (PageSize - 1)

// PageTableRoot returns the guest-physical address of the top-level page table
// that the processor uses, without flags and PCID.
func (r *Registers) PageTableRoot() Addr { return Addr(r.CR3 & cr3Address) }
