package verify

import (
	"errors"
	"fmt"

	"snap/header"
	"snap/phys"
)

// What single readers demand beside what all do. The sources are named at Reader.

func (v *verifier) checkMemflowRuns() (string, error) {
	n := len(v.header.Runs)
	if n > header.PortableRuns {
		return "", fmt.Errorf("%d runs; it stops at %d", n, header.PortableRuns)
	}
	return fmt.Sprintf("%d runs, of %d at most", n, header.PortableRuns), nil
}

// signature is a bitmap's as it is in the file.
func signature(b *header.Bitmap) string {
	if b.Signature == header.BitmapSignatureKernel {
		return "SDMP"
	}
	return "FDMP"
}

// checkMemflowBitmap: it takes dumps of type 5 only, and in them FDMP only.
func (v *verifier) checkMemflowBitmap() (string, error) {
	b := v.f.Bitmap()
	switch {
	case v.header.DumpType != header.DumpTypeBitmapFull:
		return "", fmt.Errorf("a %v dump; it takes type 5 only", v.header.DumpType)
	case b.Signature != header.BitmapSignatureFull:
		return "", fmt.Errorf("signature %s in a dump of type 5; it takes FDMP only", signature(b))
	}
	return signature(b), nil
}

// checkRadare2Bitmap: it compares the signature with SDMP, whatever the type.
func (v *verifier) checkRadare2Bitmap() (string, error) {
	b := v.f.Bitmap()
	if b.Signature != header.BitmapSignatureKernel {
		return "", fmt.Errorf("signature %s; it takes SDMP only", signature(b))
	}
	return signature(b), nil
}

// checkLeechCoreBitmap: the first page is aligned, and bits are counted in words of 64.
func (v *verifier) checkLeechCoreBitmap() (string, error) {
	b := v.f.Bitmap()
	var unaligned error
	if b.FirstPage%phys.PageSize != 0 {
		unaligned = fmt.Errorf("the first page is at %#x; it takes a multiple of %#x only", b.FirstPage, phys.PageSize)
	}
	return "the first page is aligned, none is behind the last 64 bits", errors.Join(unaligned, v.dropped(64))
}

func (v *verifier) checkLeechCoreFirst() (string, error) {
	b := v.f.Bitmap()
	if b.FirstPage > header.PortableFirstPage {
		return "", fmt.Errorf("it is at %#x; it stops at %#x", b.FirstPage, header.PortableFirstPage)
	}
	return hex(b.FirstPage), nil
}

func (v *verifier) checkBitmapBytes() (string, error) { return "all pages are in them", v.dropped(8) }

// dropped fails if the bitmap has pages in bits that a reader drops which takes so
// many of them at a time.
func (v *verifier) dropped(word uint64) error {
	b := v.f.Bitmap()
	kept := phys.PFN(b.BitmapSize / word * word)
	if b.BitmapSize > uint64(kept) {
		tail := phys.Runs{{Base: kept, Pages: b.BitmapSize - uint64(kept)}}
		if lost := b.Runs.Intersect(tail).Pages(); lost > 0 {
			return fmt.Errorf("a bitmap of %d bits, no multiple of %d: the last %d pages are dropped", b.BitmapSize, word, lost)
		}
	}
	return nil
}

// checkVolatilityBitmap: bitmaps are looked for in dumps of type 5 only, and their
// signature isn't looked at.
func (v *verifier) checkVolatilityBitmap() (string, error) {
	if t := v.header.DumpType; t != header.DumpTypeBitmapFull {
		return "", fmt.Errorf("a %v dump; they take type 5 only", t)
	}
	return "type 5", nil
}

// compatCode is the code segment of 32-bit user code in 64-bit Windows
// (KGDT64_R3_CMCODE with its privilege level, ntddk.h).
const compatCode = 0x23

// checkContextMode: the debugger shows the guest as the processor that the header's
// context is of runs it.
func (v *verifier) checkContextMode() (string, error) {
	c, err := header.DecodeContext(v.header.MachineImageType, v.header.ContextRecord)
	switch {
	case err != nil:
		return "", err
	case c.Flags&header.ContextFlagAMD64 != 0 && c.SegCs == compatCode:
		return "", fmt.Errorf("CS %#x: 32-bit user code; the debugger begins in that mode (.effmach amd64 leaves it)", c.SegCs)
	}
	return fmt.Sprintf("CS %#x", c.SegCs), nil
}

func (v *verifier) checkMxCsr() (string, error) {
	c, err := header.DecodeContext(v.header.MachineImageType, v.header.ContextRecord)
	if err == nil {
		err = sameMxCsr(&c)
	}
	return fmt.Sprintf("%#x", c.MxCsr), err
}

// variable reads the pointer that a field of the KDBG leads to.
func (v *verifier) variable(name string) (uint64, error) {
	arch := v.space.Arch()
	b, err := v.kernelData(name, arch.PointerSize())
	if err != nil {
		return 0, err
	}
	var word [8]byte
	copy(word[:], b)
	return uint64(arch.Address(le.Uint64(word[:]))), nil
}

// kernelData reads what a field of the KDBG leads to.
func (v *verifier) kernelData(name string, size int) ([]byte, error) {
	at, ok := v.kdbg.Value(name)
	if !ok || at == 0 {
		return nil, fmt.Errorf("the KDBG doesn't say where %s is", name)
	}
	b := make([]byte, size)
	if err := v.space.ReadVirt(v.ctx, b, phys.VirtAddr(at)); err != nil {
		return nil, fmt.Errorf("%s at %#x: %w", name, at, inDump(err))
	}
	return b, nil
}

// checkKernelRange: debuggers tell the kernel's addresses from a process's by
// MmSystemRangeStart.
func (v *verifier) checkKernelRange() (string, error) {
	const name = "MmSystemRangeStart"
	start, err := v.variable(name)
	if err != nil {
		return "", err
	}
	if base := uint64(v.kdbg.KernBase()); base < start || !phys.VirtAddr(start).Kernel() {
		return "", fmt.Errorf("KernBase %#x is not in the system's range, which begins at %#x (%s)", base, start, name)
	}
	return fmt.Sprintf("from %#x on, with the kernel in it", start), nil
}

// checkBugCheckData: code and four parameters are shown from there.
func (v *verifier) checkBugCheckData() (string, error) {
	const words = 5
	b, err := v.kernelData("KiBugcheckData", v.space.Arch().PointerSize()*words)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("code %#x", le.Uint32(b)), nil
}

func (v *verifier) checkMemoryBlock() (string, error) {
	const name = "MmPhysicalMemoryBlock"
	if len(v.system.PhysicalMemory.Value) == 0 {
		return "", fmt.Errorf("%s can't be used%s", name, v.warnings(name))
	}
	return fmt.Sprintf("%d runs", len(v.system.PhysicalMemory.Value)), nil
}
