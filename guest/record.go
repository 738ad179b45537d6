package guest

import (
	"context"
	"encoding/binary"
	"fmt"

	"snap/phys"
)

// record is a structure read from guest memory. Its accessors return zero
// once a field was out of bounds, and err says which.
type record struct {
	arch *Arch
	what string
	at   phys.VirtAddr
	b    []byte
	err  error
}

// readRecord reads n bytes at at. n is a constant of the format or was capped
// by the caller, never a bare number from the guest.
func readRecord(ctx context.Context, mem VirtReader, what string, at phys.VirtAddr, n int) (*record, error) {
	r := &record{arch: archOf(mem), what: what, at: at, b: make([]byte, n)}
	if err := mem.ReadVirt(ctx, r.b, at); err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return r, nil
}

// bytes returns the n bytes at off, or nil with err set.
func (r *record) bytes(off, n int) []byte {
	if r.err != nil {
		return nil
	}
	if off < 0 || n < 0 || off > len(r.b)-n {
		r.err = malformed(r.what, r.at, "field at %#x+%d is outside its %d bytes", off, n, len(r.b))
		return nil
	}
	return r.b[off : off+n]
}

func (r *record) u8(off int) uint8 {
	if b := r.bytes(off, 1); b != nil {
		return b[0]
	}
	return 0
}

func (r *record) u16(off int) uint16 {
	if b := r.bytes(off, 2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *record) u32(off int) uint32 {
	if b := r.bytes(off, 4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *record) u64(off int) uint64 {
	if b := r.bytes(off, 8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// word returns a number of as many bits as a pointer has.
func (r *record) word(off int) uint64 {
	if r.arch.pointer == 4 {
		return uint64(r.u32(off))
	}
	return r.u64(off)
}

// va returns a pointer.
func (r *record) va(off int) phys.VirtAddr { return r.arch.Address(r.word(off)) }

// readU32 reads a 32-bit variable.
func readU32(ctx context.Context, mem VirtReader, what string, at phys.VirtAddr) (uint32, error) {
	r, err := readRecord(ctx, mem, what, at, 4)
	if err != nil {
		return 0, err
	}
	return r.u32(0), nil
}

// readVA reads a pointer variable.
func readVA(ctx context.Context, mem VirtReader, what string, at phys.VirtAddr) (phys.VirtAddr, error) {
	r, err := readRecord(ctx, mem, what, at, archOf(mem).pointer)
	if err != nil {
		return 0, err
	}
	return r.va(0), nil
}

// alignedPointer is kernelPointer for the address of something that holds pointers.
func alignedPointer(mem VirtReader, what string, p phys.VirtAddr) error {
	return kernelPointer(what, p, uint64(archOf(mem).pointer))
}

// kernelPointer checks that a pointer from the guest can be what it claims to
// be: in the kernel half and aligned.
func kernelPointer(what string, p phys.VirtAddr, align uint64) error {
	if !p.Kernel() || uint64(p)%align != 0 {
		return malformed(what, p, "not a kernel address that is a multiple of %d", align)
	}
	return nil
}
