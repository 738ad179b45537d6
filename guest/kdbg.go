package guest

import (
	"context"
	"encoding/binary"
	"fmt"

	"snap/phys"
)

// Bounds and marks of a KDBG (KDDEBUGGER_DATA64, wdbgexts.h).
const (
	kdbgTag     = 0x4742_444B // 'KDBG'
	kdbgMinSize = 0x208       // Windows 2000
	kdbgMaxSize = 0x1000      // the newest known is 0x3A8
)

// KDBG is the kernel's debugger data block, KDDEBUGGER_DATA64 of wdbgexts.h:
// where in the kernel image a debugger finds what it needs.
type KDBG struct {
	At      phys.VirtAddr // of the block in the guest
	Block   []byte        // in plain form, as long as the block says it is
	Encoded bool          // whether the guest keeps it encoded at At
}

// ReadKDBG reads the block at a virtual address, where it must be in plain form.
func ReadKDBG(ctx context.Context, mem VirtReader, at phys.VirtAddr) (KDBG, error) {
	const what = "KDBG"
	if err := alignedPointer(mem, what, at); err != nil {
		return KDBG{}, err
	}
	head, err := readRecord(ctx, mem, what, at, kdbgHeaderSize)
	if err != nil {
		return KDBG{}, err
	}
	if tag := head.u32(kdbgOwnerTag.Offset); tag != kdbgTag {
		return KDBG{}, malformed(what, at, "owner tag %#x, not 'KDBG' in plain form", tag)
	}
	size := head.u32(kdbgSize.Offset)
	if !kdbgSizeOK(size) {
		return KDBG{}, malformed(what, at, "size %#x", size)
	}
	r, err := readRecord(ctx, mem, what, at, int(size))
	if err != nil {
		return KDBG{}, err
	}
	k := KDBG{At: at, Block: r.b}
	return k, k.check(archOf(mem), 0)
}

// kdbgSizeOK reports whether a block can be so long. Windows 2000 to 11 have
// sizes from 0x208 to 0x3A8; later ones may grow.
func kdbgSizeOK(size uint32) bool {
	return size >= kdbgMinSize && size <= kdbgMaxSize && size%8 == 0
}

// check tells a KDBG from other bytes: links, size, kernel base, page size and
// list heads must be what every Windows for arch writes. imageSize bounds the list
// heads, 0 if it isn't known.
func (k *KDBG) check(arch *Arch, imageSize uint32) error {
	const what = "KDBG"
	if size := k.u32(kdbgSize); size != uint32(len(k.Block)) || !kdbgSizeOK(size) {
		return malformed(what, k.At, "size %#x in a block of %#x bytes", size, len(k.Block))
	}
	if why, value := k.unsound(arch, imageSize); why != "" {
		return malformed(what, k.At, "%s %#x", why, value)
	}
	return nil
}

// unsound returns the first field that no Windows would write so, and "" if all
// are sound, of the fields within the first kdbgProbe bytes and but for the size.
func (k *KDBG) unsound(arch *Arch, imageSize uint32) (field string, value uint64) {
	base := k.va(kdbgKernBase)
	switch {
	case k.u32(kdbgOwnerTag) != kdbgTag:
		return "owner tag", k.u64(kdbgOwnerTag)
	case !base.Kernel() || base.Offset() != 0:
		return "kernel base", uint64(base)
	case k.u64(kdbgMmPageSize) != phys.PageSize:
		return "page size", k.u64(kdbgMmPageSize)
	}
	for _, f := range [...]Field{kdbgFlink, kdbgBlink, kdbgPsLoadedModuleList, kdbgPsActiveProcessHead} {
		if p := k.va(f); !p.Kernel() || p%phys.VirtAddr(arch.pointer) != 0 {
			return f.Name, uint64(p)
		}
	}
	for _, f := range [...]Field{kdbgPsLoadedModuleList, kdbgPsActiveProcessHead} {
		p := k.va(f)
		if imageSize != 0 && uint64(p-base) > uint64(imageSize)-uint64(arch.ListEntrySize()) { // wraps below the base
			return f.Name + " outside the kernel image", uint64(p)
		}
	}
	return "", 0
}

// KernBase returns the base of the kernel image that the block belongs to.
func (k *KDBG) KernBase() phys.VirtAddr { return k.va(kdbgKernBase) }

// Value returns a field by its name in wdbgexts.h, and false if there is no
// such field or the block is too short to have it. Kernels leave many fields
// zero that they no longer maintain.
func (k *KDBG) Value(name string) (uint64, bool) {
	for _, f := range kdbgFields {
		if f.Name == name {
			return k.value(f)
		}
	}
	return 0, false
}

// value returns the field's value, and false if the block is too short.
func (k *KDBG) value(f Field) (uint64, bool) {
	if f.Offset > len(k.Block)-f.Size {
		return 0, false
	}
	b := k.Block[f.Offset:]
	switch f.Size {
	case 2:
		return uint64(binary.LittleEndian.Uint16(b)), true
	case 4:
		return uint64(binary.LittleEndian.Uint32(b)), true
	case 8:
		return binary.LittleEndian.Uint64(b), true
	}
	panic(fmt.Sprintf("internal error: KDBG field %s of %d bytes", f.Name, f.Size))
}

// u64, u32 and va return 0 for a field that the block doesn't have.
func (k *KDBG) u64(f Field) uint64 {
	v, _ := k.value(f)
	return v
}

func (k *KDBG) u32(f Field) uint32       { return uint32(k.u64(f)) }
func (k *KDBG) va(f Field) phys.VirtAddr { return phys.VirtAddr(k.u64(f)) }

// known returns a virtual address that the block holds, with its origin.
func (k *KDBG) known(f Field) phys.Known[phys.VirtAddr] {
	return phys.Know(k.va(f), "KDBG "+f.Name)
}

// offset returns a structure offset that the block holds, or what older
// kernels have where the block is too short or doesn't say.
func (k *KDBG) offset(f Field, otherwise int) int {
	if v := k.u64(f); v != 0 {
		return int(v)
	}
	return otherwise
}
