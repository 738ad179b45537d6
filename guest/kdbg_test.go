package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"math/rand/v2"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// realBlocks are the blocks of real dumps, in plain form.
func realBlocks(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, name := range []string{"kdbg_19041_amd64.bin", "kdbg_22000_arm64.bin"} {
		b, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = b
	}
	return out
}

// encodeAsWindows encodes a block with the kernel's own three secrets, in the
// form that QEMU's contrib/elf2dmp undoes.
func encodeAsWindows(block []byte, never, always, flagAddr uint64) []byte {
	out := make([]byte, len(block))
	for i := 0; i < len(block); i += 8 {
		p := binary.LittleEndian.Uint64(block[i:])
		e := bits.RotateLeft64(bits.ReverseBytes64(p^always)^flagAddr, -int(never&63)) ^ never
		binary.LittleEndian.PutUint64(out[i:], e)
	}
	return out
}

// flatMemory is virtual memory without page tables: bytes from a base on.
type flatMemory struct {
	base phys.VirtAddr
	b    []byte
}

func (m flatMemory) ReadVirt(_ context.Context, p []byte, at phys.VirtAddr) error {
	off := uint64(at - m.base)
	if at < m.base || off > uint64(len(m.b)) || uint64(len(p)) > uint64(len(m.b))-off {
		return &TranslateError{At: at, Level: 1, Err: ErrNotPresent}
	}
	copy(p, m.b[off:])
	return nil
}

const realImageSize = 0x0104_6000 // of build 19041's kernel, about what every recent one has

// search finds the blocks in memory that stands for the kernel's image.
func search(t *testing.T, mem flatMemory, kernBase phys.VirtAddr) []KDBG {
	t.Helper()
	s := newKDBGScan(mem, kernBase, realImageSize, newBudget(1))
	if err := s.scan(t.Context(), mem.base, uint64(len(mem.b))); err != nil {
		t.Fatalf("scan failed: %v", err)
	}
	return s.found
}

// matches returns all ways to read two words as the start of a block.
func (f *encodedForm) matches(e2, e3 uint64) []encodedMatch {
	var out []encodedMatch
	for n := range 64 {
		if m, ok := f.match(e2, e3, n); ok {
			out = append(out, m)
		}
	}
	return out
}

func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}

func TestEncodedKDBGIsDecodedWithoutKeys(t *testing.T) {
	for name, plain := range realBlocks(t) {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			kernBase := phys.VirtAddr(binary.LittleEndian.Uint64(plain[0x18:]))
			for i := range 1000 {
				never, always := rng.Uint64(), rng.Uint64()
				flagAddr := uint64(kernBase) + rng.Uint64N(realImageSize)
				mem := flatMemory{kernBase + 0x1000, noise(rng, 0x2000)}
				at := rng.IntN((len(mem.b)-len(plain))/8) * 8
				copy(mem.b[at:], encodeAsWindows(plain, never, always, flagAddr))

				want := []KDBG{{At: mem.base + phys.VirtAddr(at), Block: plain, Encoded: true}}
				if got := search(t, mem, kernBase); !reflect.DeepEqual(got, want) {
					t.Fatalf("round %d, N %#x A %#x V %#x at %#x (-want +got):\n%s",
						i, never, always, flagAddr, at, cmp.Diff(want, got))
				}
			}
		})
	}
}

// The chunks of the scan must not hide a block that straddles two of them.
func TestKDBGAtChunkEdge(t *testing.T) {
	plain := realBlocks(t)["kdbg_19041_amd64.bin"]
	kernBase := phys.VirtAddr(binary.LittleEndian.Uint64(plain[0x18:]))
	rng := rand.New(rand.NewPCG(3, 4))
	encoded := encodeAsWindows(plain, rng.Uint64(), rng.Uint64(), rng.Uint64())
	for back := 0; back <= 0x40; back += 8 {
		for _, block := range [][]byte{plain, encoded} {
			mem := flatMemory{kernBase, noise(rng, scanChunk+0x2000)}
			copy(mem.b[scanChunk-back:], block)
			got := search(t, mem, kernBase)
			if len(got) != 1 || got[0].At != kernBase+phys.VirtAddr(scanChunk-back) || !bytes.Equal(got[0].Block, plain) {
				t.Errorf("block %#x bytes before the edge: found %d; want it", back, len(got))
			}
		}
	}
}

func TestNoKDBGInNoise(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, plain := range realBlocks(t) {
		kernBase := phys.VirtAddr(binary.LittleEndian.Uint64(plain[0x18:]))
		form := newEncodedForm(kernBase)
		words, hits := 0, 0
		for w2 := rng.Uint64(); words < 5_000_000; words++ {
			w3 := rng.Uint64()
			if form.may(w2, w3) {
				hits += len(form.matches(w2, w3))
			}
			w2 = w3
		}
		if hits != 0 {
			t.Errorf("%d blocks begin in %d random words; want 0", hits, words)
		}
	}
}

// The filter in front of the exact test may only let too much through.
func TestEncodedFormFilterMissesNothing(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 20 {
		base := phys.VirtAddr(0xFFFF_F800_0000_0000 | rng.Uint64()&0x7FF_FFFF_F000)
		form := newEncodedForm(base)
		for size := uint64(kdbgMinSize); size <= kdbgMaxSize; size += 8 {
			head := make([]byte, 16)
			binary.LittleEndian.PutUint64(head, size<<32|kdbgTag)
			binary.LittleEndian.PutUint64(head[8:], uint64(base))
			e := encodeAsWindows(head, rng.Uint64(), rng.Uint64(), rng.Uint64())
			e2, e3 := binary.LittleEndian.Uint64(e), binary.LittleEndian.Uint64(e[8:])
			if m := form.matches(e2, e3); !form.may(e2, e3) || len(m) != 1 || m[0].size != uint32(size) {
				t.Fatalf("size %#x, base %#x: filter says %v, matches %v; want it found", size, uint64(base), form.may(e2, e3), m)
			}
		}
	}
}

func TestPlainKDBG(t *testing.T) {
	for name, plain := range realBlocks(t) {
		kernBase := phys.VirtAddr(binary.LittleEndian.Uint64(plain[0x18:]))
		mem := flatMemory{kernBase, append(make([]byte, 0x1238), plain...)}
		mem.b = append(mem.b, make([]byte, 0x1000)...)
		want := KDBG{At: kernBase + 0x1238, Block: plain}
		if diff := cmp.Diff([]KDBG{want}, search(t, mem, kernBase)); diff != "" {
			t.Errorf("%s: search (-want +got):\n%s", name, diff)
		}
		got, err := ReadKDBG(t.Context(), mem, kernBase+0x1238)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: ReadKDBG: %v (-want +got):\n%s", name, err, diff)
		}
		if got, err := ReadKDBG(t.Context(), mem, kernBase+0x1230); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: ReadKDBG 8 bytes too early = %v, %v; want ErrMalformed", name, got, err)
		}
	}
}

// No word of a plain block may be taken for the start of an encoded one.
func TestPlainKDBGIsNotEncoded(t *testing.T) {
	for name, plain := range realBlocks(t) {
		form := newEncodedForm(phys.VirtAddr(binary.LittleEndian.Uint64(plain[0x18:])))
		for i := 0; i+16 <= len(plain); i += 8 {
			w2, w3 := binary.LittleEndian.Uint64(plain[i:]), binary.LittleEndian.Uint64(plain[i+8:])
			for _, m := range form.matches(w2, w3) {
				if i == 0x10 && m.cipher == (cipher{}) {
					continue
				}
				t.Errorf("%s: words at %#x match as %+v; want none", name, i, m)
			}
		}
	}
}

func TestForgedKDBGIsRefused(t *testing.T) {
	plain := realBlocks(t)["kdbg_19041_amd64.bin"]
	kernBase := phys.VirtAddr(binary.LittleEndian.Uint64(plain[0x18:]))
	tests := []struct {
		name   string
		off    int
		value  uint64
		length int
	}{
		{"other kernel base", 0x18, uint64(kernBase) - 0x20_0000, 0x380},
		{"size not a multiple of 8", 0x10, 0x381<<32 | kdbgTag, 0x400},
		{"size too small", 0x10, 0x200<<32 | kdbgTag, 0x380},
		{"size absurd", 0x10, 0xFFFF_FFF8<<32 | kdbgTag, 0x380},
		{"size beyond memory", 0x10, 0x1000<<32 | kdbgTag, 0x380},
		{"page size", 0x138, 0x2000, 0x380},
		{"module list in user space", 0x48, 0x7FFE_0000, 0x380},
		{"module list outside the image", 0x48, uint64(kernBase) + realImageSize, 0x380},
		{"module list before the image", 0x48, uint64(kernBase) - 16, 0x380},
		{"process list unaligned", 0x50, uint64(kernBase) + 0xC1E201, 0x380},
		{"process list not canonical", 0x50, 0x1234_5678_9ABC_DEF0, 0x380},
		{"block list null", 0x00, 0, 0x380},
	}
	for _, tt := range tests {
		forged := bytes.Clone(plain)
		binary.LittleEndian.PutUint64(forged[tt.off:], tt.value)
		forged = append(forged, make([]byte, tt.length-len(forged))...)
		for form, block := range map[string][]byte{
			"plain": forged, "encoded": encodeAsWindows(forged, 0x1122_3344_5566_7788, 99, uint64(kernBase)+7),
		} {
			if got := search(t, flatMemory{kernBase, block}, kernBase); len(got) != 0 {
				t.Errorf("%s, %s: found %d; want none", tt.name, form, len(got))
			}
		}
	}
}

// A kernel that crashes decodes its block in place, word by word. What is
// caught halfway is not a KDBG, and the error says why.
func TestHalfDecodedKDBG(t *testing.T) {
	plain := realBlocks(t)["kdbg_19041_amd64.bin"]
	kernBase := phys.VirtAddr(binary.LittleEndian.Uint64(plain[0x18:]))
	half := encodeAsWindows(plain, 0x0123_4567_89AB_CDEF, 0x1357_9BDF_0246_8ACE, uint64(kernBase)+0x123)
	copy(half, plain[:0x40])
	mem := flatMemory{kernBase, make([]byte, 0x3000)}
	copy(mem.b[0x1008:], half)
	got, err := FindKDBG(t.Context(), &Image{Base: kernBase, Size: realImageSize, mem: mem})
	if !errors.Is(err, ErrNoKDBG) || !strings.Contains(err.Error(), "decoding") || len(got) != 0 {
		t.Errorf("FindKDBG = %v, %v; want ErrNoKDBG and a word on decoding", got, err)
	}
}

func TestKDBGFields(t *testing.T) {
	end := 0
	names := map[string]bool{}
	for _, f := range kdbgFields {
		if f.Offset < end || f.Offset%f.Size != 0 || names[f.Name] {
			t.Errorf("field %s at %#x overlaps, is out of line or is there twice; the one before ends at %#x", f.Name, f.Offset, end)
		}
		if hole := f.Offset - end; hole > 6 {
			t.Errorf("%d bytes before %s belong to no field", hole, f.Name)
		}
		end = f.Offset + f.Size
		names[f.Name] = true
	}
	if end != 0x3A8 {
		t.Errorf("the fields end at %#x; want 0x3a8, the newest block's size", end)
	}

	// What the debugger reads in the real blocks.
	blocks := realBlocks(t)
	x64 := KDBG{Block: blocks["kdbg_19041_amd64.bin"]}
	arm := KDBG{Block: blocks["kdbg_22000_arm64.bin"]}
	tests := []struct {
		k    KDBG
		name string
		want uint64
		ok   bool
	}{
		{x64, "Size", 0x380, true},
		{x64, "KernBase", 0xFFFF_F804_7BA0_0000, true},
		{x64, "MmPageSize", 0x1000, true},
		{x64, "SizeEProcess", 0xA40, true},
		{x64, "OffsetEprocessDirectoryTableBase", 0x28, true},
		{x64, "OffsetPrcbNumber", 0x24, true},
		{x64, "OffsetPrcbProcStateContext", 0x1F0, true},
		{x64, "SizePcr", 0xB080, true},
		{x64, "OffsetPcrContainedPrcb", 0x180, true},
		{x64, "GdtR3Code", 0x33, true},
		{x64, "OffsetPrcbContext", 0x85C0, true},
		{x64, "OffsetKThreadStackBase", 0x38, true},
		{x64, "PteBase", 0xFFFF_FD80_0000_0000, true},
		{x64, "OffsetKThreadShadowStackLimit", 0, false},
		{x64, "NoSuchField", 0, false},
		{arm, "SizePrcb", 0x9680, true},
		{arm, "OffsetPrcbContext", 0x8A0, true},
		{arm, "OffsetEProcessMmHotPatchContext", 0xAB8, true},
		{KDBG{Block: x64.Block[:0x318]}, "OffsetPrcbContext", 0, false},
		{KDBG{Block: x64.Block[:0x318]}, "IopTriageDumpDataBlocks", 0xFFFF_F804_7C64_5FC0, true},
	}
	for _, tt := range tests {
		if got, ok := tt.k.Value(tt.name); got != tt.want || ok != tt.ok {
			t.Errorf("Value(%s) = %#x, %v; want %#x, %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

func FuzzKDBG(f *testing.F) {
	for _, plain := range realBlocks(f) {
		f.Add(plain, plain[0x18:0x20])
		f.Add(encodeAsWindows(plain, 0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210, 0xFFFF_F804_7C60_1234), plain[0x18:0x20])
	}
	f.Fuzz(func(t *testing.T, b, rawBase []byte) {
		if len(rawBase) < 8 {
			return
		}
		base := phys.VirtAddr(binary.LittleEndian.Uint64(rawBase)) | 0xFFFF_8000_0000_0000
		mem := flatMemory{base.Page(), b[:len(b)&^7]}
		s := newKDBGScan(mem, base.Page(), realImageSize, newBudget(1))
		if err := s.scan(t.Context(), mem.base, uint64(len(mem.b))); err != nil {
			t.Fatalf("scan failed: %v", err)
		}
		for _, k := range s.found {
			if k.KernBase() != base.Page() || len(k.Block) != int(k.u32(kdbgSize)) || k.check(AMD64(), realImageSize) != nil {
				t.Errorf("found %+v, which is no KDBG of the kernel at %#x", k, uint64(base.Page()))
			}
			for _, field := range kdbgFields {
				k.Value(field.Name)
			}
		}
		if k, err := ReadKDBG(t.Context(), mem, mem.base); err == nil && !kdbgSizeOK(uint32(len(k.Block))) {
			t.Errorf("ReadKDBG returned %d bytes", len(k.Block))
		}
	})
}

func BenchmarkKDBGScan(b *testing.B) {
	rng := rand.New(rand.NewPCG(9, 10))
	mem := flatMemory{0xFFFF_F800_0000_0000, noise(rng, 16<<20)}
	b.SetBytes(int64(len(mem.b)))
	for b.Loop() {
		s := newKDBGScan(mem, mem.base, realImageSize, newBudget(1))
		if err := s.scan(b.Context(), mem.base, uint64(len(mem.b))); err != nil || len(s.found) != 0 {
			b.Fatal(err, s.found)
		}
	}
}
