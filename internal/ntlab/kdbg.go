package ntlab

import (
	"math/bits"

	"snap/phys"
)

// kdbgLayout is what the KDDEBUGGER_DATA64 of a kernel holds: pointers to
// variables, and constants.
type kdbgLayout struct {
	size     uint32
	pointers []kdbgPointer
	words    []kdbgWord
	pteBase  bool // PteBase at 0x360
}

// kdbgPointer is a field that holds the address of a kernel variable or routine.
type kdbgPointer struct {
	off  uint32
	name string
	size uint32 // of the variable, bytes; 0: a routine
	area string // the section that it lies in
}

// kdbgWord is a 16-bit constant.
type kdbgWord struct {
	off   uint32
	value uint16
}

// Offsets in KDDEBUGGER_DATA64 (wdbgexts.h) that the builder sets by name.
const (
	kdbgFlink     = 0x00
	kdbgBlink     = 0x08
	kdbgOwnerTag  = 0x10
	kdbgSize      = 0x14
	kdbgKernBase  = 0x18
	kdbgPageSize  = 0x138
	kdbgPTEBase   = 0x360
	kdbgTag       = 0x4742444B // 'KDBG'
	kdbgAlignment = 0x20       // as a triage dump of build 19041 shows (…B20)
)

// kdbgBytes returns the plain block.
func (b *builder) kdbgBytes() []byte {
	l := &b.p.kdbg
	out := make([]byte, l.size)
	head := uint64(b.symbols["KdpDebuggerDataListHead"])
	le.PutUint64(out[kdbgFlink:], head)
	le.PutUint64(out[kdbgBlink:], head)
	le.PutUint32(out[kdbgOwnerTag:], kdbgTag)
	le.PutUint32(out[kdbgSize:], l.size)
	le.PutUint64(out[kdbgKernBase:], uint64(b.Truth.KernelBase))
	le.PutUint64(out[kdbgPageSize:], phys.PageSize)
	for _, f := range l.pointers {
		le.PutUint64(out[f.off:], uint64(b.symbols[f.name]))
	}
	for _, w := range l.words {
		le.PutUint16(out[w.off:], w.value)
	}
	if l.pteBase {
		le.PutUint64(out[kdbgPTEBase:], uint64(b.pteBase()))
	}
	return out
}

// pteBase returns where the self-map puts the page-table entries.
func (b *builder) pteBase() phys.VirtAddr {
	return b.slotAddr(b.Truth.SelfMapSlot)
}

// encodeKDBG returns block as a kernel that was booted without a debugger
// keeps it. never and always are the values of nt!KiWaitNever and
// nt!KiWaitAlways, flag is the address of nt!KdpDataBlockEncoded. The formula
// is the inverse of the decoding in QEMU's contrib/elf2dmp/main.c.
func encodeKDBG(block []byte, never, always uint64, flag phys.VirtAddr) []byte {
	out := make([]byte, len(block))
	for i := 0; i+8 <= len(block); i += 8 {
		x := bits.ReverseBytes64(le.Uint64(block[i:])^always) ^ uint64(flag)
		le.PutUint64(out[i:], never^bits.RotateLeft64(x, -int(never&63)))
	}
	return out
}

// placeKDBG writes the block at its place, encoded where this kernel does so.
func (b *builder) placeKDBG() {
	va := b.symbols["KdDebuggerDataBlock"]
	plain := b.kdbgBytes()
	b.Truth.KDBG, b.Truth.KDBGPlain = va, plain

	head := b.symbols["KdpDebuggerDataListHead"]
	b.put64(head, uint64(va))
	b.put64(head+8, uint64(va))
	b.placeVersionBlock(head)

	r := stream(b.Config.Seed, 'k')
	never, always := r.u64(), r.u64()
	stored := plain
	if b.p.encrypts || b.Config.EncodeKDBG {
		b.put64(b.symbols["KiWaitNever"], never)
		b.put64(b.symbols["KiWaitAlways"], always)
		if !b.Config.PlainKDBG {
			flag := b.symbols["KdpDataBlockEncoded"]
			b.put(flag, []byte{1})
			stored = encodeKDBG(plain, never, always, flag)
			b.Truth.KDBGEncoded = true
		}
	}
	b.put(va, stored)
	check(b.HalfDecodeKDBG(int(b.Config.HalfDecodedKDBG)))
}

// placeVersionBlock writes nt!KdVersionBlock, a DBGKD_GET_VERSION64
// (wdbgexts.h, windbgkd.h).
func (b *builder) placeVersionBlock(list phys.VirtAddr) {
	v := make([]byte, 0x28)
	le.PutUint16(v[0:], 0xF) // free build
	le.PutUint16(v[2:], uint16(b.p.build))
	v[4] = 6                  // ProtocolVersion
	v[5] = 2                  // KdSecondaryVersion: the current CONTEXT
	le.PutUint16(v[6:], 0x07) // DBGKD_VERS_FLAG_MP, DATA and PTR64
	le.PutUint16(v[8:], 0x8664)
	v[0xA], v[0xB], v[0xC] = 12, 3, 0x33
	le.PutUint64(v[0x10:], uint64(b.Truth.KernelBase))
	le.PutUint64(v[0x18:], uint64(b.symbols["PsLoadedModuleList"]))
	le.PutUint64(v[0x20:], uint64(list))
	b.put(b.symbols["KdVersionBlock"], v)
}
