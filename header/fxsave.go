package header

import (
	"encoding/binary"

	"snap/phys"
)

// An FXSAVE image (Intel SDM volume 1, 10.5.1). Instruction and data pointers
// are not known and stay zero; so does MXCSR_MASK, which then means the
// architecture's default.
const (
	fxsaveSize = 512

	fxFCW   = 0x00
	fxFSW   = 0x02
	fxFTW   = 0x04 // abridged: one bit per register
	fxMxCsr = 0x18
	fxST    = 0x20 // 16 bytes per register, of which 10 count
	fxXMM   = 0xA0
)

// fxsave makes an FXSAVE image with the first n XMM registers.
func fxsave(f *phys.FPU, n int) [fxsaveSize]byte {
	var b [fxsaveSize]byte
	binary.LittleEndian.PutUint16(b[fxFCW:], f.FCW)
	binary.LittleEndian.PutUint16(b[fxFSW:], f.FSW)
	b[fxFTW] = f.FTW
	binary.LittleEndian.PutUint32(b[fxMxCsr:], f.MXCSR)
	for i, st := range f.ST {
		copy(b[fxST+16*i:], st[:])
	}
	for i, x := range f.XMM[:n] {
		copy(b[fxXMM+16*i:], x[:])
	}
	return b
}

// FLOATING_SAVE_AREA of x86 (winnt.h): an FSAVE image.
const (
	fsControl = 0x00
	fsStatus  = 0x04
	fsTag     = 0x08
	fsST      = 0x1C // 10 bytes per register
)

// floatSave writes the x87 state over b, a FLOATING_SAVE_AREA.
func floatSave(b []byte, f *phys.FPU) {
	binary.LittleEndian.PutUint32(b[fsControl:], uint32(f.FCW))
	binary.LittleEndian.PutUint32(b[fsStatus:], uint32(f.FSW))
	binary.LittleEndian.PutUint32(b[fsTag:], uint32(fullTags(f)))
	for i, st := range f.ST {
		copy(b[fsST+10*i:], st[:])
	}
}

// Tags of x87 registers in a full tag word (Intel SDM volume 1, 8.1.7).
const (
	tagValid   = 0
	tagZero    = 1
	tagSpecial = 2
	tagEmpty   = 3
)

// fullTags widens the abridged tag word, which FXSAVE makes of it, to two bits
// per register. Tags go by physical register, ST by stack position: ST0 is the
// register that TOP in the status word names.
func fullTags(f *phys.FPU) uint16 {
	top := int(f.FSW >> 11 & 7)
	var tags uint16
	for i, st := range f.ST {
		reg := (top + i) & 7
		tag := uint16(tagEmpty)
		if f.FTW>>reg&1 != 0 {
			tag = tagOf(st)
		}
		tags |= tag << (2 * reg)
	}
	return tags
}

// tagOf classifies the value of a register that is in use.
func tagOf(st [10]byte) uint16 {
	significand := binary.LittleEndian.Uint64(st[:8])
	exponent := binary.LittleEndian.Uint16(st[8:]) & 0x7FFF
	switch {
	case exponent == 0 && significand == 0:
		return tagZero
	case exponent == 0, exponent == 0x7FFF, significand>>63 == 0:
		return tagSpecial
	}
	return tagValid
}
