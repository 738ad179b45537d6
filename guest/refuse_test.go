package guest_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// countingReader counts what is read of a guest.
type countingReader struct {
	phys.Reader
	bytes atomic.Uint64
}

func (r *countingReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	r.bytes.Add(uint64(len(p)))
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
	none, ok := errors.AsType[*guest.NotFoundError](err)
	if !ok {
		t.Fatalf("error %T; want a *NotFoundError", err)
	}
	tried := fmt.Sprint(none.Attempts)
	for _, want := range []string{"vCPU 0 CR3", "KUSER_SHARED_DATA", "low stub", "self-map"} {
		if !strings.Contains(tried, want) {
			t.Errorf("attempts = %q; want them to tell of %q", tried, want)
		}
	}
	if len(err.Error()) > 160 {
		t.Errorf("error = %q; want one short sentence", err)
	}
	if limit := uint64(len(m)) + 8<<20; r.bytes.Load() > limit {
		t.Errorf("%d bytes were read; want RAM once and little else, at most %d", r.bytes.Load(), limit)
	}
}

// A page table in which everything is one page, over and over, through tables
// that are reached over and over: each is looked at once.
func TestHostileTablesEnd(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 28, NoLowStub: true})
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
	if limit := uint64(64 << 20); r.bytes.Load() > limit {
		t.Errorf("%d bytes were read; want each page once and little else, at most %d", r.bytes.Load(), limit)
	}
	if s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase {
		t.Errorf("DirectoryTableBase = %#x; want %#x", s.DirectoryTableBase.Value, im.Truth.DirectoryTableBase)
	}
}

// A processor that pages otherwise than the guest, as one in a hypervisor inside it
// may, leads nowhere; nor does one that doesn't page, such as one that was never
// started. The others do.
func TestNoWitness(t *testing.T) {
	unknown := phys.Registers{}
	for name, witness := range map[string]struct {
		first phys.Registers // of vCPU 0, with the guest's CR3 if it has one
		last  func(*phys.Registers)
	}{
		"never started":            {first: atReset},
		"protected mode":           {first: seaBIOS},
		"nothing known":            {first: unknown},
		"the other paging":         {first: phys.Registers{CR0: 0x8005_0033, CR3: 1, CR4: 0x6F8, HasEFER: true, EFER: 0xD01}},
		"only CR3 of the other":    {first: atReset, last: func(c *phys.Registers) { *c = phys.Registers{CPU: c.CPU, CR3: c.CR3} }},
		"no CR0 of the other":      {first: atReset, last: func(c *phys.Registers) { c.CR0 = 0 }},
		"never started, page left": {first: x86(0x6000_0010, 1, 0, 0, 0xFFF0, 0, code16)},
	} {
		for _, la57 := range []bool{false, true} {
			im := build(t, ntlab.Config{Seed: 28, CPUs: 2, LA57: la57, NoLowStub: true})
			cpus := append([]phys.Registers(nil), im.Registers()...)
			cr3 := cpus[0].CR3
			cpus[0] = witness.first
			if cpus[0].CR3 != 0 {
				cpus[0].CR3 = cr3
			}
			if cpus[0].CR0>>31 != 0 && !la57 {
				cpus[0].CR4 |= phys.CR4LA57
			}
			cpus[1].CR3 = uint64(im.Truth.Processes[3].DirectoryTableBase)
			if witness.last != nil {
				witness.last(&cpus[1])
			}
			s, err := guest.Discover(t.Context(), im, im.RAM(), cpus)
			if err != nil {
				t.Errorf("%s, 5 levels %v: %v", name, la57, err)
				continue
			}
			if s.Witness != "vCPU 1 CR3" || s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase {
				t.Errorf("%s, 5 levels %v: Witness = %q, DirectoryTableBase = %#x; want vCPU 1 CR3, %#x", name, la57, s.Witness,
					s.DirectoryTableBase.Value, im.Truth.DirectoryTableBase)
			}
		}
	}
}

// failingReader fails to read some of a guest's memory.
type failingReader struct {
	phys.Reader
	from phys.Addr
}

var errCable = errors.New("cable pulled")

func (r failingReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if at+phys.Addr(len(p)) > r.from {
		return errCable
	}
	return r.Reader.ReadPhys(ctx, p, at)
}

// Memory that couldn't be read doesn't make a guest one without Windows.
func TestUnreadableMemoryIsNoVerdict(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 35})
	for _, from := range []phys.Addr{0, 0x10_0000} {
		s, err := guest.Discover(t.Context(), failingReader{im, from}, im.RAM(), im.Registers())
		if s != nil || !errors.Is(err, errCable) || errors.Is(err, guest.ErrNotWindows) {
			t.Errorf("unreadable from %#x: Discover = %v, %v; want the reader's error and no verdict", uint64(from), s, err)
		}
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
	if !hasWarning(s, "vCPU 0 is none of the guest's") || s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase {
		t.Errorf("warnings %q, DirectoryTableBase %#x", s.Warnings, s.DirectoryTableBase.Value)
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
