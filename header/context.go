package header

import (
	"encoding/binary"
	"fmt"
)

// Sizes of a CONTEXT in bytes (winnt.h).
const (
	ContextSizeAMD64 = 0x4D0
	ContextSizeI386  = 0x2CC
)

// Bits of ContextFlags (winnt.h): the machine, and which groups are valid.
const (
	ContextFlagI386  uint32 = 0x0001_0000
	ContextFlagAMD64 uint32 = 0x0010_0000

	ContextControl           uint32 = 0x01 // Rip, Rsp, EFlags, SegCs, SegSs; on x86 also Rbp
	ContextInteger           uint32 = 0x02 // the other general registers
	ContextSegments          uint32 = 0x04 // SegDs, SegEs, SegFs, SegGs
	ContextFloatingPoint     uint32 = 0x08 // x87; on AMD64 also SSE
	ContextDebugRegisters    uint32 = 0x10
	ContextExtendedRegisters uint32 = 0x20 // x86 only: the FXSAVE image
)

// Context is a processor's state as CONTEXT holds it, in one struct for both
// x86 layouts. The 32-bit layout has no R8 to R15 and no MxCsr of its own; its
// registers are zero-extended.
type Context struct {
	Flags                                    uint32 // ContextFlags
	MxCsr                                    uint32 // the CONTEXT's copy, beside the one in FltSave
	SegCs, SegDs, SegEs, SegFs, SegGs, SegSs uint16
	EFlags                                   uint32
	Dr                                       [8]uint64 // Dr[4] and Dr[5] are unused
	Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi   uint64
	R8, R9, R10, R11, R12, R13, R14, R15     uint64
	Rip                                      uint64
	FltSave                                  [fxsaveSize]byte // XMM_SAVE_AREA32: an FXSAVE image
}

// FltMxCsr returns the MXCSR inside FltSave. kdmp-parser takes a dump for
// damaged where it differs from MxCsr.
func (c *Context) FltMxCsr() uint32 {
	return binary.LittleEndian.Uint32(c.FltSave[fxMxCsr:])
}

// CodeMode is what code a processor of Windows runs.
type CodeMode int

// Modes, by the code segment.
const (
	KernelCode CodeMode = iota
	UserCode            // of as many bits as the kernel
	UserCode32          // of a 32-bit program in 64-bit Windows; no debugger of 64 bits can begin with it
)

// Code returns what code a processor was in.
func (c *Context) Code() CodeMode {
	switch {
	case c.SegCs&3 == 0:
		return KernelCode
	case c.SegCs == userAMD64.cs, c.Flags&ContextFlagI386 != 0:
		return UserCode
	}
	return UserCode32
}

// contextField is where a register lies in a CONTEXT.
type contextField struct {
	name         string
	offset, size int
	at           func(*Context) cell
}

// contextAMD64 is the CONTEXT of AMD64 (winnt.h; QEMU
// include/qemu/win_dump_defs.h, WinContext64). What is not listed is zero: home
// space for parameters, VectorRegister, DebugControl and branch records.
var contextAMD64 = []contextField{
	{"ContextFlags", 0x30, 4, func(c *Context) cell { return num(&c.Flags) }},
	{"MxCsr", 0x34, 4, func(c *Context) cell { return num(&c.MxCsr) }},
	{"SegCs", 0x38, 2, func(c *Context) cell { return num(&c.SegCs) }},
	{"SegDs", 0x3A, 2, func(c *Context) cell { return num(&c.SegDs) }},
	{"SegEs", 0x3C, 2, func(c *Context) cell { return num(&c.SegEs) }},
	{"SegFs", 0x3E, 2, func(c *Context) cell { return num(&c.SegFs) }},
	{"SegGs", 0x40, 2, func(c *Context) cell { return num(&c.SegGs) }},
	{"SegSs", 0x42, 2, func(c *Context) cell { return num(&c.SegSs) }},
	{"EFlags", 0x44, 4, func(c *Context) cell { return num(&c.EFlags) }},
	{"Dr0", 0x48, 8, func(c *Context) cell { return num(&c.Dr[0]) }},
	{"Dr1", 0x50, 8, func(c *Context) cell { return num(&c.Dr[1]) }},
	{"Dr2", 0x58, 8, func(c *Context) cell { return num(&c.Dr[2]) }},
	{"Dr3", 0x60, 8, func(c *Context) cell { return num(&c.Dr[3]) }},
	{"Dr6", 0x68, 8, func(c *Context) cell { return num(&c.Dr[6]) }},
	{"Dr7", 0x70, 8, func(c *Context) cell { return num(&c.Dr[7]) }},
	{"Rax", 0x78, 8, func(c *Context) cell { return num(&c.Rax) }},
	{"Rcx", 0x80, 8, func(c *Context) cell { return num(&c.Rcx) }},
	{"Rdx", 0x88, 8, func(c *Context) cell { return num(&c.Rdx) }},
	{"Rbx", 0x90, 8, func(c *Context) cell { return num(&c.Rbx) }},
	{"Rsp", 0x98, 8, func(c *Context) cell { return num(&c.Rsp) }},
	{"Rbp", 0xA0, 8, func(c *Context) cell { return num(&c.Rbp) }},
	{"Rsi", 0xA8, 8, func(c *Context) cell { return num(&c.Rsi) }},
	{"Rdi", 0xB0, 8, func(c *Context) cell { return num(&c.Rdi) }},
	{"R8", 0xB8, 8, func(c *Context) cell { return num(&c.R8) }},
	{"R9", 0xC0, 8, func(c *Context) cell { return num(&c.R9) }},
	{"R10", 0xC8, 8, func(c *Context) cell { return num(&c.R10) }},
	{"R11", 0xD0, 8, func(c *Context) cell { return num(&c.R11) }},
	{"R12", 0xD8, 8, func(c *Context) cell { return num(&c.R12) }},
	{"R13", 0xE0, 8, func(c *Context) cell { return num(&c.R13) }},
	{"R14", 0xE8, 8, func(c *Context) cell { return num(&c.R14) }},
	{"R15", 0xF0, 8, func(c *Context) cell { return num(&c.R15) }},
	{"Rip", 0xF8, 8, func(c *Context) cell { return num(&c.Rip) }},
	{"FltSave", 0x100, fxsaveSize, func(c *Context) cell { return fixedCell{c.FltSave[:]} }},
}

// floatSaveI386 is the offset of FLOATING_SAVE_AREA, which ContextI386 makes
// from the FXSAVE image.
const floatSaveI386 = 0x1C

// contextI386 is the CONTEXT of x86 (winnt.h; QEMU
// include/qemu/win_dump_defs.h, WinContext32). Selectors take 32 bits there, of
// which writers leave the upper half to chance.
var contextI386 = []contextField{
	{"ContextFlags", 0x00, 4, func(c *Context) cell { return num(&c.Flags) }},
	{"Dr0", 0x04, 4, func(c *Context) cell { return num(&c.Dr[0]) }},
	{"Dr1", 0x08, 4, func(c *Context) cell { return num(&c.Dr[1]) }},
	{"Dr2", 0x0C, 4, func(c *Context) cell { return num(&c.Dr[2]) }},
	{"Dr3", 0x10, 4, func(c *Context) cell { return num(&c.Dr[3]) }},
	{"Dr6", 0x14, 4, func(c *Context) cell { return num(&c.Dr[6]) }},
	{"Dr7", 0x18, 4, func(c *Context) cell { return num(&c.Dr[7]) }},
	{"SegGs", 0x8C, 4, func(c *Context) cell { return num(&c.SegGs) }},
	{"SegFs", 0x90, 4, func(c *Context) cell { return num(&c.SegFs) }},
	{"SegEs", 0x94, 4, func(c *Context) cell { return num(&c.SegEs) }},
	{"SegDs", 0x98, 4, func(c *Context) cell { return num(&c.SegDs) }},
	{"Edi", 0x9C, 4, func(c *Context) cell { return num(&c.Rdi) }},
	{"Esi", 0xA0, 4, func(c *Context) cell { return num(&c.Rsi) }},
	{"Ebx", 0xA4, 4, func(c *Context) cell { return num(&c.Rbx) }},
	{"Edx", 0xA8, 4, func(c *Context) cell { return num(&c.Rdx) }},
	{"Ecx", 0xAC, 4, func(c *Context) cell { return num(&c.Rcx) }},
	{"Eax", 0xB0, 4, func(c *Context) cell { return num(&c.Rax) }},
	{"Ebp", 0xB4, 4, func(c *Context) cell { return num(&c.Rbp) }},
	{"Eip", 0xB8, 4, func(c *Context) cell { return num(&c.Rip) }},
	{"SegCs", 0xBC, 4, func(c *Context) cell { return num(&c.SegCs) }},
	{"EFlags", 0xC0, 4, func(c *Context) cell { return num(&c.EFlags) }},
	{"Esp", 0xC4, 4, func(c *Context) cell { return num(&c.Rsp) }},
	{"SegSs", 0xC8, 4, func(c *Context) cell { return num(&c.SegSs) }},
	{"ExtendedRegisters", 0xCC, fxsaveSize, func(c *Context) cell { return fixedCell{c.FltSave[:]} }},
}

// ContextSize returns the bytes of a CONTEXT of m, 0 for a machine whose CONTEXT is not
// known here.
func (m Machine) ContextSize() int {
	switch m {
	case MachineAMD64:
		return ContextSizeAMD64
	case MachineI386:
		return ContextSizeI386
	}
	return 0
}

// ContextFlag returns the bit of ContextFlags that every CONTEXT of m has, 0 for a
// machine whose CONTEXT is not known here.
func (m Machine) ContextFlag() uint32 {
	switch m {
	case MachineAMD64:
		return ContextFlagAMD64
	case MachineI386:
		return ContextFlagI386
	}
	return 0
}

// DecodeContext is DecodeContextAMD64 or DecodeContextI386, by machine. It
// fails for a machine whose CONTEXT is not known here.
func DecodeContext(m Machine, b []byte) (Context, error) {
	switch m {
	case MachineAMD64:
		return DecodeContextAMD64(b)
	case MachineI386:
		return DecodeContextI386(b)
	}
	return Context{}, &FormatError{"MachineImageType", -1, uint64(m), "the CONTEXT of this machine is not known"}
}

// DecodeContextAMD64 reads the CONTEXT of AMD64 that b begins with; more bytes
// may follow. It fails with a *FormatError if b is too short, and judges no
// value: the all-zero area of a header without context decodes to zeros, and
// only Flags says which groups are valid.
func DecodeContextAMD64(b []byte) (Context, error) {
	return decodeContext(contextAMD64, ContextSizeAMD64, b)
}

// DecodeContextI386 is DecodeContextAMD64 for the CONTEXT of x86.
func DecodeContextI386(b []byte) (Context, error) {
	return decodeContext(contextI386, ContextSizeI386, b)
}

func decodeContext(fields []contextField, size int, b []byte) (Context, error) {
	var c Context
	if len(b) < size {
		return c, &FormatError{"length", -1, uint64(len(b)), fmt.Sprintf("a CONTEXT has %#x bytes", size)}
	}
	for _, f := range fields {
		f.at(&c).load(b[f.offset : f.offset+f.size])
	}
	return c, nil
}

// encode writes c over b, a CONTEXT of the layout fields.
func (c *Context) encode(fields []contextField, b []byte) {
	for _, f := range fields {
		if bad, err := f.at(c).store(b[f.offset : f.offset+f.size]); err != nil {
			panic(fmt.Sprintf("snap: internal error: %s of a CONTEXT: %#x: %v", f.name, bad, err))
		}
	}
}
