package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/hv"
	"snap/hv/file/filetest"
	"snap/hv/hvtest"
	"snap/input"
	"snap/phys"
)

// image is memory that a test makes: what is at each address is known.
type image struct {
	segs []Segment
	data map[phys.Addr][]byte // by segment
}

// ranges returns the image's memory.
func (im *image) ranges() []filetest.Range {
	var out []filetest.Range
	for _, g := range im.segs {
		out = append(out, filetest.Range{At: g.GPA, Data: im.data[g.GPA]})
	}
	return out
}

// ReadPhys implements phys.Reader over the image itself.
func (im *image) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	for len(p) > 0 {
		n := 0
		for _, g := range im.segs {
			if at >= g.GPA && at < g.GPA+phys.Addr(g.Size) {
				n = copy(p, im.data[g.GPA][at-g.GPA:])
			}
		}
		if n == 0 {
			return phys.ErrNotRAM
		}
		p, at = p[n:], at+phys.Addr(n)
	}
	return nil
}

// write makes a sparse file of the image: pages of zeros become holes.
func (im *image) write(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, g := range im.segs {
		if err := f.Truncate(max(g.FileOffset+int64(g.Size), fileSize(t, f))); err != nil {
			t.Fatal(err)
		}
		b := im.data[g.GPA]
		for off := 0; off < len(b); off += phys.PageSize {
			page := b[off : off+phys.PageSize]
			if bytes.Equal(page, make([]byte, phys.PageSize)) {
				continue
			}
			if _, err := f.WriteAt(page, g.FileOffset+int64(off)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func fileSize(t *testing.T, f *os.File) int64 {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// newImage has a hole, segments that touch, and stretches of zeros.
func newImage(base int64) *image {
	im := &image{
		segs: []Segment{
			{0, 0xa0000, base},
			{0x100000, 3 << 20, base + 0xa0000},
			{0x100000 + 3<<20, 1 << 20, base + 8<<20},
			{4 << 30, 2 << 20, base + 0xa0000 + 3<<20},
		},
		data: map[phys.Addr][]byte{},
	}
	rnd := rand.NewChaCha8([32]byte{1})
	for i, g := range im.segs {
		b := make([]byte, g.Size)
		if i == 1 {
			_, _ = rnd.Read(b[1<<20 : 2<<20]) // zeros around it
		} else if i != 2 {
			_, _ = rnd.Read(b)
		}
		im.data[g.GPA] = b
	}
	return im
}

func TestRawMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raw")
	im := newImage(0)
	im.write(t, path)
	reversed := []Segment{im.segs[3], im.segs[1], im.segs[0], im.segs[2]}
	src, err := Open(t.Context(), path, Options{Raw: true, Segments: reversed})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer src.Close()
	hvtest.TestMemory(t, func(t *testing.T) hv.Memory { return open(t, src) }, hvtest.Options{Want: im})
	if regs, err := src.Registers(t.Context()); err != nil || len(regs) != 0 {
		t.Errorf("Registers() = %v, %v; want none", regs, err)
	}
	if got := src.Identity(); got != (hv.Identity{Name: "raw"}) {
		t.Errorf("Identity() = %+v; want only the file's name", got)
	}
	m := open(t, src)
	defer m.Close()
	set, known, err := m.Populated(t.Context())
	if err != nil || !known {
		t.Fatalf("Populated() = %v, %v; want it known", known, err)
	}
	// The second segment's middle third is data, its ends and the third segment are holes.
	if set.Has(phys.Addr(0x100000).PFN()) || !set.Has(phys.Addr(0x200000).PFN()) || set.Has(phys.Addr(0x400000).PFN()) {
		t.Errorf("Populated() = %v; want the file's data only", set)
	}
}

func open(t *testing.T, src hv.Source) hv.Memory {
	t.Helper()
	m, err := src.OpenMemory(t.Context(), hv.MechanismAuto)
	if err != nil {
		t.Fatalf("OpenMemory failed: %v", err)
	}
	return m
}

// TestCloseOrder: a memory outlives the source that it came from.
func TestCloseOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raw")
	im := newImage(0)
	im.write(t, path)
	src, err := Open(t.Context(), path, Options{Raw: true, Segments: im.segs})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	m := open(t, src)
	for range 2 {
		if err := src.Close(); err != nil {
			t.Fatalf("Close() of the source failed: %v", err)
		}
	}
	if err := m.ReadPhys(t.Context(), make([]byte, 8), 0); err != nil {
		t.Errorf("ReadPhys after Close of the source failed: %v", err)
	}
	if _, err := src.OpenMemory(t.Context(), hv.MechanismAuto); !errors.Is(err, os.ErrClosed) {
		t.Errorf("OpenMemory after Close = %v; want %v", err, os.ErrClosed)
	}
	if err := m.Close(); err != nil {
		t.Errorf("Close() of the memory failed: %v", err)
	}
}

func TestRawRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		segs []Segment
		say  string
	}{
		{"none", []Segment{}, "0 ranges"},
		{"too long for the file", []Segment{{0, 1<<20 + 4096, 0}}, "at 0x0+0x101000"},
		{"offset past the file", []Segment{{0, 4096, 2 << 20}}, "ends at 0x100000"},
		{"negative offset", []Segment{{0, 4096, -4096}}, "ends at 0x100000"},
		{"offset that overflows", []Segment{{0, 8192, 1<<63 - 4096}}, "ends at 0x100000"},
		{"half a page", []Segment{{0, 2048, 0}}, "whole pages"},
		{"unaligned", []Segment{{2048, 4096, 0}}, "whole pages"},
		{"empty", []Segment{{0, 0, 0}}, "whole pages"},
		{"past the address space", []Segment{{phys.MaxAddr - 4096, 8192, 0}}, "address space"},
		{"size that overflows", []Segment{{4096, ^uint64(0) &^ 4095, 0}}, "address space"},
		{"overlap", []Segment{{0, 8192, 0}, {4096, 8192, 8192}}, "overlaps"},
		{"twice", []Segment{{0, 4096, 0}, {0, 4096, 4096}}, "overlaps"},
	}
	for _, tt := range tests {
		_, err := Open(t.Context(), path, Options{Raw: true, Segments: tt.segs})
		if !errors.Is(err, hv.ErrFormat) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("Open with %s = %v; want %v saying %q", tt.name, err, hv.ErrFormat, tt.say)
		}
	}
	if _, err := Open(t.Context(), t.TempDir(), Options{Raw: true, Segments: []Segment{{0, 4096, 0}}}); !isRefusal(err) {
		t.Errorf("Open of a folder = %v; want a refusal", err)
	}
	if _, err := Open(t.Context(), path+"x", Options{Raw: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of no file = %v; want %v", err, os.ErrNotExist)
	}
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*input.Refusal](err)
	return ok
}

// TestTruncatedUnderUs: a file that shrinks while it is read ends the reading: it is
// no gap that a dump may have instead.
func TestTruncatedUnderUs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raw")
	im := newImage(0)
	im.write(t, path)
	src, err := Open(t.Context(), path, Options{Raw: true, Segments: im.segs})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer src.Close()
	m := open(t, src)
	defer m.Close()
	if err := os.Truncate(path, 0x2800); err != nil {
		t.Fatal(err)
	}
	err = m.ReadPhys(t.Context(), make([]byte, 0x4000), 0)
	if !errors.Is(err, input.ErrShrunk) || phys.IsGap(err) || !strings.Contains(err.Error(), "0x2800") {
		t.Errorf("ReadPhys of a file cut to 0x2800 bytes = %v; want %v at 0x2800, and no gap", err, input.ErrShrunk)
	}
}

// TestRealCore reads a core that QEMU 7.2 wrote of one page of a guest whose first
// processor had a value of its own in every register.
func TestRealCore(t *testing.T) {
	src, err := Open(t.Context(), "testdata/qemu-7.2.core", Options{})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer src.Close()
	regs, err := src.Registers(t.Context())
	if err != nil || len(regs) != 2 {
		t.Fatalf("Registers() = %d processors, %v; want 2", len(regs), err)
	}
	data := phys.Segment{Selector: 0x20, Limit: 0xffffffff, Flags: 0x00cf9300}
	fs := phys.Segment{Selector: 0x10, Limit: 0xffffffff, Flags: 0x00cf9300}
	gs := fs
	gs.Base = 0xfffff80012345000
	want := phys.Registers{
		RAX: 0xa0a1a2a3a4a5a6a7, RBX: 0xb0b1b2b3b4b5b6b7, RCX: 0xc0c1c2c3c4c5c6c7, RDX: 0xd0d1d2d3d4d5d6d7,
		RSI: 0x5051525354555657, RDI: 0xd8d9dadbdcdddedf, RBP: 0xb8b9babbbcbdbebf, RSP: 0x300000,
		R8: 0x0808080808080808, R9: 0x0909090909090909, R10: 0x1010101010101010, R11: 0x1111111111111111,
		R12: 0x1212121212121212, R13: 0x1313131313131313, R14: 0x1414141414141414, R15: 0x1515151515151515,
		RIP: regs[0].RIP, RFLAGS: 0x46,
		CS: phys.Segment{Selector: 0x10, Limit: 0xffffffff, Flags: 0x00af9b00},
		DS: data, ES: data, SS: data, FS: fs, GS: gs,
		LDT: phys.Segment{Limit: 0xffff, Flags: 0x8200},
		TR:  phys.Segment{Selector: 0x28, Base: 0x4000, Limit: 0x1067, Flags: 0x8900},
		GDT: regs[0].GDT, IDT: phys.DescriptorTable{Base: 0x290000, Limit: 0xfff},
		CR0: 0x80010013, CR3: 0x280000, CR4: 0x40620,
		HasKernelGSBase: true, KernelGSBase: 0xfffff8016789a000,
	}
	if diff := cmp.Diff(want, regs[0]); diff != "" {
		t.Errorf("processor 0 (-want +got):\n%s", diff)
	}
	// Both are wherever the assembler put them, in the program's page.
	if regs[0].RIP>>12 != 0x200 || regs[0].GDT.Base>>12 != 0x200 || regs[0].GDT.Limit != 0x37 {
		t.Errorf("RIP, GDT = %#x, %+v; want them in the page at 0x200000", regs[0].RIP, regs[0].GDT)
	}
	if regs[1].CPU != 1 || !regs[1].HasKernelGSBase {
		t.Errorf("processor 1 = %+v; want its index and KernelGSBase", regs[1])
	}
	m := open(t, src)
	defer m.Close()
	if diff := cmp.Diff(phys.Runs{{Base: 0x200, Pages: 1}}, m.RAM()); diff != "" {
		t.Errorf("RAM() (-want +got):\n%s", diff)
	}
	magic := make([]byte, 4) // the program began with a multiboot header
	if err := m.ReadPhys(t.Context(), magic, 0x200000); err != nil || binary.LittleEndian.Uint32(magic) != 0x1BADB002 {
		t.Errorf("ReadPhys(0x200000) = % x, %v; want the multiboot magic", magic, err)
	}
	if _, err := src.OpenMemory(t.Context(), hv.MechanismDirect); !errors.Is(err, hv.ErrUnsupported) {
		t.Errorf("OpenMemory(direct) of a file = %v; want %v", err, hv.ErrUnsupported)
	}
}

// TestRawMaps: the maps of an image are those that its size allows, each has all of
// the image in it once, and none has memory in its hole.
func TestRawMaps(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		size int64
		want []phys.Addr // where the hole begins, 0 for none
	}{
		{0, nil},
		{100, nil},
		{2 * gib, []phys.Addr{0}},
		{0xb0000000, []phys.Addr{0, 2 * gib}},
		{3*gib + 4096, []phys.Addr{0, 2 * gib, 3 * gib, 0xb0000000}},
		{4 * gib, []phys.Addr{0, 2 * gib, 3 * gib, 0xe0000000, 0xb0000000, 0xf8000000}},
		{1 << 40, []phys.Addr{0, 2 * gib, 3 * gib, 0xe0000000, 0xb0000000, 0xf8000000}},
	} {
		var got []phys.Addr
		for _, m := range RawMaps(tt.size) {
			var sum uint64
			hole := phys.Addr(0)
			for i, g := range m.Segments {
				if uint64(g.FileOffset) != sum || g.check(tt.size) != nil {
					t.Errorf("map %s of %d bytes: %+v", m.Name, tt.size, g)
				}
				sum += g.Size
				if i == 1 {
					hole = m.Segments[0].end()
					if g.GPA != 4*gib {
						t.Errorf("map %s of %d bytes goes on at %#x", m.Name, tt.size, uint64(g.GPA))
					}
				}
			}
			if sum != uint64(tt.size)&^4095 {
				t.Errorf("map %s of %d bytes has %d", m.Name, tt.size, sum)
			}
			got = append(got, hole)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("holes of the maps of %d bytes (-want +got):\n%s", tt.size, diff)
		}
	}
}
