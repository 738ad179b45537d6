package guest_test

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// A forged KDBG in the kernel image, in front of the real one or behind it,
// must not win.
func TestForgedKDBGDoesNotWin(t *testing.T) {
	for name, forge := range map[string]func(b []byte, im *ntlab.Image){
		"other kernel base": func(b []byte, im *ntlab.Image) {
			binary.LittleEndian.PutUint64(b[0x18:], uint64(im.Truth.KernelBase)+0x20_0000)
		},
		"module list elsewhere in the image": func(b []byte, im *ntlab.Image) {
			binary.LittleEndian.PutUint64(b[0x48:], uint64(im.Truth.PsLoadedModuleList)+0x40)
		},
		"another list for the modules": func(b []byte, im *ntlab.Image) {
			binary.LittleEndian.PutUint64(b[0x48:], uint64(im.Truth.PsActiveProcessHead))
		},
		"process list outside": func(b []byte, _ *ntlab.Image) {
			binary.LittleEndian.PutUint64(b[0x50:], 0xFFFF_8000_0000_0000)
		},
		"wrong self-map": func(b []byte, _ *ntlab.Image) {
			binary.LittleEndian.PutUint64(b[0x360:], 0xFFFF_8000_0000_0000)
		},
		"directory table offset": func(b []byte, _ *ntlab.Image) {
			binary.LittleEndian.PutUint16(b[0x2AE:], 0x30)
		},
		"processor block": func(b []byte, im *ntlab.Image) {
			binary.LittleEndian.PutUint64(b[0x218:], uint64(im.Truth.KernelBase))
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, plain := range []bool{false, true} {
				im := build(t, ntlab.Config{Seed: 25, PlainKDBG: plain})
				forged := append([]byte(nil), im.Truth.KDBGPlain...)
				forge(forged, im)
				at, _ := im.Spare() // in .text, below .data
				if err := im.WriteVirt(at, forged); err != nil {
					t.Fatal(err)
				}
				s, err := discover(t, im)
				if err != nil {
					t.Fatalf("Discover failed: %v", err)
				}
				if s.KDBG.At != im.Truth.KDBG {
					t.Errorf("KDBG.At = %#x; want %#x, not the forged one at %#x",
						uint64(s.KDBG.At), uint64(im.Truth.KDBG), uint64(at))
				}
			}
		})
	}
}

// A System process whose page table shows other shared data than the
// processor's does is not followed from that processor.
func TestForgedSystemProcess(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 32})
	pages, err := im.AllocPhys(5) // PML4, PDPT, PD, PT, KUSER
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, phys.PageSize)
	copyOf := func(to phys.PFN, from phys.Addr, entry phys.VirtAddr, next phys.PFN) {
		if err := im.ReadPhys(t.Context(), page, from); err != nil {
			t.Fatal(err)
		}
		if next != 0 {
			binary.LittleEndian.PutUint64(page[8*entry:], uint64(next.Addr())|0x63)
		}
		if err := im.WritePhys(to.Addr(), page); err != nil {
			t.Fatal(err)
		}
	}
	from := im.Truth.DirectoryTableBase
	for level := 4; level >= 0; level-- {
		var index phys.VirtAddr
		var next phys.PFN
		if level > 0 {
			index, next = guest.KUSERAddress>>(12+9*(level-1))&0x1FF, pages[5-level]
		}
		at, ok := im.EntryAddr(guest.KUSERAddress, max(level, 1))
		if !ok {
			t.Fatalf("no level %d entry for the shared data", level)
		}
		copyOf(pages[4-level], from, index, next)
		var e [8]byte
		if err := im.ReadPhys(t.Context(), e[:], at); err != nil {
			t.Fatal(err)
		}
		from = phys.Addr(binary.LittleEndian.Uint64(e[:]) & 0x000F_FFFF_FFFF_F000)
	}
	var e [8]byte
	binary.LittleEndian.PutUint64(e[:], uint64(pages[0].Addr())|0x63)
	if err := im.WritePhys(pages[0].Addr()+phys.Addr(8*im.Truth.SelfMapSlot), e[:]); err != nil {
		t.Fatal(err)
	}
	space := guest.NewAddressSpace(im, im.RAM(), pages[0].Addr())
	if _, err := guest.ReadKUSER(t.Context(), space); err != nil {
		t.Fatalf("the forged page table doesn't work: %v", err)
	}
	write(t, im, im.Truth.SystemProcess+0x28, uint64(pages[0].Addr()))
	s, err := discover(t, im)
	if err == nil && strings.HasPrefix(s.Witness, "vCPU") {
		t.Errorf("Discover believed it on the word of %s", s.Witness)
	}
}

func TestTwoSelfMapsAreRefused(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 33})
	slot := 0x1FF
	if im.Truth.SelfMapSlot == slot {
		slot--
	}
	var e [8]byte
	binary.LittleEndian.PutUint64(e[:], uint64(im.Truth.DirectoryTableBase)|0x63)
	if err := im.WritePhys(im.Truth.DirectoryTableBase+phys.Addr(8*slot), e[:]); err != nil {
		t.Fatal(err)
	}
	if s, err := discover(t, im); s != nil || !errors.Is(err, guest.ErrNotWindows) {
		t.Errorf("Discover = %v, %v; want ErrNotWindows", s, err)
	}
}

func TestBuildNumbersDisagree(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 34})
	if err := im.WriteVirt(guest.KUSERAddress+0x260, []byte{0x39, 0x05}); err != nil {
		t.Fatal(err)
	}
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	if s.Build() != im.Truth.Build || !hasWarning(s, "says 1337") {
		t.Errorf("Build() = %d, warnings %q; want %d and one that says 1337", s.Build(), s.Warnings, im.Truth.Build)
	}
}

// A second kernel image that is mapped below the running one, as file or as a
// leftover, is passed over.
func TestSecondKernelImage(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 36})
	space := guest.NewAddressSpace(im, im.RAM(), im.Truth.DirectoryTableBase)
	for _, below := range []phys.VirtAddr{0x40_0000, 0x1F0_0000} {
		at := im.Truth.KernelBase - below
		if _, err := space.Translate(t.Context(), at); err == nil {
			t.Fatalf("%#x is in use", uint64(at))
		}
		// The image is whole, but read-only data of a file.
		for off := phys.VirtAddr(0); off < phys.VirtAddr(im.Truth.KernelSize); off += phys.PageSize {
			from, err := space.Translate(t.Context(), im.Truth.KernelBase+off)
			if err != nil || off > 0x3F_F000 || at+off >= im.Truth.KernelBase {
				continue
			}
			if err := im.MapPage(im.Truth.DirectoryTableBase, at+off, from.Addr.PFN(), 1, 1|1<<63); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, cpus := range map[string][]phys.Registers{"registers": im.Registers(), "none": nil} {
		s, err := guest.Discover(t.Context(), im, im.RAM(), cpus)
		if err != nil {
			t.Errorf("%s: Discover failed: %v", name, err)
			continue
		}
		if s.Kernel.Base != im.Truth.KernelBase {
			t.Errorf("%s: Kernel.Base = %#x; want %#x", name, uint64(s.Kernel.Base), uint64(im.Truth.KernelBase))
		}
	}
}
