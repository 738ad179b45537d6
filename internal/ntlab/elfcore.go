package ntlab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"

	"snap/phys"
)

// Layout of an ELF core as QEMU's dump-guest-memory writes it without paging
// (QEMU dump/dump.c, target/i386/arch_dump.c).
const (
	elfHeader  = 64
	elfProgram = 56

	noteHeader  = 12
	noteName    = 8 // "CORE" or "QEMU", the NUL, padding
	prstatusLen = 336
	qemuLen     = 0x1B8

	ptLoad, ptNote = 1, 4
)

// WriteELFCore writes what `virsh dump --memory-only` of the guest gives: all
// RAM by PT_LOAD segments with physical addresses, and a NT_PRSTATUS and a
// "QEMU" note for every vCPU. If w is a regular file, what was never written
// in the guest becomes holes.
func (im *Image) WriteELFCore(w io.Writer) error {
	notes := im.notes()
	if im.machine().word == 4 {
		return im.writeCore32(w, notes)
	}
	head := elfHeader + elfProgram*(1+len(im.ram))
	h := make([]byte, head)
	copy(h, "\x7fELF\x02\x01\x01")
	le.PutUint16(h[0x10:], 4)  // ET_CORE
	le.PutUint16(h[0x12:], 62) // EM_X86_64
	le.PutUint32(h[0x14:], 1)
	le.PutUint64(h[0x20:], elfHeader)
	le.PutUint16(h[0x34:], elfHeader)
	le.PutUint16(h[0x36:], elfProgram)
	le.PutUint16(h[0x38:], uint16(1+len(im.ram)))

	p := h[elfHeader:]
	le.PutUint32(p, ptNote)
	le.PutUint64(p[0x08:], uint64(head))
	le.PutUint64(p[0x20:], uint64(len(notes)))
	le.PutUint64(p[0x28:], uint64(len(notes)))
	at := uint64(head + len(notes))
	for i, r := range im.ram {
		p := h[elfHeader+elfProgram*(1+i):]
		le.PutUint32(p, ptLoad)
		le.PutUint64(p[0x08:], at)
		le.PutUint64(p[0x18:], uint64(r.Base.Addr()))
		le.PutUint64(p[0x20:], r.Size())
		le.PutUint64(p[0x28:], r.Size())
		at += r.Size()
	}
	return im.writeOut(w, append(h, notes...), im.ram)
}

// WriteRaw writes guest-physical memory from address 0 to the end of RAM, its
// holes as zeros: what pmemsave of that range gives.
func (im *Image) WriteRaw(w io.Writer) error {
	return im.writeOut(w, nil, phys.Runs{{Base: 0, Pages: uint64(im.ram.End())}})
}

// writeOut writes head and then the pages of runs, in pieces of 1 MiB.
func (im *Image) writeOut(w io.Writer, head []byte, runs phys.Runs) error {
	out := output{w: w, buf: bufio.NewWriterSize(w, mib)}
	if f, ok := w.(*os.File); ok {
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			out.file = f
		}
	}
	if _, err := out.buf.Write(head); err != nil {
		return fmt.Errorf("write lab image: %w", err)
	}
	out.size = int64(len(head))
	used := im.Populated()
	piece := make([]byte, mib)
	for _, r := range runs {
		for base := r.Base; base < r.End(); base += mib / phys.PageSize {
			part := phys.Run{Base: base, Pages: min(uint64(r.End()-base), mib/phys.PageSize)}
			if err := im.writePiece(&out, piece[:part.Size()], part, used); err != nil {
				return fmt.Errorf("write lab image at %v: %w", part, err)
			}
		}
	}
	if err := out.finish(); err != nil {
		return fmt.Errorf("write lab image: %w", err)
	}
	return nil
}

func (im *Image) writePiece(out *output, p []byte, r phys.Run, used phys.Runs) error {
	i, in := used.Find(r.Base)
	if !in && (i == len(used) || used[i].Base >= r.End()) {
		return out.skip(len(p))
	}
	clear(p)
	for _, part := range im.ram.Intersect(phys.Runs{r}) {
		off := (part.Base - r.Base).Addr()
		if err := im.ReadPhys(context.Background(), p[off:uint64(off)+part.Size()], part.Base.Addr()); err != nil {
			return err
		}
	}
	out.size += int64(len(p))
	_, err := out.buf.Write(p)
	return err
}

// output is a file with holes, or a stream without.
type output struct {
	w    io.Writer
	buf  *bufio.Writer
	file *os.File // a regular file, else nil
	size int64
}

var zeros [mib]byte

// skip leaves n bytes of zeros behind.
func (o *output) skip(n int) error {
	o.size += int64(n)
	if o.file == nil {
		_, err := o.buf.Write(zeros[:n])
		return err
	}
	if err := o.buf.Flush(); err != nil {
		return err
	}
	_, err := o.file.Seek(int64(n), io.SeekCurrent)
	return err
}

func (o *output) finish() error {
	if err := o.buf.Flush(); err != nil || o.file == nil {
		return err
	}
	// A hole at the end needs the length to be said.
	end, err := o.file.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if st, err := o.file.Stat(); err != nil || st.Size() >= end {
		return err
	}
	return o.file.Truncate(end)
}

// notes returns the notes of all vCPUs: first those for GDB and crash, then
// QEMU's own.
func (im *Image) notes() []byte {
	var out []byte
	status := prstatus
	if im.machine().word == 4 {
		status = prstatus32
	}
	for i := range im.regs {
		out = appendNote(out, "CORE", 1, status(&im.regs[i]))
	}
	for i := range im.regs {
		out = appendNote(out, "QEMU", 0, qemuState(&im.regs[i]))
	}
	return append(out, im.published...)
}

func appendNote(out []byte, name string, kind uint32, desc []byte) []byte {
	h := make([]byte, noteHeader+noteName)
	le.PutUint32(h, uint32(len(name)+1))
	le.PutUint32(h[4:], uint32(len(desc)))
	le.PutUint32(h[8:], kind)
	copy(h[noteHeader:], name)
	return append(append(out, h...), desc...)
}

// prstatus is x86_64_elf_prstatus.
func prstatus(g *phys.Registers) []byte {
	p := make([]byte, prstatusLen)
	le.PutUint32(p[32:], uint32(g.CPU+1))
	for i, v := range []uint64{
		g.R15, g.R14, g.R13, g.R12, g.RBP, g.RBX, g.R11, g.R10, g.R9, g.R8, g.RAX, g.RCX, g.RDX, g.RSI, g.RDI,
		g.RAX, g.RIP, uint64(g.CS.Selector), g.RFLAGS, g.RSP, uint64(g.SS.Selector), g.FS.Base, g.GS.Base,
		uint64(g.DS.Selector), uint64(g.ES.Selector), uint64(g.FS.Selector), uint64(g.GS.Selector),
	} {
		le.PutUint64(p[112+8*i:], v)
	}
	return p
}

// qemuState is QEMUCPUState, version 1.
func qemuState(g *phys.Registers) []byte {
	p := make([]byte, qemuLen)
	le.PutUint32(p, 1)
	le.PutUint32(p[4:], qemuLen)
	for i, v := range []uint64{
		g.RAX, g.RBX, g.RCX, g.RDX, g.RSI, g.RDI, g.RSP, g.RBP,
		g.R8, g.R9, g.R10, g.R11, g.R12, g.R13, g.R14, g.R15, g.RIP, g.RFLAGS,
	} {
		le.PutUint64(p[8+8*i:], v)
	}
	for i, s := range []phys.Segment{
		g.CS, g.DS, g.ES, g.FS, g.GS, g.SS, g.LDT, g.TR,
		{Base: g.GDT.Base, Limit: g.GDT.Limit},
		{Base: g.IDT.Base, Limit: g.IDT.Limit},
	} {
		q := p[0x98+24*i:]
		le.PutUint32(q, uint32(s.Selector))
		le.PutUint32(q[4:], s.Limit)
		le.PutUint32(q[8:], s.Flags)
		le.PutUint64(q[16:], s.Base)
	}
	for i, v := range []uint64{g.CR0, 0, g.CR2, g.CR3, g.CR4, g.KernelGSBase} {
		le.PutUint64(p[0x188+8*i:], v)
	}
	return p
}
