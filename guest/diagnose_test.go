package guest_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// x86 makes the registers of a processor from what a monitor shows.
func x86(cr0, cr3, cr4, efer, rip, idt uint64, csFlags uint32) phys.Registers {
	return phys.Registers{
		CR0: cr0, CR3: cr3, CR4: cr4, HasEFER: true, EFER: efer, RIP: rip,
		CS: phys.Segment{Selector: 8, Limit: 0xffffffff, Flags: csFlags}, IDT: phys.DescriptorTable{Base: idt, Limit: 0x7ff},
	}
}

const (
	code16 = 0x009b00
	code32 = 0xcf9b00
	code64 = 0xaf9b00
)

// Processors as they are at stages of a boot and in other systems.
var (
	atReset    = x86(0x6000_0010, 0, 0, 0, 0xFFF0, 0, code16)
	seaBIOS    = x86(0x11, 0, 0, 0, 0xF_D13C, 0xF_6180, code32)
	loader16   = x86(0x10, 0, 0, 0, 0x7C3A, 0, code16)
	windowsPAE = x86(0x8001_003B, 0x18_5000, 0x6F9, 0x800, 0x8053_8C2E, 0x8003_F400, code32)
	windowsOld = x86(0x8001_003B, 0x3_9000, 0x6D9, 0, 0x804D_B8A7, 0x8003_F400, code32)
	loader32   = x86(0x8000_0011, 0x8_6000, 0x20, 0x100, 0x40_1000, 0x1_0000, code32)
)

// withoutEFER are the registers as sources give them that don't tell EFER, such
// as ELF cores.
func withoutEFER(c phys.Registers) phys.Registers {
	c.HasEFER, c.EFER = false, 0
	return c
}

// broken is a lab guest after an edit.
func broken(t *testing.T, c ntlab.Config, edit func(im *ntlab.Image)) *ntlab.Image {
	t.Helper()
	im := build(t, c)
	edit(im)
	return im
}

// rename changes what the kernel image calls itself, in export directory and PDB.
func rename(t *testing.T, im *ntlab.Image, export, pdb string) {
	t.Helper()
	b := make([]byte, im.Truth.KernelSize)
	for off := 0; off < len(b); off += phys.PageSize {
		// A page that isn't there stays zero.
		_ = im.ReadVirt(im.Truth.KernelBase+phys.VirtAddr(off), b[off:off+phys.PageSize])
	}
	for _, name := range []struct{ old, new string }{{"ntoskrnl.exe\x00", export}, {"ntkrnlmp.pdb\x00", pdb}} {
		i := bytes.Index(b, []byte(name.old))
		if i < 0 || len(name.new) >= len(name.old) {
			t.Fatalf("the lab's kernel has no %q, or %q is too long", name.old, name.new)
		}
		text := make([]byte, len(name.old))
		copy(text, name.new)
		if err := im.WriteVirt(im.Truth.KernelBase+phys.VirtAddr(i), text); err != nil {
			t.Fatal(err)
		}
	}
}

// identity is memory in which firmware runs: page tables that map the first GiB
// at its own address, with 4 or 5 levels, and one processor that uses them.
func identity(levels int) (noiseRAM, phys.Runs, []phys.Registers) {
	m := make(noiseRAM, 8<<20)
	put := func(page, i int, e uint64) { binary.LittleEndian.PutUint64(m[page<<12+8*i:], e) }
	cpu := x86(0x8001_0033, 0x10_0000, 0x668, 0xD00, 0x10_4321, 0x20_0018, code64)
	if levels == 5 {
		cpu.CR3, cpu.CR4 = 0x10_3000, cpu.CR4|phys.CR4LA57
		put(0x103, 0, 0x10_0023)
	}
	put(0x100, 0, 0x10_1023)
	put(0x101, 0, 0x10_2023)
	for i := range 512 {
		put(0x102, i, uint64(i)<<21|0xE3)
	}
	return m, phys.Runs{{Base: 0, Pages: uint64(len(m)) >> 12}}, []phys.Registers{cpu}
}

// What a guest is that isn't a Windows that snap understands is said in one
// sentence, and by a word for programs.
func TestReasons(t *testing.T) {
	type source struct {
		mem  phys.Reader
		ram  phys.Runs
		cpus []phys.Registers
	}
	// A Windows of an earlier boot is in memory: it is not what runs.
	stale := build(t, ntlab.Config{Seed: 160})
	of := func(im *ntlab.Image, cpus ...phys.Registers) source { return source{im, im.RAM(), cpus} }
	running := func(im *ntlab.Image) source { return of(im, im.Registers()...) }
	uefi := func(levels int) source {
		m, ram, cpus := identity(levels)
		// Its other processors wait in real mode.
		return source{m, ram, append(cpus, atReset, atReset)}
	}
	linuxGuest, err := ntlab.BuildOther(ntlab.Config{Seed: 161, Memory: 64 << 20, CPUs: 2})
	if err != nil {
		t.Fatal(err)
	}
	linux5, err := ntlab.BuildOther(ntlab.Config{Seed: 161, Memory: 64 << 20, CPUs: 2, LA57: true})
	if err != nil {
		t.Fatal(err)
	}
	m, ram, cpus := linux() // without its interrupt table
	encrypted := func(bit uint) source {
		im := build(t, ntlab.Config{Seed: 162, NoLowStub: true})
		c := append([]phys.Registers(nil), im.Registers()...)
		for i := range c {
			c[i].CR3 |= 1 << bit
		}
		return source{m, im.RAM(), c}
	}
	nested := append([]phys.Registers(nil), cpus...)
	nested[0].CR0, nested[0].CS.Flags, nested[0].CR4 = 0x8005_0033, code64, 0x2668
	svm := append([]phys.Registers(nil), cpus...)
	svm[0].CR0, svm[0].HasEFER, svm[0].EFER, svm[0].CR4 = 0x8005_0033, true, 0x1D01, 0x668

	tests := []struct {
		name   string
		of     source
		reason guest.Reason
		says   []string
	}{
		{"processors at reset", of(stale, atReset, atReset), guest.ReasonFirmware, []string{"firmware", "real mode"}},
		{"SeaBIOS", of(stale, atReset, seaBIOS), guest.ReasonFirmware, []string{"firmware", "vCPU 0 is in protected mode"}},
		{"SeaBIOS without EFER", of(stale, withoutEFER(seaBIOS)), guest.ReasonFirmware, []string{"firmware"}},
		{"boot sector", of(stale, loader16), guest.ReasonFirmware, []string{"boot loader", "real mode"}},
		{"32-bit Windows, PAE", of(stale, windowsPAE), guest.Reason32Bit, []string{"32-bit guest", "PAE page tables"}},
		{"32-bit Windows", of(stale, windowsOld), guest.Reason32Bit, []string{"32-bit guest", "without PAE"}},
		{"32-bit Windows, one processor not started", of(stale, windowsPAE, atReset), guest.Reason32Bit, []string{"32-bit guest"}},
		{"32-bit Windows, nothing known of one processor", of(stale, windowsPAE, phys.Registers{}), guest.Reason32Bit, []string{"32-bit guest"}},
		{"SeaBIOS, nothing known of one processor", of(stale, phys.Registers{}, seaBIOS), guest.ReasonFirmware, []string{"firmware"}},
		{"something else, a processor in real mode", source{m, ram, append([]phys.Registers{x86(0x6000_0010, 1<<51|0x1000, 0, 0, 0xFFF0, 0, code16)}, cpus...)}, guest.ReasonUnknown, []string{"no page table of its processors"}},
		{"32-bit Windows without EFER", of(stale, withoutEFER(windowsPAE)), guest.Reason32Bit, []string{"32-bit guest", "PAE page tables"}},
		{"32-bit boot loader", of(stale, loader32), guest.Reason32Bit, []string{"32-bit guest"}},
		{"UEFI", uefi(4), guest.ReasonFirmware, []string{"UEFI", "boot loader", "vCPU 0"}},
		{"UEFI with 5 levels", uefi(5), guest.ReasonFirmware, []string{"UEFI"}},
		{"Linux with 5 levels", running(linux5), guest.ReasonLinux, []string{"looks like Linux"}},
		{"Linux", running(linuxGuest), guest.ReasonLinux, []string{"looks like Linux"}},
		{"SEV, C-bit 47", encrypted(47), guest.ReasonEncrypted, []string{"encrypted", "C-bit 47"}},
		{"SEV, C-bit 51", encrypted(51), guest.ReasonEncrypted, []string{"encrypted", "C-bit 51"}},
		{"VMX", source{m, ram, nested}, guest.ReasonNested, []string{"hypervisor that runs inside"}},
		{"SVM", source{m, ram, svm}, guest.ReasonNested, []string{"hypervisor that runs inside"}},
		{"something else", source{m, ram, cpus}, guest.ReasonUnknown, []string{"no page table of its processors"}},
		{"something else in a file", source{m, ram, nil}, guest.ReasonUnknown, []string{"registers are not known"}},
		{"a RAM map that ends too early", source{build(t, ntlab.Config{Seed: 173}), phys.Runs{{Base: 0, Pages: 16 << 20 >> 12}}, nil}, guest.ReasonRAMMap, []string{"maps itself as only Windows' do", "the RAM map can't be right"}},
		{"a low stub that leads out of RAM", source{build(t, ntlab.Config{Seed: 173}), phys.Runs{{Base: 0, Pages: 0xA0}}, nil}, guest.ReasonRAMMap, []string{"a low stub at 0x", "which is no RAM", "earlier boot"}},
		{"a low stub that leads to nothing of Windows'", of(broken(t, ntlab.Config{Seed: 174}, func(im *ntlab.Image) {
			// As after a restart with another system.
			for _, pages := range im.Populated().Minus(phys.Runs{{Base: 0, Pages: 0x100}}) {
				if err := im.WritePhys(pages.Base.Addr(), make([]byte, pages.Size())); err != nil {
					t.Fatal(err)
				}
			}
		})), guest.ReasonRAMMap, []string{"a low stub at 0x", "none of Windows'", "earlier boot"}},
		{"no KDBG and no System process", running(broken(t, ntlab.Config{Seed: 163}, func(im *ntlab.Image) {
			if err := im.WriteVirt(im.Truth.KDBG, make([]byte, 0x380)); err != nil {
				t.Fatal(err)
			}
			write(t, im, symbol(t, im, "PsInitialSystemProcess"), 0)
			write(t, im, im.Truth.PsActiveProcessHead, 0, 0)
		})), guest.ReasonKernel, []string{"a Windows kernel is there", "ntoskrnl.exe", "ntkrnlmp.pdb", "no KDBG"}},
		{"a page table of System that is none", running(broken(t, ntlab.Config{Seed: 164}, func(im *ntlab.Image) {
			write(t, im, im.Truth.SystemProcess+0x28, 0x1000)
		})), guest.ReasonKernel, []string{"ntoskrnl.exe", "System process"}},
		{"a kernel of another name", running(broken(t, ntlab.Config{Seed: 165}, func(im *ntlab.Image) {
			rename(t, im, "ntfoo.exe", "ntbar.pdb")
		})), guest.ReasonNoKernel, []string{"no image that is named as a kernel", "ntfoo.exe", "ntbar.pdb", "its name is not a kernel's"}},
		{"a kernel for another machine", running(broken(t, ntlab.Config{Seed: 166}, func(im *ntlab.Image) {
			pe := phys.VirtAddr(read(t, im, im.Truth.KernelBase+0x3C) & 0xFFFF_FFFF)
			if err := im.WriteVirt(im.Truth.KernelBase+pe+4, []byte{0x64, 0xAA}); err != nil {
				t.Fatal(err)
			}
		})), guest.ReasonKernel, []string{"ntoskrnl.exe", "machine 0xaa64"}},
		{"a kernel of 65535 sections", running(broken(t, ntlab.Config{Seed: 167}, func(im *ntlab.Image) {
			pe := phys.VirtAddr(read(t, im, im.Truth.KernelBase+0x3C) & 0xFFFF_FFFF)
			if err := im.WriteVirt(im.Truth.KernelBase+pe+6, []byte{0xFF, 0xFF}); err != nil {
				t.Fatal(err)
			}
		})), guest.ReasonNoKernel, []string{"KUSER_SHARED_DATA is there"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := guest.Discover(t.Context(), tt.of.mem, tt.of.ram, tt.of.cpus)
			none, ok := errors.AsType[*guest.NotFoundError](err)
			if s != nil || !ok || !errors.Is(err, guest.ErrNotWindows) {
				t.Fatalf("Discover = %v, %v; want a *NotFoundError of class ErrNotWindows", s, err)
			}
			if none.Reason != tt.reason || !errors.Is(err, tt.reason) || errors.Is(err, guest.ReasonUnreadable) {
				t.Errorf("reason %q; want %q, and the error to be of it", none.Reason, tt.reason)
			}
			for _, want := range tt.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q; want %q in it", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") || len(err.Error()) > 400 {
				t.Errorf("error %q; want one sentence", err)
			}
			if len(none.Attempts) == 0 {
				t.Error("no attempts are told")
			}
		})
	}
}

// Whatever a processor does in a Windows guest, it is found: some of these states
// resemble those of other systems.
func TestOddProcessorsOfWindows(t *testing.T) {
	for name, edit := range map[string]func(im *ntlab.Image, cpus []phys.Registers){
		"others not started":     func(_ *ntlab.Image, c []phys.Registers) { c[1], c[2] = atReset, atReset },
		"others at reset values": func(_ *ntlab.Image, c []phys.Registers) { c[1], c[2] = withoutEFER(atReset), phys.Registers{} },
		"32-bit program": func(_ *ntlab.Image, c []phys.Registers) {
			for i := range c {
				c[i].CS = phys.Segment{Selector: 0x23, Limit: 0xffffffff, Flags: 0xcffb00}
				c[i].RIP = 0x7712_3456
			}
		},
		"32-bit program, EFER not told": func(_ *ntlab.Image, c []phys.Registers) {
			for i := range c {
				c[i] = withoutEFER(c[i])
				c[i].CS = phys.Segment{Selector: 0x23, Limit: 0xffffffff, Flags: 0xcffb00}
				c[i].RIP = 0x7712_3456
			}
		},
		"in firmware's page tables, one of them": func(im *ntlab.Image, c []phys.Registers) {
			pages, err := im.AllocPhys(3)
			if err != nil {
				t.Fatal(err)
			}
			at := pages[0].Addr()
			for i, e := range []uint64{uint64(pages[1].Addr()) | 3, uint64(pages[2].Addr()) | 3, 0x83} {
				if err := im.WritePhys(pages[i].Addr(), binary.LittleEndian.AppendUint64(nil, e)); err != nil {
					t.Fatal(err)
				}
			}
			c[0] = x86(0x8001_0033, uint64(at), 0x668, 0xD00, 0x1234, 0, code64)
		},
		"a hypervisor inside": func(im *ntlab.Image, c []phys.Registers) {
			pages, err := im.AllocPhys(1)
			if err != nil {
				t.Fatal(err)
			}
			for i := range c {
				c[i].CR3, c[i].CR4 = uint64(pages[0].Addr()), 0x2668
			}
		},
	} {
		im := build(t, ntlab.Config{Seed: 170})
		cpus := append([]phys.Registers(nil), im.Registers()...)
		edit(im, cpus)
		s, err := guest.Discover(t.Context(), im, im.RAM(), cpus)
		if err != nil || s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase {
			t.Errorf("%s: Discover = %v, %v; want the guest", name, s, err)
		}
	}
}

// Kernels are known by any of their names.
func TestKernelsOfEveryName(t *testing.T) {
	for _, names := range [][2]string{
		{"ntkrnlmp.exe", "x.pdb"},
		{"NTKRNLPA.EXE", "x.pdb"},
		{"ntkrpamp.exe", "x.pdb"},
		{"ntkrla57.exe", "x.pdb"},
		{"x.exe", "ntkrpamp.pdb"},
		{"x.exe", "NTKRLA57.pdb"},
		{"", "ntoskrnl.pdb"},
		{"ntoskrnl.exe", ""},
	} {
		for _, p := range ntlab.Profiles() {
			im := build(t, ntlab.Config{Profile: p, Seed: 171, Memory: 256 << 20, CPUs: 1})
			rename(t, im, names[0], names[1])
			s, err := guest.Discover(t.Context(), im, im.RAM(), im.Registers())
			if err != nil || s.KernBase.Value != im.Truth.KernelBase {
				t.Errorf("%s: kernel of export name %q and PDB %q: %v; want it found", p, names[0], names[1], err)
			}
		}
	}
}

// A guest in firmware isn't searched: what its memory holds is of an earlier boot.
func TestCertainReasonsReadNothing(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 172})
	for _, cpu := range []phys.Registers{atReset, seaBIOS} {
		r := &countingReader{Reader: im}
		_, err := guest.Discover(t.Context(), r, im.RAM(), []phys.Registers{cpu})
		none, ok := errors.AsType[*guest.NotFoundError](err)
		if !ok || r.bytes.Load() != 0 || !strings.Contains(fmt.Sprint(none.Attempts), "not tried") {
			t.Errorf("%d bytes were read, error %v; want none, and attempts that were not tried", r.bytes.Load(), err)
		}
	}
}
