package guest_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// holds reports whether all of n bytes at va are in a set of pages.
func holds(im *ntlab.Image, set phys.Runs, va phys.VirtAddr, n int) bool {
	for at := va.Page(); at < va+phys.VirtAddr(n); at += phys.PageSize {
		if pa, ok := im.Translate(at); !ok || !set.Has(pa.PFN()) {
			return false
		}
	}
	return true
}

// The parts of a kernel image may lie anywhere in it, and be large.
func TestProtectedKernelImage(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 130, SmallPages: true})
	base := im.Truth.KernelBase
	put32 := func(va phys.VirtAddr, v uint32) { writeBytes(t, im, va, binary.LittleEndian.AppendUint32(nil, v)) }
	get32 := func(va phys.VirtAddr) uint32 { return uint32(read(t, im, va)) }
	optional := base + phys.VirtAddr(get32(base+0x3C)) + 0x18
	spare, size := im.Spare()
	if size < 0x8000 {
		t.Fatalf("%#x bytes are too few", size)
	}
	// The name in the export directory, and the PDB's.
	exports := base + phys.VirtAddr(get32(optional+0x70))
	debug := base + phys.VirtAddr(get32(optional+0x70+6*8))
	name, codeView := spare.Page()+0x2000, spare.Page()+0x4000
	writeBytes(t, im, name, []byte("ntoskrnl.exe\x00"))
	put32(exports+0x0C, uint32(name-base))
	record := append([]byte("RSDS"), bytes.Repeat([]byte{7}, 20)...)
	writeBytes(t, im, codeView, append(record, "ntkrnlmp.pdb\x00"...))
	put32(debug+0x10, 0x100)
	put32(debug+0x14, uint32(codeView-base))
	// Headers of 3 pages and an export directory of 5.
	put32(optional+0x3C, 0x3000)
	put32(optional+0x74, 0x5000)
	all := union(protected(t, im))
	for what, at := range map[string]struct {
		va phys.VirtAddr
		n  int
	}{
		"headers": {base, 0x3000}, "export directory": {exports, 0x5000}, "debug directory": {debug, 0x1C},
		"export name": {name, 13}, "CodeView record": {codeView, 37},
	} {
		if !holds(im, all, at.va, at.n) {
			t.Errorf("the %s at %#x+%#x is not protected", what, uint64(at.va), at.n)
		}
	}
}

// Whichever size a KDBG holds, the processor's block is protected.
func TestProtectedProcessorSizes(t *testing.T) {
	for what, zero := range map[string]int{"SizePcr": 0x2E0, "SizePrcb": 0x2B0} {
		im := build(t, ntlab.Config{Seed: 131})
		s, err := discover(t, im)
		if err != nil {
			t.Fatal(err)
		}
		n := int(binary.LittleEndian.Uint16(s.KDBG.Block[0x2B0:]))
		if n == 0 || binary.LittleEndian.Uint16(s.KDBG.Block[0x2E0:]) == 0 {
			t.Fatal("the lab's KDBG has no sizes")
		}
		binary.LittleEndian.PutUint16(s.KDBG.Block[zero:], 0)
		set, err := s.Protected(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range im.Truth.Processors {
			if !holds(im, of(set, "KPCR and KPRCB"), p.KPRCB, n) {
				t.Errorf("without %s the KPRCB at %#x is not protected", what, uint64(p.KPRCB))
			}
		}
	}
}

// A broken list takes no protection from what is known otherwise.
func TestProtectedBrokenLists(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 132})
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	write(t, im, im.Truth.PsActiveProcessHead, 0, 0)
	write(t, im, im.Truth.PsLoadedModuleList, 0, 0)
	set, err := s.Protected(t.Context())
	if err != nil {
		t.Fatalf("Protected failed: %v", err)
	}
	all := union(set)
	for what, va := range map[string]phys.VirtAddr{
		"System": im.Truth.SystemProcess, "process list": im.Truth.PsActiveProcessHead, "module list": im.Truth.PsLoadedModuleList,
	} {
		if !holds(im, all, va, 16) {
			t.Errorf("%s at %#x is not protected", what, uint64(va))
		}
	}
}

// A table that leads to itself 512 times is read once for each level.
func TestProtectedTableOfItself(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 133})
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	frames, err := im.AllocPhys(1)
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for range 512 {
		b = binary.LittleEndian.AppendUint64(b, uint64(frames[0].Addr())|3)
	}
	if err := im.WritePhys(frames[0].Addr(), b); err != nil {
		t.Fatal(err)
	}
	// In the first kernel entry of the top level, whatever that was.
	if err := im.WritePhys(im.Truth.DirectoryTableBase+8*0x100, b[:8]); err != nil {
		t.Fatal(err)
	}
	reads := 0
	s.Space = guest.NewAddressSpace(&watched{im, func(_ []byte, at phys.Addr) {
		if at == frames[0].Addr() {
			reads++
		}
	}}, im.RAM(), s.DirectoryTableBase.Value)
	set, err := s.Protected(t.Context())
	if err != nil || !of(set, "page table").Has(frames[0]) {
		t.Errorf("Protected = %v, %v; want the table among the page tables", set, err)
	}
	if reads != 2 { // as one of the third and of the second level
		t.Errorf("the table was read %d times; want 2", reads)
	}
}
