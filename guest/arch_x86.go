package guest

import (
	"context"
	"fmt"

	"snap/phys"
)

// x86 is 32-bit x86. Its kernel's half begins at 2 GiB, or with the boot option /3GB at
// 3 GiB, below which there is a program's memory then; kernel, boot drivers and all
// fixed addresses are above either.
var x86 = Arch{
	name: "x86", machine: MachineI386, pointer: 4,
	pagings:    []*Paging{&pagingPAE, &pagingX86},
	kernelsLow: 0xFFFF_FFFF_8000_0000, kernelsLast: 0xFFFF_FFFF_FFFF_FFFF,
	kuser:       0xFFFF_FFFF_FFDF_0000,  // KI_USER_SHARED_DATA, ntddk.h
	contextSize: 0x2CC, contextAlign: 4, // CONTEXT of winnt.h
	layout:    layoutX86,
	image:     imagePE32,
	runsIn:    func(m cpuMode) bool { return m != modeLong },
	registers: RegisterNames{ProgramCounter: "EIP", StackPointer: "ESP", PageTableRoot: "CR3"},
	pagingsOf: pagingsOfX86,
	kpcrs:     kpcrsX86,
	hints:     hintsX86,
}

// X86 returns 32-bit x86.
func X86() *Arch { return &x86 }

// layoutX86: public ntkrpamp symbols of XP to 10.0.19041; UNICODE_STRING (ntdef.h),
// PHYSICAL_MEMORY_DESCRIPTOR32 (QEMU, include/qemu/win_dump_defs.h), KPCR (ntddk.h),
// KBUGCHECK_REASON_CALLBACK_RECORD and KBUGCHECK_REMOVE_PAGES (wdm.h).
var layoutX86 = layout{
	ldrDllBase: 0x18, ldrEntryPoint: 0x1C, ldrSizeOfImage: 0x20, ldrFullDllName: 0x24, ldrBaseDllName: 0x2C,
	ldrSize: 0x34, unicodeBuffer: 4,

	kprocessDirectoryTableBase: 0x18,

	kpcrGdtBase: 0x3C, kpcrIdtBase: 0x38, kpcrSelf: 0x1C, kpcrPrcb: 0x120, kpcrSize: 0x40, kpcrHead: 0x138,
	// The KDBG of XP ends before it says where a context is: behind the 0x1C bytes that
	// precede ProcessorState in all kernels before Windows 7.
	prcbNumber: 0x3CC, prcbLegacyNumber: 0x10, prcbContext: 0x1C, switchReturn: 0x08,

	descriptorPages: 0x04, descriptorRuns: 0x08,

	callbackRoutine: 0x08, callbackComponent: 0x0C, callbackChecksum: 0x10, callbackReason: 0x14,
	callbackState: 0x18, callbackSize: 0x1C,

	removePages: 0x14,
}

// pagingX86: two levels of tables with entries of 4 bytes, and large pages of 4 MiB,
// whose entries may have 8 more bits of the address (PSE-36; Intel SDM volume 3, 4.3).
// The software bits are MMPTE_* in the public ntoskrnl symbols of x86: what a prototype
// PTE's address is relative to, paged pool's start, an entry doesn't say.
var pagingX86 = Paging{
	name: "32-bit paging", top: 2, largest: 2, kept: 3, addressBits: 32,
	shifts: [8]uint8{1: 12, 2: 22}, counts: [8]uint16{1: 1024, 2: 1024},
	rootMask: 0xFFFF_F000,
	entryBits: entryBits{
		size:    4,
		present: 1 << 0, write: 1 << 1, user: 1 << 2, large: 1 << 7,
		prototype: 1 << 10, transition: 1 << 11,
		frame:         0xFFFF_F000,
		ignored:       1<<5 | 1<<6, // Accessed and Dirty
		pageFileShift: 12,
		largeHigh:     0xFF << 13, largeHighShift: 32 - 13,
	},
}

// pagingPAE: a row of 4 entries, aligned to 32 bytes, and two levels of tables with
// entries of 8 bytes, which are those of long mode (Intel SDM volume 3, 4.4). The
// address of a prototype PTE is the upper half of an entry (MMPTE_PROTOTYPE in the
// public ntkrpamp symbols).
var pagingPAE = Paging{
	name: "PAE paging", top: 3, largest: 2, kept: 3, bare: 3, addressBits: 32,
	shifts: [8]uint8{1: 12, 2: 21, 3: 30}, counts: [8]uint16{1: 512, 2: 512, 3: 4},
	rootMask: 0xFFFF_FFE0, row: true,
	entryBits: entryBits{
		size:    8,
		present: entryAMD64.present, write: entryAMD64.write, user: entryAMD64.user, large: entryAMD64.large, noExec: entryAMD64.noExec,
		prototype: entryAMD64.prototype, transition: entryAMD64.transition, swizzle: entryAMD64.swizzle,
		frame:         entryAMD64.frame,
		ignored:       1<<5 | 1<<6,
		protoShift:    32,
		pageFileShift: 32,
	},
}

// pagingsOfX86: a processor in long mode runs another Windows. Of one whose control
// registers aren't known, no more is than that it may page.
func pagingsOfX86(c *phys.Registers) []*Paging {
	switch mode := modeOf(c); {
	case mode == modeUnknown && c.CR4 == 0:
		return []*Paging{&pagingPAE, &pagingX86}
	case mode != modePaged32 && mode != modeUnknown:
		return nil
	case c.CR4&cr4PAE != 0:
		return []*Paging{&pagingPAE}
	}
	return []*Paging{&pagingX86}
}

// addressX86 returns the canonical form of an address of 32 bits.
func addressX86(v uint64) phys.VirtAddr { return phys.VirtAddr(int64(int32(v))) }

// selectorKPCR is the selector of Windows' segment for the KPCR, KGDT_R0_PCR (ks386.inc
// of the WDK).
const selectorKPCR = 0x30

// kpcrsX86: in kernel mode the KPCR is in FS; in user mode FS has the program's TEB, but
// the GDT goes on to have a descriptor of the KPCR's segment.
func kpcrsX86(ctx context.Context, space *AddressSpace, c *phys.Registers) []phys.VirtAddr {
	var out []phys.VirtAddr
	add := func(base uint64) {
		if v := addressX86(base); space.kernel(v) && v.Offset()%8 == 0 && (len(out) == 0 || out[0] != v) {
			out = append(out, v)
		}
	}
	if !c.UserMode() {
		add(c.FS.Base)
	}
	if c.GDT.Limit < selectorKPCR+7 {
		return out
	}
	var d [8]byte // Intel SDM volume 3, 3.4.5
	if space.ReadVirt(ctx, d[:], addressX86(c.GDT.Base)+selectorKPCR) == nil {
		add(uint64(d[2]) | uint64(d[3])<<8 | uint64(d[4])<<16 | uint64(d[7])<<24)
	}
	return out
}

// hintsX86: the first interrupt handler, the code that runs, and the boot processor's
// KPCR, which is a variable of newer kernels' images.
func hintsX86(ctx context.Context, space *AddressSpace, cpus []phys.Registers) []hint {
	var out []hint
	seen := map[phys.VirtAddr]bool{}
	add := func(va phys.VirtAddr, cpu int, what string) {
		// Hints in the same chunk search the same memory.
		if chunk := va &^ (scanChunk - 1); space.kernel(va) && !seen[chunk] {
			seen[chunk] = true
			out = append(out, hint{va, fmt.Sprintf("vCPU %d %s", cpu, what)})
		}
	}
	for i := range cpus {
		c := &cpus[i]
		var gate [8]byte // Intel SDM volume 3, 6.11
		if space.ReadVirt(ctx, gate[:], addressX86(c.IDT.Base)) == nil {
			add(addressX86(uint64(gate[0])|uint64(gate[1])<<8|uint64(gate[6])<<16|uint64(gate[7])<<24), c.CPU, "IDT")
		}
	}
	for i := range cpus {
		c := &cpus[i]
		add(addressX86(c.RIP), c.CPU, space.arch.registers.ProgramCounter)
		for _, kpcr := range kpcrsX86(ctx, space, c) {
			add(kpcr, c.CPU, "KPCR")
		}
	}
	return out
}
