package boot

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"

	"snap/phys"
)

// notePVH is the type of the note with the 32-bit entry point (Xen
// xen/include/public/elfnote.h XEN_ELFNOTE_PHYS32_ENTRY), whose owner is "Xen".
const notePVH = 18

// writeELF writes segments as an ELF64 executable. Each is loaded at its
// physical address, which may lie above 4 GiB; entry doesn't.
func writeELF(w io.Writer, entry phys.Addr, segments []segment) error {
	const headerSize, progSize = 64, 56
	if len(segments)+1 >= 0xFFFF {
		return fmt.Errorf("write ELF: %d segments are more than its header can count", len(segments))
	}
	// QEMU reads a qword from the note of a 64-bit file (hw/i386/x86.c).
	note := le.AppendUint32(nil, 4)
	note = le.AppendUint32(note, 8)
	note = le.AppendUint32(note, notePVH)
	note = append(note, "Xen\x00"...)
	note = le.AppendUint64(note, uint64(entry))

	noteAt := uint64(headerSize + progSize*(len(segments)+1))
	dataAt := (noteAt + uint64(len(note)) + phys.PageSize - 1) &^ (phys.PageSize - 1)
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Entry: uint64(entry), Phoff: headerSize,
		Ehsize: headerSize, Phentsize: progSize, Phnum: uint16(len(segments) + 1),
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	progs := []elf.Prog64{{
		Type: uint32(elf.PT_NOTE), Flags: uint32(elf.PF_R),
		Off: noteAt, Filesz: uint64(len(note)), Memsz: uint64(len(note)), Align: 4,
	}}
	at := dataAt
	for _, s := range segments {
		size := uint64(len(s.pages)) << phys.PageShift
		progs = append(progs, elf.Prog64{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X),
			Off: at, Vaddr: uint64(s.base.Addr()), Paddr: uint64(s.base.Addr()),
			Filesz: size, Memsz: size, Align: phys.PageSize,
		})
		at += size
	}
	for _, part := range []any{h, progs, note, make([]byte, dataAt-noteAt-uint64(len(note)))} {
		if err := binary.Write(w, le, part); err != nil {
			return fmt.Errorf("write ELF: %w", err)
		}
	}
	zero := make([]byte, phys.PageSize)
	for _, s := range segments {
		for _, b := range s.pages {
			if b == nil {
				b = zero
			}
			if _, err := w.Write(b); err != nil {
				return fmt.Errorf("write ELF: %w", err)
			}
		}
	}
	return nil
}
