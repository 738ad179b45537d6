package header

import (
	"encoding/binary"

	"snap/phys"
)

// initialMxCsr is the MXCSR after reset, for a processor whose SSE state is
// unknown (Intel SDM volume 1, 10.2.3; INITIAL_MXCSR in winnt.h).
const initialMxCsr = 0x1F80

// selectors are the values that Windows keeps in the segment registers.
type selectors struct{ cs, ds, es, fs, gs, ss uint16 }

// What Windows runs on, by machine and privilege. The kernel's are in the
// CONTEXTs of the real dumps in testdata; the code and data selectors of user
// mode are GdtR3Code and GdtR3Data of the KDBG, and its FS holds the TEB.
var (
	kernelAMD64 = selectors{cs: 0x10, ds: 0x2B, es: 0x2B, fs: 0x53, gs: 0x2B, ss: 0x18}
	userAMD64   = selectors{cs: 0x33, ds: 0x2B, es: 0x2B, fs: 0x53, gs: 0x2B, ss: 0x2B}
	kernelI386  = selectors{cs: 0x08, ds: 0x23, es: 0x23, fs: 0x30, gs: 0x00, ss: 0x10}
	userI386    = selectors{cs: 0x1B, ds: 0x23, es: 0x23, fs: 0x3B, gs: 0x00, ss: 0x23}
)

// ContextFor is ContextAMD64 or ContextI386, by the machine that the guest's
// kernel is for. It is nil for a machine whose CONTEXT is not known here, which
// no header is made for either.
func ContextFor(m Machine, r *phys.Registers) []byte {
	switch m {
	case MachineAMD64:
		return ContextAMD64(r)
	case MachineI386:
		return ContextI386(r)
	}
	return nil
}

// ContextAMD64 makes the CONTEXT of AMD64, ContextSizeAMD64 bytes, from a
// processor's registers.
//
// ContextFlags name every group, without floating point or debug registers
// where r has none; then that group is zero, and MXCSR, which readers look at
// always, has its value after reset in both places. A null selector, which a
// processor holds in SS after an interrupt in 64-bit mode and a source gives
// for a register that it doesn't know, is replaced with the one that Windows
// uses at that privilege: WinDbg does not accept null ones (MemProcFS,
// LiveCloudKd). Other selectors are what the processor holds.
func ContextAMD64(r *phys.Registers) []byte {
	c := contextOf(r, kernelAMD64, userAMD64)
	c.Flags |= ContextFlagAMD64
	c.MxCsr = initialMxCsr
	if r.HasFPU {
		c.Flags |= ContextFloatingPoint
		c.MxCsr = r.FPU.MXCSR
		c.FltSave = fxsave(&r.FPU, len(r.FPU.XMM))
	}
	binary.LittleEndian.PutUint32(c.FltSave[fxMxCsr:], c.MxCsr)
	b := make([]byte, ContextSizeAMD64)
	c.encode(contextAMD64, b)
	return b
}

// ContextI386 makes the CONTEXT of x86, ContextSizeI386 bytes, from the
// registers of a processor that runs a 32-bit kernel; upper halves are
// dropped. The rules are those of ContextAMD64, except that GS may be null:
// 32-bit Windows does not use it.
func ContextI386(r *phys.Registers) []byte {
	c := contextOf(r, kernelI386, userI386)
	c.Flags |= ContextFlagI386
	for _, p := range []*uint64{
		&c.Rax, &c.Rcx, &c.Rdx, &c.Rbx, &c.Rsp, &c.Rbp, &c.Rsi, &c.Rdi, &c.Rip,
		&c.Dr[0], &c.Dr[1], &c.Dr[2], &c.Dr[3], &c.Dr[6], &c.Dr[7],
	} {
		*p &= maxUint32
	}
	b := make([]byte, ContextSizeI386)
	mxcsr := uint32(initialMxCsr)
	if r.HasFPU {
		c.Flags |= ContextFloatingPoint | ContextExtendedRegisters
		mxcsr = r.FPU.MXCSR
		c.FltSave = fxsave(&r.FPU, 8)
		floatSave(b[floatSaveI386:], &r.FPU)
	}
	binary.LittleEndian.PutUint32(c.FltSave[fxMxCsr:], mxcsr)
	c.encode(contextI386, b)
	return b
}

// contextOf takes over what both layouts have in common.
func contextOf(r *phys.Registers, kernel, user selectors) Context {
	std := kernel
	if r.UserMode() {
		std = user
	}
	c := Context{
		Flags: ContextControl | ContextInteger | ContextSegments,
		SegCs: or(r.CS, std.cs), SegDs: or(r.DS, std.ds), SegEs: or(r.ES, std.es),
		SegFs: or(r.FS, std.fs), SegGs: or(r.GS, std.gs), SegSs: or(r.SS, std.ss),
		EFlags: uint32(r.RFLAGS),
		Rax:    r.RAX, Rcx: r.RCX, Rdx: r.RDX, Rbx: r.RBX,
		Rsp: r.RSP, Rbp: r.RBP, Rsi: r.RSI, Rdi: r.RDI,
		R8: r.R8, R9: r.R9, R10: r.R10, R11: r.R11,
		R12: r.R12, R13: r.R13, R14: r.R14, R15: r.R15,
		Rip: r.RIP,
	}
	if r.HasDebug {
		c.Flags |= ContextDebugRegisters
		c.Dr = r.DR
	}
	return c
}

// or returns the selector of s, and std for a null one, whatever its RPL.
func or(s phys.Segment, std uint16) uint16 {
	if s.Selector&^3 == 0 {
		return std
	}
	return s.Selector
}
