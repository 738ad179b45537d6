package file

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"snap/hv"
	"snap/phys"
)

// Sizes and marks of ELF-64 files (System V ABI, chapters 4 and 5).
const (
	elfHeaderSize  = 64
	progHeaderSize = 56
	sectHeaderSize = 64
	pnXNum         = 0xffff // the real count is in section header 0
)

// Caps on what a core may announce.
const (
	maxProgHeaders = maxSegments
	maxNoteBytes   = 64 << 20 // 4096 processors have 3.2 MiB of notes
)

// elfCore is an ELF core of a whole x86-64 guest, as `virsh dump --memory-only`
// writes it: memory by physical address, and a note with the registers of each
// processor.
func elfCore() format {
	return format{
		name:  "ELF core",
		takes: func(head []byte, _ Options) bool { return bytes.HasPrefix(head, []byte(elf.ELFMAG)) },
		open: func(f *os.File, _ Options) (hv.Source, error) {
			segs, regs, err := readCore(f)
			if err != nil {
				return nil, err
			}
			return newSource(f, hv.MechanismELFCore, segs, regs)
		},
	}
}

// readCore reads the headers and notes of an ELF core.
func readCore(r io.ReaderAt) ([]Segment, []phys.Registers, error) {
	h, err := readELFHeader(r)
	if err != nil {
		return nil, nil, err
	}
	var segs []Segment
	var regs []phys.Registers
	buf := make([]byte, progHeaderSize)
	for i := range h.count {
		off := h.phoff + uint64(i)*progHeaderSize
		if err := readAt(r, buf, off); err != nil {
			return nil, nil, fmt.Errorf("program header %d of %d: %w", i, h.count, err)
		}
		p := parseProgHeader(buf)
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
			if regs != nil {
				return nil, nil, fmt.Errorf("program header %d is a second one for notes: %w", i, hv.ErrFormat)
			}
			if regs, err = readNotes(r, p.off, p.filesz); err != nil {
				return nil, nil, err
			}
		}
	}
	if len(segs) == 0 {
		return nil, nil, fmt.Errorf("ELF core has no memory in it: %w", hv.ErrFormat)
	}
	return segs, regs, nil
}

// maxFileOffset is the largest offset that a file can have.
const maxFileOffset = 1<<63 - 1

// elfHeader is what we need of the file's first bytes.
type elfHeader struct {
	phoff uint64
	count uint32
}

func readELFHeader(r io.ReaderAt) (elfHeader, error) {
	b := make([]byte, elfHeaderSize)
	if err := readAt(r, b, 0); err != nil {
		return elfHeader{}, err
	}
	if err := checkMagic(b); err != nil {
		return elfHeader{}, err
	}
	le := binary.LittleEndian
	if kind := elf.Type(le.Uint16(b[16:])); kind != elf.ET_CORE {
		return elfHeader{}, fmt.Errorf("ELF file is of type %v; want a core: %w", kind, hv.ErrFormat)
	}
	if m := elf.Machine(le.Uint16(b[18:])); m != elf.EM_X86_64 {
		return elfHeader{}, fmt.Errorf("ELF core is for machine %v; want %v: %w", m, elf.EM_X86_64, hv.ErrFormat)
	}
	h := elfHeader{phoff: le.Uint64(b[32:]), count: uint32(le.Uint16(b[56:]))}
	if size := le.Uint16(b[54:]); size != progHeaderSize {
		return elfHeader{}, fmt.Errorf("ELF program headers have %d bytes; want %d: %w", size, progHeaderSize, hv.ErrFormat)
	}
	if h.count == pnXNum {
		s := make([]byte, sectHeaderSize)
		if err := readAt(r, s, le.Uint64(b[40:])); err != nil {
			return elfHeader{}, fmt.Errorf("section header 0: %w", err)
		}
		h.count = le.Uint32(s[44:]) // sh_info
	}
	if h.count == 0 || h.count > maxProgHeaders {
		return elfHeader{}, fmt.Errorf("ELF core has %d program headers; want 1 to %d: %w", h.count, maxProgHeaders, hv.ErrFormat)
	}
	if h.phoff > maxFileOffset-uint64(h.count)*progHeaderSize {
		return elfHeader{}, fmt.Errorf("ELF program headers at %#x: %w", h.phoff, hv.ErrFormat)
	}
	return h, nil
}

// checkMagic tells an ELF file that can be read by its first bytes.
func checkMagic(b []byte) error {
	switch {
	case string(b[:4]) != elf.ELFMAG:
		return fmt.Errorf("it is no ELF file: %w", hv.ErrFormat)
	case elf.Class(b[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(b[elf.EI_DATA]) != elf.ELFDATA2LSB:
		return fmt.Errorf("ELF file is not 64-bit little-endian: %w", hv.ErrFormat)
	}
	return nil
}

type progHeader struct {
	kind               elf.ProgType
	off, paddr, filesz uint64
}

func parseProgHeader(b []byte) progHeader {
	le := binary.LittleEndian
	return progHeader{
		kind: elf.ProgType(le.Uint32(b)),
		off:  le.Uint64(b[8:]), paddr: le.Uint64(b[24:]), filesz: le.Uint64(b[32:]),
	}
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
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("file ends within %d bytes at %#x: %w", len(b), off, hv.ErrFormat)
	}
	return fmt.Errorf("read %d bytes at %#x: %w", len(b), off, err)
}
