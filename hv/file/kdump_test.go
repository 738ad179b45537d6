package file

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"snap/hv"
	"snap/hv/file/filetest"
	"snap/hv/hvtest"
	"snap/input"
	"snap/phys"
)

// TestRealKdump reads what QEMU 7.2 wrote of a guest of 2 MiB, flattened and with
// zlib, inside of gzip. An ELF core that it wrote of the same guest, which stood
// still, says what is in it.
func TestRealKdump(t *testing.T) {
	core := expanded(t, "testdata/qemu-7.2-2MiB.core.gz")
	e, err := elf.NewFile(bytes.NewReader(core))
	if err != nil {
		t.Fatal(err)
	}
	src, err := Open(t.Context(), "testdata/qemu-7.2-2MiB.kdump-zlib.gz", Options{Scratch: input.Scratch{Memory: 64 << 20}})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer src.Close()
	m := open(t, src)
	defer m.Close()
	if m.Mechanism() != hv.MechanismKdump {
		t.Errorf("Mechanism() = %q; want %q", m.Mechanism(), hv.MechanismKdump)
	}
	var pages uint64
	for _, p := range e.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		pages += p.Filesz >> phys.PageShift
		want := make([]byte, p.Filesz)
		if _, err := p.ReadAt(want, 0); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, p.Filesz)
		if err := m.ReadPhys(t.Context(), got, phys.Addr(p.Paddr)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("memory at %#x+%#x: %v; want what the ELF core has", p.Paddr, p.Filesz, err)
		}
	}
	if n := m.RAM().Pages(); n != pages {
		t.Errorf("RAM() has %d pages; want the ELF core's %d", n, pages)
	}
	regs, err := src.Registers(t.Context())
	if err != nil || len(regs) != 2 || regs[0].CS.Base != 0xffff0000 || regs[0].RIP != 0xfff0 {
		t.Errorf("Registers() = %+v, %v; want two processors, the first at the reset vector", regs, err)
	}
}

// expanded returns what is in a gzip file.
func expanded(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// guestPages is memory with a hole, zeros, texts and noise.
func guestPages() map[phys.PFN][]byte {
	rnd := rand.NewChaCha8([32]byte{9})
	pages := map[phys.PFN][]byte{}
	for i := range 160 {
		p := phys.PFN(i)
		if i >= 100 {
			p += 0x100000 - 100 // from 4 GiB on
		}
		b := make([]byte, phys.PageSize)
		switch i % 4 {
		case 1:
			copy(b, bytes.Repeat([]byte("a text in the guest's memory; "), 200))
		case 2:
			_, _ = rnd.Read(b)
		case 3:
			_, _ = rnd.Read(b[:64])
		}
		pages[p] = b
	}
	return pages
}

// imageOf is the oracle of pages.
func imageOf(pages map[phys.PFN][]byte) *image {
	im := &image{data: map[phys.Addr][]byte{}}
	for p, b := range pages {
		im.segs = append(im.segs, Segment{GPA: p.Addr(), Size: phys.PageSize})
		im.data[p.Addr()] = b
	}
	return im
}

func writeFile(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestKdump reads every form of the format.
func TestKdump(t *testing.T) {
	pages := guestPages()
	good := filetest.Kdump{Version: 6, Machine: "x86_64", Pages: pages, Store: filetest.StoreZlib, Notes: cpuNote(0x1ad000, 0x1b8)}
	with := func(change func(k *filetest.Kdump)) []byte {
		k := good
		change(&k)
		return k.Bytes()
	}
	low := map[phys.PFN][]byte{}
	for p, b := range pages {
		if p < 0x1000 {
			low[p] = b
		}
	}
	for name, b := range map[string][]byte{
		"zlib":   good.Bytes(),
		"lzo":    with(func(k *filetest.Kdump) { k.Store = filetest.StoreLZO }),
		"snappy": with(func(k *filetest.Kdump) { k.Store = filetest.StoreSnappy }),
		"zstd":   with(func(k *filetest.Kdump) { k.Store = filetest.StoreZstd }),
		"mixed": with(func(k *filetest.Kdump) {
			all := []func(phys.PFN, []byte) ([]byte, uint32){filetest.StoreZlib, filetest.StoreLZO, filetest.StoreSnappy, filetest.StoreZstd}
			k.Store = func(p phys.PFN, page []byte) ([]byte, uint32) { return all[p%4](p, page) }
		}),
		"one bitmap":            with(func(k *filetest.Kdump) { k.Single = true }),
		"version 4":             with(func(k *filetest.Kdump) { k.Version = 4 }),
		"of a 32-bit guest":     with(func(k *filetest.Kdump) { k.Narrow = true; k.Machine = "i686" }),
		"flattened":             filetest.Flatten(good.Bytes(), 16<<10, false),
		"flattened, any order":  filetest.Flatten(good.Bytes(), 5000, true),
		"flattened, small bits": filetest.Flatten(good.Bytes(), 77, false),
	} {
		src, err := Open(t.Context(), writeFile(t, b), Options{})
		if err != nil {
			t.Errorf("%s: Open failed: %v", name, err)
			continue
		}
		regs, err := src.Registers(t.Context())
		if err != nil || len(regs) != 1 || regs[0].CR3 != 0x1ad000 {
			t.Errorf("%s: Registers() = %+v, %v; want CR3 0x1ad000", name, regs, err)
		}
		t.Run(name, func(t *testing.T) {
			hvtest.TestMemory(t, func(t *testing.T) hv.Memory { return open(t, src) }, hvtest.Options{Want: imageOf(pages)})
		})
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestKdumpRefuses(t *testing.T) {
	good := filetest.Kdump{Version: 6, Machine: "x86_64", Pages: guestPages(), Store: filetest.StoreZlib, Notes: cpuNote(0x1ad000, 0x1b8)}
	with := func(change func(k *filetest.Kdump)) []byte {
		k := good
		change(&k)
		return k.Bytes()
	}
	edit := func(off int, v ...byte) []byte { b := good.Bytes(); copy(b[off:], v); return b }
	flat := filetest.Flatten(good.Bytes(), 16<<10, false)
	flatEdit := func(off int, v ...byte) []byte { b := bytes.Clone(flat); copy(b[off:], v); return b }
	twice := bytes.Clone(flat[:len(flat)-16])
	twice = append(append(twice, flat[4096:4096+16+16<<10]...), flat[len(flat)-16:]...)
	for _, tt := range []struct {
		name string
		file []byte
		want error // nil for a refusal
		say  string
	}{
		{"another machine", with(func(k *filetest.Kdump) { k.Machine = "aarch64" }), ErrArch, "aarch64"},
		{"incomplete", with(func(k *filetest.Kdump) { k.Status = 8 }), hv.ErrFormat, "incomplete"},
		{"split", with(func(k *filetest.Kdump) { k.Split = 1 }), nil, "one part of"},
		{"a newer version", with(func(k *filetest.Kdump) { k.Version = 7 }), hv.ErrUnsupported, "version 7"},
		{"other blocks", edit(428, 0, 0x20), hv.ErrFormat, "want 4096"},
		{"many second headers", edit(432, 0xff, 0xff, 0xff, 0xff), hv.ErrFormat, "second header"},
		{"no second header", edit(432, 0, 0, 0, 0), hv.ErrFormat, "second header"},
		{"a short bitmap", edit(436, 1, 0, 0, 0), hv.ErrFormat, "bitmap"},
		{"a long bitmap", edit(436, 0xff, 0xff, 0xff, 0x7f), hv.ErrFormat, "cut short"},
		{"endless memory", edit(4096+96, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f), hv.ErrFormat, "memory up to"},
		{"no memory", edit(4096+96, 0, 0, 0, 0, 0, 0, 0, 0), hv.ErrFormat, "memory up to"},
		{"long notes", edit(4096+56, 0, 0, 0, 0, 1), hv.ErrFormat, "notes"},
		{"cut in the headers", good.Bytes()[:5000], hv.ErrFormat, "cut short"},
		{"cut in the descriptors", good.Bytes()[:(1+2+33*2)*4096+100], hv.ErrFormat, "cut short"},
		{"flattened, cut", flat[:len(flat)-16], hv.ErrFormat, "cut short"},
		{"flattened, cut in a record", flat[:len(flat)/2], hv.ErrFormat, "cut short"},
		{"flattened, in another form", flatEdit(23, 2), hv.ErrFormat, "form 2"},
		{"flattened, negative offset", flatEdit(4096, 0x80), hv.ErrFormat, "record 0"},
		{"flattened, empty record", flatEdit(4096+8, 0, 0, 0, 0, 0, 0, 0, 0), hv.ErrFormat, "record 0"},
		{"flattened twice over", twice, nil, "written twice"},
		{"flattened text", filetest.Flatten([]byte(strings.Repeat("text ", 100)), 50, false), ErrUnknown, "74 65 78 74"},
		{"flattened within", filetest.Flatten(flat, 1<<20, false), ErrUnknown, "6d 61 6b 65"},
	} {
		_, err := Open(t.Context(), writeFile(t, tt.file), Options{})
		if tt.want == nil && !isRefusal(err) || tt.want != nil && !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: Open = %v; want %v saying %q", tt.name, err, tt.want, tt.say)
		}
	}
}

// TestKdumpDamagedPage: a page that can't be expanded is a gap; its neighbours are
// read.
func TestKdumpDamagedPage(t *testing.T) {
	pages := guestPages()
	for name, store := range map[string]func(phys.PFN, []byte) ([]byte, uint32){
		"zlib": filetest.StoreZlib, "lzo": filetest.StoreLZO, "snappy": filetest.StoreSnappy, "zstd": filetest.StoreZstd,
		"flags": func(phys.PFN, []byte) ([]byte, uint32) { return []byte{1, 2, 3}, 0x7f },
		"short": func(phys.PFN, []byte) ([]byte, uint32) { return []byte{1, 2, 3}, 0 },
	} {
		k := filetest.Kdump{Version: 6, Pages: pages, Store: func(p phys.PFN, page []byte) ([]byte, uint32) {
			if p != 5 {
				return filetest.StoreZlib(p, page)
			}
			b, flags := store(p, page)
			return b[:len(b)/2], flags
		}}
		src, err := Open(t.Context(), writeFile(t, k.Bytes()), Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := open(t, src)
		b := make([]byte, 3*phys.PageSize)
		var access *phys.AccessError
		if err := m.ReadPhys(t.Context(), b, 4*phys.PageSize); !errors.As(err, &access) || access.At != 5*phys.PageSize {
			t.Errorf("%s: ReadPhys over a damaged page = %v; want an error at it", name, err)
		}
		if err := m.ReadPhys(t.Context(), b[:phys.PageSize], 6*phys.PageSize); err != nil || !bytes.Equal(b[:phys.PageSize], pages[6]) {
			t.Errorf("%s: ReadPhys of the next page = %v", name, err)
		}
		if err := errors.Join(m.Close(), src.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestLZO: matches of all kinds, as the format's documentation has them, overlapping
// ones too.
func TestLZO(t *testing.T) {
	page := make([]byte, phys.PageSize)
	copy(page, "abcd")
	for i := 4; i < len(page); i++ {
		page[i] = page[i-4]
	}
	// Four literals (17+4), then a match of distance 4 as long as the rest (M3: the
	// length is 31+2 and 255 for each zero and a last byte, distance-1 is in the
	// upper 14 bits of two), then the end.
	rest := len(page) - 4 - 33
	b := []byte{17 + 4, 'a', 'b', 'c', 'd', 0x20}
	for ; rest > 255; rest -= 255 {
		b = append(b, 0)
	}
	b = append(b, byte(rest), 3<<2, 0, 0x11, 0, 0)
	got, err := expandPage(b, kdumpLZO)
	if err != nil || !bytes.Equal(got, page) {
		t.Errorf("expandPage = %q…, %v; want abcd over and over", got[:min(16, len(got))], err)
	}
}

// TestKdumpSparse: a core of 16 TiB that is a hole but for its ends is opened and
// read by an index of its size in bits.
func TestKdumpSparse(t *testing.T) {
	const top = 16 << 40 >> phys.PageShift
	k := filetest.Kdump{Version: 6, Store: filetest.StoreZlib, Pages: map[phys.PFN][]byte{0: make([]byte, phys.PageSize), 1: bytes.Repeat([]byte{7}, phys.PageSize)}}
	b := k.Bytes()
	le := binary.LittleEndian
	const bitmap = top / 8 / phys.PageSize
	le.PutUint32(b[436:], 2*bitmap)
	le.PutUint64(b[4096+96:], top)
	path := writeFile(t, b[:2*4096])
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	at := int64(2+2*bitmap) * 4096
	var descs []byte
	zero, _ := filetest.StoreZlib(0, make([]byte, phys.PageSize))
	seven, _ := filetest.StoreZlib(0, k.Pages[1])
	for i, s := range [][]byte{zero, seven} {
		descs = le.AppendUint64(descs, uint64(at)+2*24+uint64(i*len(zero)))
		descs = le.AppendUint32(descs, uint32(len(s)))
		descs = le.AppendUint32(descs, 1)
		descs = le.AppendUint64(descs, 0)
	}
	_, err1 := f.WriteAt(slices.Concat(descs, zero, seven), at)
	_, err2 := f.WriteAt([]byte{1}, int64(2+bitmap)*4096)                  // page 0
	_, err3 := f.WriteAt([]byte{0x80}, int64(2+bitmap)*4096+bitmap*4096-1) // the last page
	if err := errors.Join(err1, err2, err3, f.Close()); err != nil {
		t.Fatal(err)
	}
	src, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer src.Close()
	m := open(t, src)
	defer m.Close()
	c := make([]byte, 8)
	if err := m.ReadPhys(t.Context(), c, (top-1)<<phys.PageShift); err != nil || c[0] != 7 {
		t.Errorf("ReadPhys of the last page = %v, %v; want sevens", c, err)
	}
}

// bytesBody is a file of these bytes.
type bytesBody struct {
	body
	*bytes.Reader
}

func (b bytesBody) Size() int64                             { return b.Reader.Size() }
func (b bytesBody) Name() string                            { return "f" }
func (b bytesBody) ReadAt(p []byte, off int64) (int, error) { return b.Reader.ReadAt(p, off) }

// fuzzed opens bytes as a format, and reads some of what it says is there.
func fuzzed(t *testing.T, k format, b []byte) {
	src, err := k.open(t.Context(), bytesBody{Reader: bytes.NewReader(b)}, Options{})
	if err != nil {
		if !errors.Is(err, hv.ErrFormat) && !errors.Is(err, hv.ErrUnsupported) && !errors.Is(err, ErrArch) && !isRefusal(err) {
			t.Errorf("open = %v; want a classed error", err)
		}
		return
	}
	m := &memory{source: src.(*source)}
	p := make([]byte, 2*phys.PageSize)
	for i, r := range m.RAM() {
		if i == 8 {
			break
		}
		for _, base := range []phys.PFN{r.Base, r.End() - 1} {
			n := min(uint64(len(p)), uint64((r.End() - base).Addr()))
			err := m.ReadPhys(context.Background(), p[:n], base.Addr())
			if err != nil && !phys.IsGap(err) {
				t.Errorf("ReadPhys(%#x) = %v; want a gap", uint64(base.Addr()), err)
			}
		}
	}
}

func FuzzKdump(f *testing.F) {
	few := map[phys.PFN][]byte{}
	for p, b := range guestPages() {
		if p < 6 {
			few[p] = b
		}
	}
	for _, store := range []func(phys.PFN, []byte) ([]byte, uint32){filetest.StoreZlib, filetest.StoreLZO, filetest.StoreSnappy, filetest.StoreZstd} {
		f.Add(filetest.Kdump{Version: 6, Machine: "x86_64", Pages: few, Store: store}.Bytes())
	}
	f.Add(filetest.Kdump{Version: 6, Narrow: true, Pages: few, Store: filetest.StoreZlib, Notes: cpuNote(1, 0x1b8)}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, kdump(), b) })
}

func FuzzFlattened(f *testing.F) {
	few := map[phys.PFN][]byte{0: make([]byte, phys.PageSize)}
	k := filetest.Kdump{Version: 6, Machine: "x86_64", Pages: few, Store: filetest.StoreZlib}.Bytes()
	f.Add(filetest.Flatten(k, 4096, false))
	f.Add(filetest.Flatten(k, 1000, true))
	f.Fuzz(func(t *testing.T, b []byte) { fuzzed(t, flattened(), b) })
}

// FuzzPage: no stored page makes its decoder panic, or a page of another size.
func FuzzPage(f *testing.F) {
	page := bytes.Repeat([]byte("page "), 820)[:phys.PageSize]
	for _, store := range []func(phys.PFN, []byte) ([]byte, uint32){filetest.StoreZlib, filetest.StoreLZO, filetest.StoreSnappy, filetest.StoreZstd} {
		b, flags := store(0, page)
		f.Add(b, flags)
	}
	f.Add([]byte{17 + 4, 'a', 'b', 'c', 'd', 0x20, 0, 0, 9, 3 << 2, 0, 0x11, 0, 0}, uint32(2))
	f.Fuzz(func(t *testing.T, b []byte, flags uint32) {
		got, err := expandPage(b, flags)
		if err == nil && len(got) != phys.PageSize || err != nil && !errors.Is(err, hv.ErrFormat) {
			t.Errorf("expandPage = %d bytes, %v", len(got), err)
		}
	})
}
