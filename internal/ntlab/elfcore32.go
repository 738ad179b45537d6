package ntlab

import (
	"io"

	"snap/phys"
)

// Layout of an ELF core of a guest whose processors aren't in long mode, and that has
// its memory below 4 GiB (System V ABI, chapters 4 and 5; x86_elf_prstatus of QEMU
// target/i386/arch_dump.c).
const (
	elfHeader32    = 52
	elfProgram32   = 32
	prstatus32Len  = 144
	prstatus32Regs = 72
)

// writeCore32 is WriteELFCore of such a guest.
func (im *Image) writeCore32(w io.Writer, notes []byte) error {
	head := elfHeader32 + elfProgram32*(1+len(im.ram))
	h := make([]byte, head)
	copy(h, "\x7fELF\x01\x01\x01")
	le.PutUint16(h[0x10:], 4) // ET_CORE
	le.PutUint16(h[0x12:], 3) // EM_386
	le.PutUint32(h[0x14:], 1)
	le.PutUint32(h[0x1C:], elfHeader32)
	le.PutUint16(h[0x28:], elfHeader32)
	le.PutUint16(h[0x2A:], elfProgram32)
	le.PutUint16(h[0x2C:], uint16(1+len(im.ram)))

	put := func(i int, kind uint32, offset, at, size uint64) {
		p := h[elfHeader32+elfProgram32*i:]
		le.PutUint32(p, kind)
		le.PutUint32(p[0x04:], uint32(offset))
		le.PutUint32(p[0x0C:], uint32(at))
		le.PutUint32(p[0x10:], uint32(size))
		le.PutUint32(p[0x14:], uint32(size))
	}
	put(0, ptNote, uint64(head), 0, uint64(len(notes)))
	at := uint64(head + len(notes))
	for i, r := range im.ram {
		put(1+i, ptLoad, at, uint64(r.Base.Addr()), r.Size())
		at += r.Size()
	}
	return im.writeOut(w, append(h, notes...), im.ram)
}

// prstatus32 is x86_elf_prstatus.
func prstatus32(g *phys.Registers) []byte {
	p := make([]byte, prstatus32Len)
	le.PutUint32(p[24:], uint32(g.CPU+1))
	for i, v := range []uint64{
		g.RBX, g.RCX, g.RDX, g.RSI, g.RDI, g.RBP, g.RAX, uint64(g.DS.Selector), uint64(g.ES.Selector),
		uint64(g.FS.Selector), uint64(g.GS.Selector), g.RAX, g.RIP, uint64(g.CS.Selector), g.RFLAGS, g.RSP,
		uint64(g.SS.Selector),
	} {
		le.PutUint32(p[prstatus32Regs+4*i:], uint32(v))
	}
	return p
}
