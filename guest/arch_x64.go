package guest

import (
	"context"
	"encoding/binary"
	"fmt"

	"snap/phys"
)

// KUSERAddress is where every x64 Windows kernel maps KUSER_SHARED_DATA
// (KI_USER_SHARED_DATA, ntddk.h).
const KUSERAddress phys.VirtAddr = 0xFFFF_F780_0000_0000

// amd64 is x86-64.
var amd64 = Arch{
	name: "amd64", machine: MachineAMD64, pointer: 8,
	pagings:    []*Paging{&fourLevels, &fiveLevels},
	kernelsLow: 0xFFFF_F800_0000_0000, kernelsLast: 0xFFFF_F8FF_FFFF_FFFF,
	kuser:       KUSERAddress,
	contextSize: 0x4D0, contextAlign: 16, // CONTEXT of winnt.h
	layout:    layoutAMD64,
	image:     imagePE32Plus,
	runsIn:    func(m cpuMode) bool { return m != modePaged32 },
	lowStubs:  true,
	registers: RegisterNames{ProgramCounter: "RIP", StackPointer: "RSP", PageTableRoot: "CR3"},
	pagingsOf: pagingsOfAMD64,
	kpcrs:     kpcrsAMD64,
	hints:     hintsAMD64,
}

// layoutAMD64: public ntkrnlmp symbols, the same from Server 2003 on; UNICODE_STRING
// (ntdef.h), PHYSICAL_MEMORY_DESCRIPTOR64 (QEMU, include/qemu/win_dump_defs.h),
// KBUGCHECK_REASON_CALLBACK_RECORD and KBUGCHECK_REMOVE_PAGES (wdm.h).
var layoutAMD64 = layout{
	ldrDllBase: 0x30, ldrEntryPoint: 0x38, ldrSizeOfImage: 0x40, ldrFullDllName: 0x48, ldrBaseDllName: 0x58,
	ldrSize: 0x68, unicodeBuffer: 8,

	kprocessDirectoryTableBase: 0x28,

	kpcrGdtBase: 0x00, kpcrIdtBase: 0x38, kpcrSelf: 0x18, kpcrPrcb: 0x180, kpcrSize: 0x40, kpcrHead: 0x1C0,
	prcbNumber: 0x24, prcbLegacyNumber: 0x04, switchReturn: 0x38,

	descriptorPages: 0x08, descriptorRuns: 0x10,

	callbackRoutine: 0x10, callbackComponent: 0x18, callbackChecksum: 0x20, callbackReason: 0x28,
	callbackState: 0x2C, callbackSize: 0x30,

	removePages: 0x20,
}

// What x86-64 has of pagings in long mode: CR4.LA57 is set for that with 5 levels,
// before Windows' first instruction, and can't be changed in long mode (Intel SDM
// volume 3, 4.1.1).
var (
	fourLevels = pagingAMD64(4)
	fiveLevels = pagingAMD64(5)
)

// entryAMD64: Intel SDM volume 3, 4.5; AMD64 manual volume 2, 5.3 and 5.4.
// Transition, Prototype and SwizzleBit are MMPTE_TRANSITION in the public ntkrnlmp
// symbols; kernels that have no SwizzleBit hide no frame numbers either.
var entryAMD64 = entryBits{
	size:    8,
	present: 1 << 0, write: 1 << 1, user: 1 << 2, large: 1 << 7, noExec: 1 << 63,
	prototype: 1 << 10, transition: 1 << 11, swizzle: 1 << 4,
	frame: 0x000f_ffff_ffff_f000, // bits 51..12
	// Accessed and Dirty, which the processor sets, and those from 52 to 62, which it
	// ignores or takes for a protection key, and where Windows keeps a page's age
	// (MMPTE_HARDWARE in the public ntkrnlmp symbols).
	ignored: 1<<5 | 1<<6 | 0x7ff<<52,
	// ProtoAddress is the upper 48 bits.
	protoShift: 16, pageFileShift: 32,
}

// pagingAMD64: the same volumes.
func pagingAMD64(levels int) Paging {
	const perLevel = 9 // bits of an address
	p := Paging{
		name: fmt.Sprintf("%d-level paging", levels),
		top:  levels, kept: levels, addressBits: phys.PageShift + perLevel*uint(levels),
		rootMask:  entryAMD64.frame,
		largest:   3, // 1 GiB
		entryBits: entryAMD64,
	}
	for level := 1; level <= levels; level++ {
		p.shifts[level] = uint8(phys.PageShift + perLevel*(level-1))
		p.counts[level] = 1 << perLevel
	}
	return p
}

// AMD64 returns x86-64.
func AMD64() *Arch { return &amd64 }

// pagingsOfAMD64: a processor that isn't in long mode pages otherwise or, such as one
// that was never started, not at all. Of one whose control registers aren't known,
// no more is than that it may page.
func pagingsOfAMD64(c *phys.Registers) []*Paging {
	switch mode := modeOf(c); {
	case mode != modeLong && mode != modeUnknown:
		return nil
	case mode == modeUnknown && c.CR4 == 0:
		return []*Paging{&fourLevels, &fiveLevels}
	case c.CR4&phys.CR4LA57 != 0:
		return []*Paging{&fiveLevels}
	}
	return []*Paging{&fourLevels}
}

// kpcrsAMD64: in user mode the KPCR is in KernelGSBase, and GS base is the
// program's own affair; in kernel mode it is the other way round, but for a few
// instructions after an entry and before an exit.
func kpcrsAMD64(_ context.Context, _ *AddressSpace, c *phys.Registers) []phys.VirtAddr {
	var claims []phys.VirtAddr
	if !c.UserMode() {
		claims = append(claims, phys.VirtAddr(c.GS.Base))
	}
	if c.HasKernelGSBase {
		claims = append(claims, phys.VirtAddr(c.KernelGSBase))
	}
	var out []phys.VirtAddr
	for _, v := range claims {
		if v.Kernel() && v.Offset()%8 == 0 {
			out = append(out, v)
		}
	}
	return out
}

// hintsAMD64: the system call entry, the first interrupt handler, the code that
// runs, and the boot processor's KPCR, which is a variable of the kernel image.
func hintsAMD64(ctx context.Context, space *AddressSpace, cpus []phys.Registers) []hint {
	var out []hint
	seen := map[phys.VirtAddr]bool{}
	add := func(at uint64, cpu int, what string) {
		va := phys.VirtAddr(at)
		// Hints in the same chunk search the same memory.
		if chunk := va &^ (scanChunk - 1); va.Kernel() && !seen[chunk] {
			seen[chunk] = true
			out = append(out, hint{va, fmt.Sprintf("vCPU %d %s", cpu, what)})
		}
	}
	for i := range cpus {
		c := &cpus[i]
		if c.HasLSTAR {
			add(c.LSTAR, c.CPU, "LSTAR")
		}
		var gate [16]byte
		if space.ReadVirt(ctx, gate[:], phys.VirtAddr(c.IDT.Base)) == nil {
			add(gateOffset(&gate), c.CPU, "IDT")
		}
	}
	for i := range cpus {
		c := &cpus[i]
		add(uint64(c.ProgramCounter()), c.CPU, space.arch.registers.ProgramCounter)
		add(c.GS.Base, c.CPU, "GS base")
		if c.HasKernelGSBase {
			add(c.KernelGSBase, c.CPU, "KernelGSBase")
		}
	}
	return out
}

// gateOffset returns the handler's address from a 64-bit interrupt gate (Intel
// SDM volume 3, 6.14.1).
func gateOffset(g *[16]byte) uint64 {
	le := binary.LittleEndian
	return uint64(le.Uint16(g[0:])) | uint64(le.Uint16(g[6:]))<<16 | uint64(le.Uint32(g[8:]))<<32
}
