package input

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
)

// Caps on what is looked at in an ELF file to tell what it is.
const (
	maxELFHeaders = 64      // sections, or program headers until one with notes
	maxELFNotes   = 4096    // of a process: some for each thread
	maxELFNames   = 1 << 16 // bytes of the names of sections
)

// elfFile reads the few fields of an ELF file that tell what it is (System V ABI,
// chapters 4 and 5), of either class, little-endian.
type elfFile struct {
	*probe
	wide                                   bool // 64-bit
	kind                                   elf.Type
	phoff, shoff                           uint64
	phnum, phsize, shnum, shsize, shstrndx int
}

// elfOf returns false for what is no little-endian ELF file.
func elfOf(p *probe) (*elfFile, bool) {
	h := p.bytes(0, 52)
	if h == nil || !starts(elf.ELFMAG)(p) || elf.Data(h[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return nil, false
	}
	le := binary.LittleEndian
	e := &elfFile{probe: p, wide: elf.Class(h[elf.EI_CLASS]) == elf.ELFCLASS64, kind: elf.Type(le.Uint16(h[16:]))}
	sizes := h[42:]
	e.phoff, e.shoff = uint64(le.Uint32(h[28:])), uint64(le.Uint32(h[32:]))
	if e.wide {
		if h = p.bytes(0, 64); h == nil {
			return nil, false
		}
		sizes = h[54:]
		e.phoff, e.shoff = le.Uint64(h[32:]), le.Uint64(h[40:])
	}
	for i, to := range []*int{&e.phsize, &e.phnum, &e.shsize, &e.shnum, &e.shstrndx} {
		*to = int(le.Uint16(sizes[2*i:]))
	}
	return e, true
}

// elfProgram is an ELF file that is no core.
func elfProgram(p *probe) bool {
	e, ok := elfOf(p)
	return ok && (e.kind == elf.ET_EXEC || e.kind == elf.ET_DYN || e.kind == elf.ET_REL)
}

// row returns entry i of a table of headers.
func (e *elfFile) row(table uint64, size, i int) []byte {
	off := table + uint64(size)*uint64(i)
	if off > 1<<62 {
		return nil
	}
	return e.bytes(int64(off), size)
}

// extent returns the offset and the length of what a header is about: of a
// program header, or of a section.
func (e *elfFile) extent(row []byte, section bool) (off, size uint64) {
	le := binary.LittleEndian
	switch {
	case section && e.wide && len(row) >= 40:
		return le.Uint64(row[24:]), le.Uint64(row[32:])
	case section && !e.wide && len(row) >= 24:
		return uint64(le.Uint32(row[16:])), uint64(le.Uint32(row[20:]))
	case !section && e.wide && len(row) >= 40:
		return le.Uint64(row[8:]), le.Uint64(row[32:])
	case !section && !e.wide && len(row) >= 20:
		return uint64(le.Uint32(row[4:])), uint64(le.Uint32(row[16:]))
	}
	return 0, 0
}

// xenCore is a core with sections that Xen names (Xen docs/misc/dump-core-format.txt).
func xenCore(p *probe) bool {
	e, ok := elfOf(p)
	if !ok || e.kind != elf.ET_CORE || e.shstrndx >= min(e.shnum, maxELFHeaders) {
		return false
	}
	off, size := e.extent(e.row(e.shoff, e.shsize, e.shstrndx), true)
	if off > 1<<62 || size == 0 {
		return false
	}
	names := e.bytes(int64(off), int(min(size, maxELFNames)))
	return bytes.Contains(names, []byte(".xen_"))
}

// Notes of a process that a core of a guest doesn't have (linux/elf.h).
const (
	noteProcessInfo = 3 // NT_PRPSINFO: its name among others
	noteFiles       = 0x46494c45
	processNameAt   = 40 // in NT_PRPSINFO of 64-bit processes; 16 bytes, and 80 of its arguments
	processNameAt32 = 28
	processNameLen  = 16 + 80
)

// processCore is a core of a process on the host in whose name or arguments a word is.
func processCore(word string) func(*probe) bool {
	return func(p *probe) bool {
		name, ok := processName(p)
		return ok && strings.Contains(name, word)
	}
}

func processName(p *probe) (string, bool) {
	e, ok := elfOf(p)
	if !ok || e.kind != elf.ET_CORE {
		return "", false
	}
	for i := range min(e.phnum, maxELFHeaders) {
		row := e.row(e.phoff, e.phsize, i)
		if len(row) < 4 || elf.ProgType(binary.LittleEndian.Uint32(row)) != elf.PT_NOTE {
			continue
		}
		off, size := e.extent(row, false)
		return e.processNotes(off, size)
	}
	return "", false
}

func (e *elfFile) processNotes(off, size uint64) (string, bool) {
	le := binary.LittleEndian
	pad := func(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
	for at, seen := off, 0; at < off+size && at < 1<<62 && seen < maxELFNotes; seen++ {
		h := e.bytes(int64(at), 12)
		if h == nil {
			return "", false
		}
		desc := at + 12 + pad(le.Uint32(h))
		switch kind := le.Uint32(h[8:]); {
		case !e.has(int64(at)+12, "CORE\x00"):
		case kind == noteProcessInfo:
			place := uint64(processNameAt)
			if !e.wide {
				place = processNameAt32
			}
			return string(e.bytes(int64(desc+place), processNameLen)), true
		case kind == noteFiles:
			return "", true
		}
		at = desc + pad(le.Uint32(h[4:]))
	}
	return "", false
}
