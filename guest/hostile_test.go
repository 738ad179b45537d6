package guest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"snap/guest"
	"snap/guest/phys"
	"snap/internal/ntlab"
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
	links := s.PsActiveProcessHead
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
		if !hasWarning(s, tt.warning) || (s.PhysicalMemory != nil) != tt.runs {
			t.Errorf("%s: PhysicalMemory %v, warnings %q; want runs: %v, a warning with %q",
				tt.name, s.PhysicalMemory, s.Warnings, tt.runs, tt.warning)
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
	want := [][]phys.Run{{{Base: 0x100, Pages: 0x10}, {Base: phys.PFN(end - 0x10), Pages: 0x10}}, {{Base: phys.PFN(end), Pages: 0x30}}}
	got := [][]phys.Run{s.PhysicalMemory, s.PhysicalMemoryOutside}
	for i := range want {
		if len(got[i]) != len(want[i]) {
			t.Fatalf("runs inside and outside = %v; want %v", got, want)
		}
		for j := range want[i] {
			if got[i][j] != want[i][j] {
				t.Errorf("runs inside and outside = %v; want %v", got, want)
			}
		}
	}
}

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
		{"more than it says", func(im *ntlab.Image) { write(t, im, block(im)+24, 0xFFFF_F800_DEAD_0000) }, "processor 3", 3},
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
		if len(s.Processors) != tt.sound || !hasWarning(s, tt.warning) {
			t.Errorf("%s: %d processors, warnings %q; want %d and %q", tt.name, len(s.Processors), s.Warnings, tt.sound, tt.warning)
		}
	}
}

// countingReader counts what is read of a guest.
type countingReader struct {
	phys.Reader
	bytes uint64
}

func (r *countingReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	r.bytes += uint64(len(p))
	return r.Reader.ReadPhys(ctx, p, at)
}

// noiseRAM is 64 MiB of random bytes.
type noiseRAM []byte

func (m noiseRAM) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	if uint64(at)+uint64(len(p)) > uint64(len(m)) {
		return phys.ErrNotRAM
	}
	copy(p, m[at:])
	return nil
}

// linux makes a memory that looks like another system's: page tables whose
// kernel half maps memory, none of it Windows'.
func linux() (noiseRAM, phys.Runs, []phys.Registers) {
	m := make(noiseRAM, 64<<20)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := 0; i < len(m); i += 8 {
		binary.LittleEndian.PutUint64(m[i:], rng.Uint64())
	}
	table := func(page int, e func(i int) uint64) {
		for i := range 512 {
			binary.LittleEndian.PutUint64(m[page<<12+8*i:], e(i))
		}
	}
	table(0x10, func(i int) uint64 { // kernel half only
		if i < 256 {
			return 0
		}
		return 0x11<<12 | 3
	})
	table(0x11, func(int) uint64 { return 0x12<<12 | 3 })
	table(0x12, func(i int) uint64 { return uint64(i%32)<<21 | 0x83 })
	cpu := phys.Registers{CR3: 0x10000, CR4: 0x6F0, HasLSTAR: true, LSTAR: 0xFFFF_FFFF_8100_0000, RIP: 0xFFFF_FFFF_8101_0000}
	cpu.GS.Base = 0xFFFF_8880_3EC0_0000
	cpu.IDT.Base = 0xFFFF_FE00_0000_0000
	return m, phys.Runs{{Base: 0, Pages: uint64(len(m)) >> 12}}, []phys.Registers{cpu}
}

func TestOtherSystemIsRefused(t *testing.T) {
	m, ram, cpus := linux()
	r := &countingReader{Reader: m}
	s, err := guest.Discover(t.Context(), r, ram, cpus)
	if s != nil || !errors.Is(err, guest.ErrNotWindows) {
		t.Fatalf("Discover = %v, %v; want ErrNotWindows", s, err)
	}
	for _, want := range []string{"vCPU 0 CR3", "KUSER_SHARED_DATA", "low stub", "self-map"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error = %q; want it to tell of %q", err, want)
		}
	}
	if limit := uint64(len(m)) + 8<<20; r.bytes > limit {
		t.Errorf("%d bytes were read; want RAM once and little else, at most %d", r.bytes, limit)
	}
}

// A page table in which everything is the kernel's first chunk, over and over:
// the search of the kernel's range has to end.
func TestHostileTablesEnd(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 27, NoLowStub: true})
	root, err := im.AllocPhys(4)
	if err != nil {
		t.Fatal(err)
	}
	entry := func(at phys.Addr, e uint64) {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], e)
		if err := im.WritePhys(at, b[:]); err != nil {
			t.Fatal(err)
		}
	}
	kuser := im.Truth.DirectoryTableBase + 8*(0xFFFFF780_00000000>>39&0x1FF)
	var b [8]byte
	if err := im.ReadPhys(t.Context(), b[:], kuser); err != nil {
		t.Fatal(err)
	}
	entry(root[0].Addr()+8*0x1EF, binary.LittleEndian.Uint64(b[:]))
	for i := range phys.Addr(512) {
		entry(root[1].Addr()+8*i, uint64(root[2].Addr())|3)
		entry(root[2].Addr()+8*i, uint64(root[3].Addr())|3)
		entry(root[3].Addr()+8*i, uint64(root[3].Addr())|3) // a table page as data
	}
	entry(root[0].Addr()+8*0x1F0, uint64(root[1].Addr())|3)
	entry(root[0].Addr()+8*0x1F1, uint64(root[1].Addr())|3)

	cpu := im.Registers()[0]
	cpu.CR3 = uint64(root[0].Addr())
	r := &countingReader{Reader: im}
	s, err := guest.Discover(t.Context(), r, im.RAM(), []phys.Registers{cpu})
	if err != nil {
		t.Fatalf("Discover failed: %v", err)
	}
	if r.bytes < 1<<30 || r.bytes > 3<<30 {
		t.Errorf("%d bytes were read; want the budget of 2 GiB and little else", r.bytes)
	}
	if s.DirectoryTableBase != im.Truth.DirectoryTableBase {
		t.Errorf("DirectoryTableBase = %#x; want %#x", s.DirectoryTableBase, im.Truth.DirectoryTableBase)
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

func TestFiveLevelPagingIsRefused(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 28, CPUs: 2})
	cpus := append([]phys.Registers(nil), im.Registers()...)
	for i := range cpus {
		cpus[i].CR4 |= phys.CR4LA57
	}
	if s, err := guest.Discover(t.Context(), im, im.RAM(), cpus); s != nil || !errors.Is(err, guest.ErrFiveLevel) {
		t.Errorf("Discover = %v, %v; want ErrFiveLevel", s, err)
	}
}

// Under a hypervisor inside the guest, most processors hold its page table.
func TestProcessorInsideAnotherHypervisor(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 29, CPUs: 3})
	cpus := append([]phys.Registers(nil), im.Registers()...)
	foreign, err := im.AllocPhys(1)
	if err != nil {
		t.Fatal(err)
	}
	cpus[0] = phys.Registers{
		CPU: 0, CR3: uint64(foreign[0].Addr()), CR4: 0x2668, RIP: 0xFFFF_F800_1111_2222,
		GS: phys.Segment{Base: 0xFFFF_E700_0000_1000}, HasKernelGSBase: true,
	}
	s, err := guest.Discover(t.Context(), im, im.RAM(), cpus)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Processors {
		want := im.Truth.Processors[p.Number].VCPU
		if want == 0 {
			want = -1
		}
		if p.VCPU != want {
			t.Errorf("processor %d is vCPU %d; want %d", p.Number, p.VCPU, want)
		}
	}
	if !hasWarning(s, "vCPU 0 is none of the guest's") || s.DirectoryTableBase != im.Truth.DirectoryTableBase {
		t.Errorf("warnings %q, DirectoryTableBase %#x", s.Warnings, s.DirectoryTableBase)
	}
}

func TestDiscoverEndsWithItsContext(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 30})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, cpus := range [][]phys.Registers{im.Registers(), nil} {
		if s, err := guest.Discover(ctx, im, im.RAM(), cpus); s != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("Discover with a cancelled context = %v, %v; want context.Canceled", s, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	plain := build(t, ntlab.Config{Seed: 31, PlainKDBG: true})
	encoded := build(t, ntlab.Config{Seed: 31})
	tests := []struct {
		name  string
		im    *ntlab.Image
		root  phys.Addr
		kdbg  phys.VirtAddr
		class error
	}{
		{"page table outside of RAM", plain, 1 << 45, plain.Truth.KDBG, phys.ErrNotRAM},
		{"empty page table", plain, plain.RAM().End().Addr() - 0x1000, plain.Truth.KDBG, guest.ErrNotPresent},
		{"no KDBG there", plain, plain.Truth.DirectoryTableBase, plain.Truth.KDBG + 8, guest.ErrMalformed},
		{"KDBG in user space", plain, plain.Truth.DirectoryTableBase, 0x7FFE_0000, guest.ErrMalformed},
		{"KDBG still encoded", encoded, encoded.Truth.DirectoryTableBase, encoded.Truth.KDBG, guest.ErrMalformed},
	}
	for _, tt := range tests {
		if s, err := guest.Open(t.Context(), tt.im, tt.im.RAM(), tt.root, tt.kdbg); !errors.Is(err, tt.class) {
			t.Errorf("%s: Open = %v, %v; want class %v", tt.name, s, err, tt.class)
		}
	}
}
