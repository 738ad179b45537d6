package guest_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// discover is guest.Discover of a lab guest.
func discover(t *testing.T, im *ntlab.Image) (*guest.System, error) {
	t.Helper()
	return guest.Discover(t.Context(), im, im.RAM(), im.Registers())
}

func write(t *testing.T, im *ntlab.Image, va phys.VirtAddr, values ...uint64) {
	t.Helper()
	b := make([]byte, 8*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint64(b[8*i:], v)
	}
	if err := im.WriteVirt(va, b); err != nil {
		t.Fatalf("write %#x: %v", uint64(va), err)
	}
}

func read(t *testing.T, im *ntlab.Image, va phys.VirtAddr) uint64 {
	t.Helper()
	var b [8]byte
	if err := im.ReadVirt(va, b[:]); err != nil {
		t.Fatalf("read %#x: %v", uint64(va), err)
	}
	return binary.LittleEndian.Uint64(b[:])
}

func symbol(t *testing.T, im *ntlab.Image, name string) phys.VirtAddr {
	t.Helper()
	va, ok := im.Symbol(name)
	if !ok {
		t.Fatalf("the lab has no %s", name)
	}
	return va
}

// hasWarning reports whether a warning holds a text.
func hasWarning(s *guest.System, text string) bool {
	return strings.Contains(strings.Join(s.Warnings, "\n"), text)
}

func TestCyclicLists(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 20})
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	mods, err := s.Modules(t.Context())
	if err != nil || len(mods) < 4 {
		t.Fatalf("Modules = %d, %v", len(mods), err)
	}
	// The fourth module links back to the second, both ways.
	write(t, im, mods[3].Entry, uint64(mods[1].Entry))
	write(t, im, mods[1].Entry+8, uint64(mods[3].Entry))
	got, err := s.Modules(t.Context())
	if !errors.Is(err, guest.ErrMalformed) || len(got) == 0 || len(got) > 4 {
		t.Errorf("Modules of a cyclic list = %d entries, %v; want those before the cycle and ErrMalformed", len(got), err)
	}

	procs, err := s.Processes(t.Context())
	if err != nil || len(procs) < 3 {
		t.Fatalf("Processes = %d, %v", len(procs), err)
	}
	links := s.PsActiveProcessHead.Value
	first := phys.VirtAddr(read(t, im, links))
	write(t, im, first, uint64(first)) // System is followed by itself
	gotProcs, err := s.Processes(t.Context())
	if !errors.Is(err, guest.ErrMalformed) || len(gotProcs) != 1 {
		t.Errorf("Processes of a cyclic list = %d entries, %v; want System and ErrMalformed", len(gotProcs), err)
	}
}

func TestBrokenLists(t *testing.T) {
	for name, link := range map[string]uint64{
		"user space":    0x7FFE_0000,
		"null":          0,
		"unaligned":     0xFFFF_F800_0000_0001,
		"not canonical": 0x1234_5678_9ABC_DEF0,
		"not mapped":    0xFFFF_8000_0000_0000,
	} {
		im := build(t, ntlab.Config{Seed: 21})
		s, err := discover(t, im)
		if err != nil {
			t.Fatal(err)
		}
		mods, err := s.Modules(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		write(t, im, mods[2].Entry, link)
		got, err := s.Modules(t.Context())
		if err == nil || len(got) != 3 {
			t.Errorf("%s: Modules = %d entries, %v; want 3 and an error", name, len(got), err)
		}
	}
}

func TestHostileModuleEntries(t *testing.T) {
	for name, edit := range map[string]struct {
		off   phys.VirtAddr
		value uint64
	}{
		"base in user space":     {0x30, 0x40_0000},
		"size of 4 GiB":          {0x40, 0xFFFF_FFFF},
		"size 0":                 {0x40, 0},
		"odd name length":        {0x58, 0x0041_0021},
		"name longer than room":  {0x58, 0x0010_0020},
		"name in user space":     {0x60, 0x7FFE_0000},
		"path of 65534 bytes":    {0x48, 0xFFFE_FFFE},
		"path buffer unaligned":  {0x50, 0xFFFF_F800_0000_0001},
		"base below the kernel":  {0x30, 0xFFFF_7FFF_FFFF_F000},
		"base not page aligned":  {0x30, 0xFFFF_F801_0000_0008},
		"image over the top end": {0x30, 0xFFFF_FFFF_FFFF_F000},
	} {
		im := build(t, ntlab.Config{Seed: 22})
		s, err := discover(t, im)
		if err != nil {
			t.Fatal(err)
		}
		mods, err := s.Modules(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		write(t, im, mods[1].Entry+edit.off, edit.value)
		got, err := s.Modules(t.Context())
		if !errors.Is(err, guest.ErrMalformed) || len(got) != 1 {
			t.Errorf("%s: Modules = %d entries, %v; want 1 and ErrMalformed", name, len(got), err)
		}
	}
}

func TestMemoryBlockIsNotTrusted(t *testing.T) {
	tests := []struct {
		name    string
		edit    func(im *ntlab.Image, block phys.VirtAddr)
		warning string
		runs    bool
	}{
		{"no runs", func(im *ntlab.Image, b phys.VirtAddr) { write(t, im, b, 0) }, "0 runs", false},
		{"4 billion runs", func(im *ntlab.Image, b phys.VirtAddr) { write(t, im, b, 0xFFFF_FFFF) }, "4294967295 runs", false},
		{"wrong sum", func(im *ntlab.Image, b phys.VirtAddr) { write(t, im, b+8, 5) }, "but it says 5", false},
		{"empty run", func(im *ntlab.Image, b phys.VirtAddr) { write(t, im, b+0x18, 0) }, "run 0", false},
		{"run beyond 52 bits", func(im *ntlab.Image, b phys.VirtAddr) { write(t, im, b+0x18, 1<<50) }, "run 0", false},
		{"descending", func(im *ntlab.Image, b phys.VirtAddr) {
			write(t, im, b, 2, 0x20, 0x100, 0x10, 0x1, 0x10)
		}, "run 1", false},
		{"overlapping", func(im *ntlab.Image, b phys.VirtAddr) {
			write(t, im, b, 2, 0x20, 0x100, 0x10, 0x10F, 0x10)
		}, "run 1", false},
		{"outside of RAM", func(im *ntlab.Image, b phys.VirtAddr) {
			write(t, im, b, 2, 0x30, 0x100, 0x10, 1<<30, 0x20)
		}, "32 pages outside of RAM", true},
	}
	for _, tt := range tests {
		im := build(t, ntlab.Config{Seed: 23})
		tt.edit(im, phys.VirtAddr(read(t, im, symbol(t, im, "MmPhysicalMemoryBlock"))))
		s, err := discover(t, im)
		if err != nil {
			t.Errorf("%s: Discover failed: %v", tt.name, err)
			continue
		}
		if !hasWarning(s, tt.warning) || (s.PhysicalMemory.Value != nil) != tt.runs {
			t.Errorf("%s: PhysicalMemory %v, warnings %q; want runs: %v, a warning with %q",
				tt.name, s.PhysicalMemory.Value, s.Warnings, tt.runs, tt.warning)
		}
	}
}

func TestMemoryOutsideRAM(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 24})
	block := phys.VirtAddr(read(t, im, symbol(t, im, "MmPhysicalMemoryBlock")))
	end := uint64(im.RAM().End())
	write(t, im, block, 2, 0x50, 0x100, 0x10, end-0x10, 0x40)
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	want := []phys.Run{{Base: 0x100, Pages: 0x10}, {Base: phys.PFN(end - 0x10), Pages: 0x10}}
	if got := s.PhysicalMemory.Value; !slices.Equal(got, want) || s.PhysicalMemoryOutside != 0x30 {
		t.Errorf("runs inside are %v, and %d pages are outside; want %v, %d", got, s.PhysicalMemoryOutside, want, 0x30)
	}
	said := fmt.Sprintf("48 pages outside of RAM, the first at %#x", end<<phys.PageShift)
	if !slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, said) }) {
		t.Errorf("warnings are %q; want one of %q", s.Warnings, said)
	}
}

func TestHostileProcessors(t *testing.T) {
	block := func(im *ntlab.Image) phys.VirtAddr { return symbol(t, im, "KiProcessorBlock") }
	tests := []struct {
		name    string
		edit    func(im *ntlab.Image)
		warning string
		sound   int
	}{
		{"null in between", func(im *ntlab.Image) { write(t, im, block(im)+8, 0) }, "processor 1", 2},
		{"PRCB in user space", func(im *ntlab.Image) { write(t, im, block(im)+8, 0x7FFE_0000) }, "processor 1", 2},
		{"PRCB twice", func(im *ntlab.Image) { write(t, im, block(im)+8, uint64(im.Truth.Processors[0].KPRCB)) }, "its number is 0", 2},
		{"self pointer", func(im *ntlab.Image) { write(t, im, im.Truth.Processors[2].KPCR+0x18, 0) }, "self pointer", 2},
		{"context in user space", func(im *ntlab.Image) {
			write(t, im, im.Truth.Processors[1].KPRCB+0x85C0, 0x7FFE_0000)
		}, "no place for its context", 3},
		{"context unaligned", func(im *ntlab.Image) {
			write(t, im, im.Truth.Processors[1].KPRCB+0x85C0, uint64(im.Truth.Processors[1].Context)+8)
		}, "no place for its context", 3},
		{"another variable behind the last", func(im *ntlab.Image) { write(t, im, block(im)+24, 0xFFFF_F800_DEAD_0000) }, "", 3},
		{"more than it says", func(im *ntlab.Image) { write(t, im, guest.KUSERAddress+0x3C0, 2|1<<32) }, "the guest says it has 2", 3},
		{"count absurd", func(im *ntlab.Image) {
			if err := im.WriteVirt(guest.KUSERAddress+0x3C0, []byte{0xFF, 0xFF, 0xFF, 0xFF}); err != nil {
				t.Fatal(err)
			}
		}, "says it has 4294967295", 3},
	}
	for _, tt := range tests {
		im := build(t, ntlab.Config{Seed: 26, CPUs: 3})
		tt.edit(im)
		s, err := discover(t, im)
		if err != nil {
			t.Errorf("%s: Discover failed: %v", tt.name, err)
			continue
		}
		if len(s.Processors) != tt.sound || tt.warning == "" && len(s.Warnings) > 0 || !hasWarning(s, tt.warning) && tt.warning != "" {
			t.Errorf("%s: %d processors, warnings %q; want %d and %q", tt.name, len(s.Processors), s.Warnings, tt.sound, tt.warning)
		}
	}
}
