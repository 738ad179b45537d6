package header

import "snap/guest/phys"

// Sizes of a CONTEXT in bytes (winnt.h).
const (
	ContextSizeAMD64 = 0x4D0
	ContextSizeI386  = 0x2CC
)

// Context is the part of a CONTEXT that both x86 layouts share, and the
// registers that only one of them has.
type Context struct {
	Flags                                    uint32 // ContextFlags
	MxCsr                                    uint32 // the CONTEXT's own copy
	SegCs, SegDs, SegEs, SegFs, SegGs, SegSs uint16
	EFlags                                   uint32
	Dr                                       [8]uint64 // 4 and 5 are unused
	Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi   uint64
	R8, R9, R10, R11, R12, R13, R14, R15     uint64
	Rip                                      uint64
	FltSave                                  [512]byte // FXSAVE image
}

var _ = phys.PageSize
