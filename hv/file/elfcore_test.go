package file

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"snap/hv"
	"snap/hv/hvtest"
	"snap/input"
	"snap/phys"
)

// coreSpec is an ELF core that a test makes, in the form of the System V ABI.
type coreSpec struct {
	loads   []Segment // FileOffset is relative to where the memory begins
	notes   []byte
	extra   int // more program headers of no meaning
	xnum    bool
	machine uint16
}

// dataOffset is where the memory begins in a made core.
const dataOffset = 1 << 20

// head returns all that comes before the memory.
func (c coreSpec) head() []byte {
	le := binary.LittleEndian
	count := len(c.loads) + c.extra + 1
	phoff := uint64(elfHeaderSize + sectHeaderSize)
	notes := phoff + uint64(count)*progHeaderSize
	b := make([]byte, phoff)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 4)
	le.PutUint16(b[18:], c.machine)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], phoff)
	le.PutUint64(b[40:], elfHeaderSize)
	le.PutUint16(b[52:], elfHeaderSize)
	le.PutUint16(b[54:], progHeaderSize)
	le.PutUint16(b[56:], uint16(count))
	le.PutUint16(b[58:], sectHeaderSize)
	if c.xnum {
		le.PutUint16(b[56:], 0xffff)
		le.PutUint32(b[elfHeaderSize+44:], uint32(count))
	}
	add := func(kind uint32, off, paddr, size uint64) {
		p := make([]byte, progHeaderSize)
		le.PutUint32(p, kind)
		le.PutUint64(p[8:], off)
		le.PutUint64(p[24:], paddr)
		le.PutUint64(p[32:], size)
		b = append(b, p...)
	}
	add(4, notes, 0, uint64(len(c.notes)))
	for range c.extra {
		add(0x6ffffff0, 0, 0, 0)
	}
	for _, g := range c.loads {
		add(1, uint64(dataOffset+g.FileOffset), uint64(g.GPA), g.Size)
	}
	return append(b, c.notes...)
}

func noteOf(name string, kind uint32, desc []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, uint32(len(name)+1))
	b = le.AppendUint32(b, uint32(len(desc)))
	b = le.AppendUint32(b, kind)
	b = append(b, name...)
	b = append(b, make([]byte, 4-len(name)%4)...)
	b = append(b, desc...)
	return append(b, make([]byte, -len(desc)&3)...)
}

// cpuNote is a processor's note with its CR3.
func cpuNote(cr3 uint64, size int) []byte {
	le := binary.LittleEndian
	b := make([]byte, size)
	le.PutUint32(b, 1)
	le.PutUint32(b[4:], uint32(size))
	le.PutUint64(b[0x188+3*8:], cr3)
	return noteOf("QEMU", 0, b)
}

func writeCore(t *testing.T, c coreSpec, im *image) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "core")
	im.write(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(c.head(), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// sevens is an image of one page at gpa.
func sevens(gpa phys.Addr, off int64) *image {
	return &image{
		segs: []Segment{{gpa, phys.PageSize, dataOffset + off}},
		data: map[phys.Addr][]byte{gpa: bytes.Repeat([]byte{7}, phys.PageSize)},
	}
}

func TestELFCoreMemory(t *testing.T) {
	im := newImage(dataOffset)
	c := coreSpec{machine: 62, notes: append(noteOf("CORE", 1, make([]byte, 336)), cpuNote(0x1ad000, 0x1b8)...)}
	for _, g := range im.segs {
		g.FileOffset -= dataOffset
		c.loads = append(c.loads, g)
	}
	src, err := Open(t.Context(), writeCore(t, c, im), Options{})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer src.Close()
	hvtest.TestMemory(t, func(t *testing.T) hv.Memory { return open(t, src) }, hvtest.Options{Want: im})
	regs, err := src.Registers(t.Context())
	if err != nil || len(regs) != 1 || regs[0].CR3 != 0x1ad000 {
		t.Errorf("Registers() = %+v, %v; want one processor with CR3 0x1ad000", regs, err)
	}
}

// TestELFCoreManySegments: more program headers than the file's header can count.
func TestELFCoreManySegments(t *testing.T) {
	c := coreSpec{machine: 62, extra: 0x11000, xnum: true, loads: []Segment{{0x5000, 4096, 8 << 20}}}
	src, err := Open(t.Context(), writeCore(t, c, sevens(0x5000, 8<<20)), Options{})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer src.Close()
	m := open(t, src)
	defer m.Close()
	b := make([]byte, 1)
	if err := m.ReadPhys(t.Context(), b, 0x5fff); err != nil || b[0] != 7 {
		t.Errorf("ReadPhys(0x5fff) = %d, %v; want 7", b[0], err)
	}
}

// core32 is an ELF core of 32 bits: a note of one processor, and one range.
func core32(gpa uint32, memory []byte) []byte {
	le := binary.LittleEndian
	notes := cpuNote(0x1ad000, 0x1b8)
	b := make([]byte, 52+2*32)
	copy(b, "\x7fELF\x01\x01\x01")
	le.PutUint16(b[16:], 4)
	le.PutUint16(b[18:], 3) // EM_386
	le.PutUint32(b[28:], 52)
	le.PutUint16(b[40:], 52)
	le.PutUint16(b[42:], 32)
	le.PutUint16(b[44:], 2)
	note, load := b[52:], b[84:]
	le.PutUint32(note, 4)
	le.PutUint32(note[4:], uint32(len(b)))
	le.PutUint32(note[16:], uint32(len(notes)))
	le.PutUint32(load, 1)
	le.PutUint32(load[4:], uint32(len(b)+len(notes)))
	le.PutUint32(load[12:], gpa)
	le.PutUint32(load[16:], uint32(len(memory)))
	return append(append(b, notes...), memory...)
}

// TestELFCore32: a guest in 32-bit mode has a core of 32 bits, or one of 64 for the
// 386. Both are read: what is in it is for others to judge.
func TestELFCore32(t *testing.T) {
	sevens := bytes.Repeat([]byte{7}, phys.PageSize)
	for name, content := range map[string][]byte{
		"of 32 bits":           core32(0x5000, sevens),
		"of 64 bits for a 386": append(coreSpec{machine: 3, loads: []Segment{{0x5000, 4096, 4096 - dataOffset}}, notes: cpuNote(0x1ad000, 0x1b8)}.padded(4096), sevens...),
	} {
		path := filepath.Join(t.TempDir(), "core")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := Open(t.Context(), path, Options{})
		if err != nil {
			t.Errorf("Open of a core %s failed: %v", name, err)
			continue
		}
		defer src.Close()
		m := open(t, src)
		defer m.Close()
		b := make([]byte, phys.PageSize)
		if err := m.ReadPhys(t.Context(), b, 0x5000); err != nil || !bytes.Equal(b, sevens) {
			t.Errorf("ReadPhys of a core %s = %x…, %v; want sevens", name, b[:8], err)
		}
		if regs, err := src.Registers(t.Context()); err != nil || len(regs) != 1 || regs[0].CR3 != 0x1ad000 {
			t.Errorf("Registers() of a core %s = %+v, %v; want CR3 0x1ad000", name, regs, err)
		}
	}
}

// padded is head, made n bytes long.
func (c coreSpec) padded(n int) []byte {
	b := c.head()
	return append(b, make([]byte, n-len(b))...)
}

// TestELFCoreOverlap: ranges that overlap, as a core with paging has them, are read
// where they agree.
func TestELFCoreOverlap(t *testing.T) {
	const p = phys.PageSize
	page := func(c byte) []byte { return bytes.Repeat([]byte{c}, p) }
	content := slices.Concat(page(1), page(2), page(3), page(2), page(3), page(9))
	for _, tt := range []struct {
		name  string
		loads []Segment
		want  []byte // the first byte of each page from 0 on
		say   string
	}{
		{"same place", []Segment{{0, 3 * p, 0}, {p, p, p}, {p, 2 * p, p}}, []byte{1, 2, 3}, ""},
		{"same bytes elsewhere", []Segment{{0, 3 * p, 0}, {p, 2 * p, 3 * p}}, []byte{1, 2, 3}, ""},
		{"reaching over the end", []Segment{{0, 2 * p, 0}, {p, 3 * p, 3 * p}}, []byte{1, 2, 3, 9}, ""},
		{"in any order", []Segment{{p, 3 * p, 3 * p}, {0, 2 * p, 0}}, []byte{1, 2, 3, 9}, ""},
		{"over two", []Segment{{0, p, 0}, {p, p, 3 * p}, {2 * p, p, 2 * p}, {0, 3 * p, 0}}, []byte{1, 2, 3}, ""},
		{"other bytes", []Segment{{0, 3 * p, 0}, {2 * p, p, 5 * p}}, nil, "memory at 0x2000 is in the file twice"},
		{"other bytes within", []Segment{{0, 3 * p, 0}, {p, 2 * p, 4 * p}}, nil, "memory at 0x1000 is in the file twice"},
	} {
		var loads []Segment
		for _, g := range tt.loads {
			loads = append(loads, Segment{g.GPA, g.Size, g.FileOffset + p - dataOffset})
		}
		path := filepath.Join(t.TempDir(), "core")
		if err := os.WriteFile(path, append(coreSpec{machine: 62, loads: loads}.padded(p), content...), 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := Open(t.Context(), path, Options{})
		if tt.say != "" {
			if !errors.Is(err, hv.ErrFormat) || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("%s: Open = %v; want %v saying %q", tt.name, err, hv.ErrFormat, tt.say)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: Open failed: %v", tt.name, err)
			continue
		}
		m := open(t, src)
		var got []byte
		for i := range tt.want {
			b := make([]byte, p)
			if err := m.ReadPhys(t.Context(), b, phys.Addr(i*p)); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			got = append(got, b[0])
		}
		if !bytes.Equal(got, tt.want) || m.RAM().Pages() != uint64(len(tt.want)) {
			t.Errorf("%s: pages %v of %d; want %v", tt.name, got, m.RAM().Pages(), tt.want)
		}
		if err := errors.Join(m.Close(), src.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestFlattenBudget: ranges that claim to hold the same memory again and again are
// not compared for ever.
func TestFlattenBudget(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 1 << 26 // of nothing but a hole
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	f, err := input.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var segs []Segment
	for i := range 1 << 12 {
		segs = append(segs, Segment{0, size / 2, int64(i) * phys.PageSize})
	}
	b := &countingBody{body: &fileBody{File: f}}
	if _, err := flatten(t.Context(), b, segs); !errors.Is(err, hv.ErrFormat) || !strings.Contains(err.Error(), "than the file is long") {
		t.Errorf("flatten = %v; want %v", err, hv.ErrFormat)
	}
	if b.read > 2*size {
		t.Errorf("flatten read %d bytes of a file of %d", b.read, size)
	}
}

// countingBody counts what is read.
type countingBody struct {
	body
	read int64
}

func (b *countingBody) ReadAt(p []byte, off int64) (int, error) {
	b.read += int64(len(p))
	return b.body.ReadAt(p, off)
}

// TestELFCoreOldNote: a note from before QEMU had kernel_gs_base in it.
func TestELFCoreOldNote(t *testing.T) {
	c := coreSpec{machine: 62, loads: []Segment{{0, 4096, 0}}, notes: cpuNote(0x2000, 0x1b0)}
	src, err := Open(t.Context(), writeCore(t, c, sevens(0, 0)), Options{})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer src.Close()
	regs, err := src.Registers(t.Context())
	if err != nil || len(regs) != 1 || regs[0].HasKernelGSBase || regs[0].CR3 != 0x2000 {
		t.Errorf("Registers() = %+v, %v; want CR3 0x2000 and no KernelGSBase", regs, err)
	}
	// What the note says of itself counts, not the room that it has.
	b := make([]byte, 0x1b8)
	binary.LittleEndian.PutUint32(b, 1)
	binary.LittleEndian.PutUint32(b[4:], 0x1b0)
	if r, err := parseCPU(b); err != nil || r.HasKernelGSBase {
		t.Errorf("parseCPU of an old note with room after it = %v, %v; want no KernelGSBase", r.HasKernelGSBase, err)
	}
}

func TestELFCoreRefuses(t *testing.T) {
	one := []Segment{{0, 8192, 0}}
	good := coreSpec{machine: 62, loads: one, notes: cpuNote(0x1000, 0x1b8)}
	set := func(off int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[off] = v; return b }
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	note := elfHeaderSize + sectHeaderSize + 2*progHeaderSize
	tests := []struct {
		name   string
		spec   coreSpec
		change func([]byte) []byte
		want   error
		say    string
	}{
		{"big-endian", good, set(5, 2), ErrArch, "big-endian"},
		{"ARM", coreSpec{machine: 183, loads: one}, nil, ErrArch, "EM_AARCH64"},
		{"no memory", coreSpec{machine: 62}, nil, hv.ErrFormat, "no memory"},
		{"odd program headers", good, set(54, 32), hv.ErrFormat, "program headers"},
		{"cut in the memory", good, cut(dataOffset + 4096), hv.ErrFormat, "at 0x0+0x2000"},
		{"cut in the notes", good, cut(note + 64), hv.ErrFormat, "file ends"},
		{"cut in the headers", good, cut(note - 10), hv.ErrFormat, "file ends"},
		{"memory past the address space", coreSpec{machine: 62, loads: []Segment{{phys.MaxAddr, 8192, 0}}}, nil, hv.ErrFormat, "address space"},
		{"half a page", coreSpec{machine: 62, loads: []Segment{{0, 100, 0}}}, nil, hv.ErrFormat, "whole pages"},
		{"long note name", good, set(note+3, 0x7f), hv.ErrFormat, "exceed the segment"},
		{"long note", good, set(note+7, 0x7f), hv.ErrFormat, "exceed the segment"},
		{"short processor state", coreSpec{machine: 62, loads: one, notes: noteOf("QEMU", 0, make([]byte, 0x100))}, nil, hv.ErrFormat, "want 432"},
		{"processor state of version 2", good, set(note+12+8, 2), hv.ErrFormat, "version 2"},
		{"too many processors", coreSpec{machine: 62, loads: one, notes: bytes.Repeat(cpuNote(0, 0x1b8), maxCPUs+1)}, nil, hv.ErrFormat, "processors"},
	}
	for _, tt := range tests {
		b := tt.spec.head()
		if n := dataOffset + 8192*2; len(b) < n {
			b = append(b, make([]byte, n-len(b))...)
		}
		if tt.change != nil {
			b = tt.change(b)
		}
		path := filepath.Join(t.TempDir(), "core")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), path, Options{})
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("Open of %s = %v; want %v saying %q", tt.name, err, tt.want, tt.say)
		}
	}
}

// FuzzELFCore: no bytes make it panic, and what it accepts lies in the file.
func FuzzELFCore(f *testing.F) {
	core, err := os.ReadFile("testdata/qemu-7.2.core")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(core)
	f.Add(coreSpec{machine: 62, loads: []Segment{{0, 4096, -dataOffset}}, notes: cpuNote(1, 0x1b0)}.head())
	f.Add(coreSpec{machine: 62, xnum: true, extra: 3, loads: []Segment{{4 << 30, 4096, 0}}}.head())
	f.Add([]byte("KDUMP   "))
	f.Fuzz(func(t *testing.T, b []byte) {
		segs, found, err := readCore(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, hv.ErrFormat) && !errors.Is(err, ErrArch) {
				t.Errorf("readCore = %v; want a classed error", err)
			}
			return
		}
		if len(segs) == 0 || len(found.regs) > maxCPUs || len(found.published) > hv.MaxPublished {
			t.Errorf("readCore found %d ranges, %d processors and a note of %d bytes", len(segs), len(found.regs), len(found.published))
		}
		for _, g := range segs {
			if g.check(int64(len(b))) == nil && uint64(len(b)) < uint64(g.FileOffset)+g.Size {
				t.Errorf("%+v passes for a file of %d bytes", g, len(b))
			}
		}
	})
}
