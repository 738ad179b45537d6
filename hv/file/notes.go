package file

import (
	"encoding/binary"
	"fmt"
	"io"

	"snap/hv"
	"snap/phys"
)

// Layout of the processor note that QEMU writes (QEMUCPUState in its
// target/i386/arch_dump.c), in bytes from the note's start.
const (
	noteCPUVersion = 1
	noteCPUMin     = 0x1b0 // without kernel_gs_base, as old versions had it
	noteCPUGSBase  = 0x1b0
	noteCPUFull    = 0x1b8
	noteSegments   = 0x98
	noteSegSize    = 24
	noteCR         = 0x188
)

// maxCPUs bounds the processors that a core may have; QEMU's machines stop at 4096.
const maxCPUs = 4096

// maxNotes bounds the notes: two for each processor, and a few more.
const maxNotes = 2*maxCPUs + 64

// guestNote is the name of the note that a guest published, as it handed it to QEMU
// (docs/specs/vmcoreinfo.rst), of which the first 8 bytes are read.
const guestNote = "VMCOREIN"

// notes are what is read of a core's notes.
type notes struct {
	regs      []phys.Registers // nil where the core has no segment of notes
	published []byte           // the first of the guest's own, nil for none
}

// readNotes reads a note segment: the registers in QEMU's processor notes, in their
// order, which is the order of QEMU's processors, and what the guest published.
func readNotes(r io.ReaderAt, off, size uint64) (*notes, error) {
	if size > maxNoteBytes {
		return nil, fmt.Errorf("notes of %d bytes exceed %d: %w", size, maxNoteBytes, hv.ErrFormat)
	}
	if off > maxFileOffset-size {
		return nil, fmt.Errorf("notes at %#x: %w", off, hv.ErrFormat)
	}
	found := &notes{regs: []phys.Registers{}}
	seen := 0
	// Notes are read one by one: nothing is allocated on the file's word alone.
	for at, end := off, off+size; at < end; {
		n, err := readNote(r, at, end)
		if err != nil {
			return nil, fmt.Errorf("note at %#x: %w", at, err)
		}
		if n.name == "QEMU" && n.kind == 0 {
			cpu, err := parseCPU(n.desc)
			if err != nil {
				return nil, fmt.Errorf("note at %#x: %w", at, err)
			}
			if len(found.regs) == maxCPUs {
				return nil, fmt.Errorf("more than %d processors: %w", maxCPUs, hv.ErrFormat)
			}
			cpu.CPU = len(found.regs)
			found.regs = append(found.regs, cpu)
		}
		if n.name == guestNote && found.published == nil && n.descSize <= hv.MaxPublished {
			found.published = make([]byte, n.descSize)
			if err := readAt(r, found.published, n.descAt); err != nil {
				return nil, fmt.Errorf("note at %#x: %w", at, err)
			}
		}
		if seen++; seen > maxNotes {
			return nil, fmt.Errorf("more than %d notes: %w", maxNotes, hv.ErrFormat)
		}
		at = n.next
	}
	return found, nil
}

type note struct {
	name     string // at most 8 bytes
	kind     uint32
	desc     []byte // at most noteCPUFull bytes
	descAt   uint64 // file offset
	descSize uint64
	next     uint64 // file offset of the next note
}

const noteHeader = 12

// readNote reads the note at file offset at of a segment that ends at end. Names
// and descriptors are padded to 4 bytes, as Linux and QEMU have it in 64-bit
// files too.
func readNote(r io.ReaderAt, at, end uint64) (note, error) {
	var h [noteHeader]byte
	if end-at < noteHeader {
		return note{}, fmt.Errorf("%d bytes are left for its header: %w", end-at, hv.ErrFormat)
	}
	if err := readAt(r, h[:], at); err != nil {
		return note{}, err
	}
	le := binary.LittleEndian
	nameLen, descLen := uint64(le.Uint32(h[:])), uint64(le.Uint32(h[4:]))
	desc := at + noteHeader + pad4(nameLen)
	n := note{kind: le.Uint32(h[8:]), descAt: desc, descSize: descLen, next: desc + pad4(descLen)}
	// The last note's padding may be missing.
	if desc+descLen > end {
		return note{}, fmt.Errorf("name of %d and descriptor of %d bytes exceed the segment: %w", nameLen, descLen, hv.ErrFormat)
	}
	name := make([]byte, min(nameLen, 8))
	if err := readAt(r, name, at+noteHeader); err != nil {
		return note{}, err
	}
	for i, c := range name {
		if c == 0 {
			name = name[:i]
			break
		}
	}
	n.name = string(name)
	n.desc = make([]byte, min(descLen, noteCPUFull))
	if err := readAt(r, n.desc, desc); err != nil {
		return note{}, err
	}
	return n, nil
}

func pad4(n uint64) uint64 { return (n + 3) &^ 3 }

// parseCPU decodes a QEMUCPUState. It has neither FPU nor debug registers, nor
// EFER.
func parseCPU(b []byte) (phys.Registers, error) {
	le := binary.LittleEndian
	if len(b) < noteCPUMin {
		return phys.Registers{}, fmt.Errorf("processor state of %d bytes; want %d: %w", len(b), noteCPUMin, hv.ErrFormat)
	}
	if v := le.Uint32(b); v != noteCPUVersion {
		return phys.Registers{}, fmt.Errorf("processor state of version %d; want %d: %w", v, noteCPUVersion, hv.ErrFormat)
	}
	var r phys.Registers
	for i, to := range []*uint64{
		&r.RAX, &r.RBX, &r.RCX, &r.RDX, &r.RSI, &r.RDI, &r.RSP, &r.RBP,
		&r.R8, &r.R9, &r.R10, &r.R11, &r.R12, &r.R13, &r.R14, &r.R15, &r.RIP, &r.RFLAGS,
	} {
		*to = le.Uint64(b[8+8*i:])
	}
	var gdt, idt phys.Segment
	for i, to := range []*phys.Segment{&r.CS, &r.DS, &r.ES, &r.FS, &r.GS, &r.SS, &r.LDT, &r.TR, &gdt, &idt} {
		s := b[noteSegments+noteSegSize*i:]
		*to = phys.Segment{
			Selector: uint16(le.Uint32(s)), Limit: le.Uint32(s[4:]), Flags: le.Uint32(s[8:]), Base: le.Uint64(s[16:]),
		}
	}
	r.GDT = phys.DescriptorTable{Base: gdt.Base, Limit: gdt.Limit}
	r.IDT = phys.DescriptorTable{Base: idt.Base, Limit: idt.Limit}
	for i, to := range []*uint64{&r.CR0, nil, &r.CR2, &r.CR3, &r.CR4} {
		if to != nil {
			*to = le.Uint64(b[noteCR+8*i:])
		}
	}
	// The size field says whether the writer knew of kernel_gs_base.
	if size := le.Uint32(b[4:]); size >= noteCPUFull && len(b) >= noteCPUFull {
		r.HasKernelGSBase = true
		r.KernelGSBase = le.Uint64(b[noteCPUGSBase:])
	}
	return r, nil
}
