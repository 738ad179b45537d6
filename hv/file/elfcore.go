package file

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"snap/hv"
	"snap/phys"
)

// Sizes and marks of ELF files (System V ABI, chapters 4 and 5).
const (
	elfHeaderSize  = 64
	progHeaderSize = 56
	sectHeaderSize = 64
	pnXNum         = 0xffff // the real count is in section header 0

	elfHeaderSize32  = 52
	progHeaderSize32 = 32
	sectHeaderSize32 = 40
)

// Caps on what a core may announce.
const (
	maxProgHeaders = 1 << 22  // dump-guest-memory -p has one for each stretch of the guest's page tables
	maxNoteBytes   = 64 << 20 // 4096 processors have 3.2 MiB of notes
)

// elfCore is an ELF core of a whole x86 guest, as `virsh dump --memory-only`
// writes it: memory by physical address, and a note with the registers of each
// processor. It is of 32 bits where the guest ran in that mode in less than 4 GiB.
func elfCore() format {
	return format{
		name:  "ELF core",
		takes: func(head []byte, _ Options) bool { return bytes.HasPrefix(head, []byte(elf.ELFMAG)) },
		open: func(ctx context.Context, b body, _ Options) (hv.Source, error) {
			segs, found, err := readCore(b)
			if err != nil {
				return nil, err
			}
			if segs, err = flatten(ctx, b, segs); err != nil {
				return nil, err
			}
			s, err := newSource(b, hv.MechanismELFCore, segs, found.regs)
			if err != nil {
				return nil, err
			}
			s.published = found.published
			return s, nil
		},
	}
}

// readCore reads the headers and notes of an ELF core.
func readCore(r io.ReaderAt) ([]Segment, *notes, error) {
	h, err := readELFHeader(r)
	if err != nil {
		return nil, nil, err
	}
	var segs []Segment
	found := &notes{}
	table := bufio.NewReaderSize(io.NewSectionReader(r, int64(h.phoff), int64(h.count)*int64(h.phsize)), 64<<10)
	buf := make([]byte, h.phsize)
	for i := range h.count {
		if err := readNext(table, buf, h.phoff+uint64(i)*uint64(h.phsize)); err != nil {
			return nil, nil, fmt.Errorf("program header %d of %d: %w", i, h.count, err)
		}
		p := h.progHeader(buf)
		switch p.kind {
		case elf.PT_LOAD:
			if p.filesz == 0 {
				continue // memory that isn't in the file
			}
			if p.off > maxFileOffset {
				return nil, nil, fmt.Errorf("program header %d: file offset %#x is absurd: %w", i, p.off, hv.ErrFormat)
			}
			segs = append(segs, Segment{GPA: phys.Addr(p.paddr), Size: p.filesz, FileOffset: int64(p.off)})
		case elf.PT_NOTE:
			if found.regs != nil {
				return nil, nil, fmt.Errorf("program header %d is a second one for notes: %w", i, hv.ErrFormat)
			}
			if found, err = readNotes(r, p.off, p.filesz); err != nil {
				return nil, nil, err
			}
		}
	}
	if len(segs) == 0 {
		return nil, nil, fmt.Errorf("ELF core has no memory in it: %w", hv.ErrFormat)
	}
	return segs, found, nil
}

// maxFileOffset is the largest offset that a file can have.
const maxFileOffset = 1<<63 - 1

// elfHeader is what we need of the file's first bytes.
type elfHeader struct {
	class  elf.Class
	phoff  uint64
	phsize int
	count  uint32
}

func readELFHeader(r io.ReaderAt) (elfHeader, error) {
	b := make([]byte, elfHeaderSize)
	if err := readAt(r, b[:elfHeaderSize32], 0); err != nil {
		return elfHeader{}, err
	}
	if err := checkELF(b); err != nil {
		return elfHeader{}, err
	}
	le := binary.LittleEndian
	h := elfHeader{
		class: elf.Class(b[elf.EI_CLASS]), phsize: progHeaderSize32,
		phoff: uint64(le.Uint32(b[28:])), count: uint32(le.Uint16(b[44:])),
	}
	shoff, sectSize, infoAt := uint64(le.Uint32(b[32:])), sectHeaderSize32, 28
	size := int(le.Uint16(b[42:]))
	if h.class == elf.ELFCLASS64 {
		if err := readAt(r, b, 0); err != nil {
			return elfHeader{}, err
		}
		h.phoff, h.phsize, h.count = le.Uint64(b[32:]), progHeaderSize, uint32(le.Uint16(b[56:]))
		shoff, sectSize, infoAt = le.Uint64(b[40:]), sectHeaderSize, 44
		size = int(le.Uint16(b[54:]))
	}
	if size != h.phsize {
		return elfHeader{}, fmt.Errorf("ELF program headers have %d bytes; want %d: %w", size, h.phsize, hv.ErrFormat)
	}
	if h.count == pnXNum {
		s := make([]byte, sectSize)
		if err := readAt(r, s, shoff); err != nil {
			return elfHeader{}, fmt.Errorf("section header 0: %w", err)
		}
		h.count = le.Uint32(s[infoAt:]) // sh_info
	}
	if h.count == 0 || h.count > maxProgHeaders {
		return elfHeader{}, fmt.Errorf("ELF core has %d program headers; want 1 to %d: %w", h.count, maxProgHeaders, hv.ErrFormat)
	}
	if h.phoff > maxFileOffset-uint64(h.count)*uint64(h.phsize) {
		return elfHeader{}, fmt.Errorf("ELF program headers at %#x: %w", h.phoff, hv.ErrFormat)
	}
	return h, nil
}

// checkELF tells an ELF core that can be read by its first bytes. Whether the guest
// in it is of 64 bits is for whoever looks for Windows in it to say.
func checkELF(b []byte) error {
	class := elf.Class(b[elf.EI_CLASS])
	switch order := elf.Data(b[elf.EI_DATA]); {
	case string(b[:4]) != elf.ELFMAG:
		return fmt.Errorf("it is no ELF file: %w", hv.ErrFormat)
	case order == elf.ELFDATA2MSB:
		return fmt.Errorf("the ELF core is big-endian: %w", ErrArch)
	case order != elf.ELFDATA2LSB, class != elf.ELFCLASS64 && class != elf.ELFCLASS32:
		return fmt.Errorf("ELF file is of class %d and byte order %d: %w", class, order, hv.ErrFormat)
	}
	le := binary.LittleEndian
	if kind := elf.Type(le.Uint16(b[16:])); kind != elf.ET_CORE {
		return fmt.Errorf("ELF file is of type %v; want a core: %w", kind, hv.ErrFormat)
	}
	if m := elf.Machine(le.Uint16(b[18:])); m != elf.EM_X86_64 && m != elf.EM_386 {
		return fmt.Errorf("the ELF core is for machine %v: %w", m, ErrArch)
	}
	return nil
}

type progHeader struct {
	kind               elf.ProgType
	off, paddr, filesz uint64
}

func (h *elfHeader) progHeader(b []byte) progHeader {
	le := binary.LittleEndian
	p := progHeader{kind: elf.ProgType(le.Uint32(b))}
	if h.class == elf.ELFCLASS64 {
		p.off, p.paddr, p.filesz = le.Uint64(b[8:]), le.Uint64(b[24:]), le.Uint64(b[32:])
	} else {
		p.off, p.paddr, p.filesz = uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[12:])), uint64(le.Uint32(b[16:]))
	}
	return p
}

// readNext fills b with what comes next, which stands at off of the file.
func readNext(r io.Reader, b []byte, off uint64) error {
	_, err := io.ReadFull(r, b)
	return readError(err, len(b), off)
}

// readAt fills b from off or fails with hv.ErrFormat.
func readAt(r io.ReaderAt, b []byte, off uint64) error {
	if off > maxFileOffset-uint64(len(b)) {
		return fmt.Errorf("file offset %#x is absurd: %w", off, hv.ErrFormat)
	}
	n, err := r.ReadAt(b, int64(off))
	if n == len(b) {
		return nil
	}
	return readError(err, len(b), off)
}

func readError(err error, n int, off uint64) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("file ends within %d bytes at %#x: it is cut short: %w", n, off, hv.ErrFormat)
	}
	return fmt.Errorf("read %d bytes at %#x: %w", n, off, err)
}
