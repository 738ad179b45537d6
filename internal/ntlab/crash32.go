package ntlab

// Layout of CONTEXT of x86 (winnt.h).
const (
	context32Size      = 0x2CC
	context32Selectors = 0x8C // SegGs, SegFs, SegEs, SegDs
	context32Cs        = 0xBC
	context32EFlags    = 0xC0
	context32Ss        = 0xC8
	context32Extended  = 0xCC // an FXSAVE image
	fxsaveMxCsr        = 0x18

	contextX86 = 0x10000
)

// context32General is where the registers of contextBytes' order are: Eax, Ecx, Edx, Ebx,
// Esp, Ebp, Esi, Edi; x86 has none of the eight that follow them there; Eip.
var context32General = map[int]int{0: 0xB0, 1: 0xAC, 2: 0xA8, 3: 0xA4, 4: 0xC4, 5: 0xB4, 6: 0xA0, 7: 0x9C, 16: 0xB8}

// contextBytes32 is contextBytes of an x86 kernel.
func contextBytes32(flags, eflags uint32, cs, ss uint16, general []uint64) []byte {
	b := make([]byte, context32Size)
	le.PutUint32(b, flags&0x1F|contextX86)
	for i, s := range []uint32{0, sel32PCR, sel32UserData, sel32UserData} {
		le.PutUint32(b[context32Selectors+4*i:], s)
	}
	for k, at := range context32General {
		le.PutUint32(b[at:], uint32(general[k]))
	}
	le.PutUint32(b[context32Cs:], uint32(cs))
	le.PutUint32(b[context32EFlags:], eflags)
	le.PutUint32(b[context32Ss:], uint32(ss))
	le.PutUint32(b[context32Extended+fxsaveMxCsr:], contextMXCSR)
	return b
}
