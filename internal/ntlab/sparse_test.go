package ntlab

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"snap/phys"
)

// TestSparseAgainstModel holds reads and writes against a flat array.
func TestSparseAgainstModel(t *testing.T) {
	const pages = 3 * chunkPages / 2
	ram := phys.Runs{{Base: 0, Pages: pages}}
	rapid.Check(t, func(t *rapid.T) {
		s := newSparse(pages)
		model := make([]byte, pages*phys.PageSize)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			at := rapid.Uint64Range(0, uint64(len(model))-1).Draw(t, "at")
			n := rapid.Uint64Range(0, min(5*phys.PageSize, uint64(len(model))-at)).Draw(t, "n")
			if rapid.Bool().Draw(t, "write") {
				b := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, int(n))
				s.write(phys.Addr(at), b)
				copy(model[at:], b)
				continue
			}
			got := bytes.Repeat([]byte{0xEE}, int(n))
			if err := s.read(t.Context(), ram, got, phys.Addr(at)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, model[at:at+n]) {
				t.Fatalf("read(%#x, %#x) is not what was written", at, n)
			}
		}
	})
}

func TestReadOutsideOfRAM(t *testing.T) {
	g := build(t, Config{Memory: 256 * mib})
	p := make([]byte, 0x2000)
	for _, at := range []phys.Addr{0x9F000, 0xA0000, 0xBF000, 256*mib - 0x1000, 256 * mib, phys.MaxAddr - 0x1000, ^phys.Addr(0)} {
		if err := g.im.ReadPhys(t.Context(), p, at); !errors.Is(err, phys.ErrNotRAM) {
			t.Errorf("ReadPhys(8 KiB at %#x) = %v; want ErrNotRAM", at, err)
		}
		if err := g.im.WritePhys(at, p); !errors.Is(err, phys.ErrNotRAM) {
			t.Errorf("WritePhys(8 KiB at %#x) = %v; want ErrNotRAM", at, err)
		}
	}
}

func TestFill(t *testing.T) {
	g := build(t, Config{Seed: 5})
	before := g.im.Populated()
	const size = 32 * mib
	if err := g.im.Fill(size, Mix{Zero: 2, Text: 1, Structures: 1, Random: 1}); err != nil {
		t.Fatal(err)
	}
	filled := g.im.Populated().Minus(before)
	if got := filled.Pages(); got != size>>phys.PageShift {
		t.Fatalf("Fill took %d pages; want %d that were free", got, size>>phys.PageShift)
	}
	whole, part := make([]byte, phys.PageSize), make([]byte, 100)
	zero := make([]byte, phys.PageSize)
	var zeros uint64
	for _, r := range filled {
		for p := r.Base; p < r.End(); p++ {
			if err := g.im.ReadPhys(t.Context(), whole, p.Addr()); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(whole, zero) {
				zeros++
			}
		}
	}
	if want := filled.Pages() * 2 / 5; zeros < want*9/10 || zeros > want*11/10 {
		t.Errorf("%d zero pages of %d; want about %d", zeros, filled.Pages(), want)
	}

	at := filled[len(filled)-1].Base.Addr() + 123
	if err := g.im.ReadPhys(t.Context(), part, at); err != nil {
		t.Fatal(err)
	}
	if err := g.im.ReadPhys(t.Context(), whole, at-123); err != nil || !bytes.Equal(part, whole[123:223]) {
		t.Error("part of a filled page differs from the whole")
	}
	if err := g.im.WritePhys(at, []byte{part[0] ^ 1}); err != nil {
		t.Fatal(err)
	}
	whole[123] ^= 1
	after := make([]byte, phys.PageSize)
	if err := g.im.ReadPhys(t.Context(), after, at-123); err != nil || !bytes.Equal(after, whole) {
		t.Error("writing one byte of a filled page changed others")
	}
	if err := g.im.Fill(1<<40, Mix{Zero: 1}); !errors.Is(err, errNoMemory) {
		t.Errorf("Fill of more than there is = %v", err)
	}
	if got := g.im.freeRuns(); len(got) != 0 {
		t.Errorf("a full guest has free pages: %v", got)
	}
	if _, err := g.im.AllocPages(1); !errors.Is(err, errNoMemory) {
		t.Errorf("AllocPages in a full guest = %v", err)
	}
	if err := g.im.Fill(0, Mix{}); err == nil {
		t.Error("Fill with no proportions succeeded")
	}
}

func TestAllocatedPages(t *testing.T) {
	g := build(t, Config{Seed: 6})
	before := g.im.Populated()
	va, err := g.im.AllocPages(40)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 40*phys.PageSize)
	stream(1, 1).fill(want)
	if err := g.im.WriteVirt(va, want); err != nil {
		t.Fatal(err)
	}
	if got := g.bytes(uint64(va), len(want)); !bytes.Equal(got, want) {
		t.Error("what was written to fresh pages is not there")
	}
	for _, p := range g.im.Truth.Processes {
		if got := (guest{t, g.im, uint64(p.DirectoryTableBase)}).bytes(uint64(va), 0x2000); !bytes.Equal(got, want[:0x2000]) {
			t.Errorf("%s does not see fresh kernel pages", p.Name)
		}
	}
	var neighbours int
	for i := range uint64(40) {
		at, _ := walk(t, g.im, g.root, uint64(va)+i<<12)
		next, _ := walk(t, g.im, g.root, uint64(va)+min(i+1, 39)<<12)
		if before.Has(phys.Addr(at).PFN()) {
			t.Errorf("fresh page %d was in use", i)
		}
		if next == at+0x1000 {
			neighbours++
		}
	}
	if neighbours > 5 {
		t.Errorf("%d of 40 pages follow each other in physical memory", neighbours)
	}
}

func TestSpareIsFree(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		va, size := g.im.Spare()
		if size < 16<<10 {
			t.Errorf("%d bytes are spare; want 16 KiB", size)
		}
		if b := g.bytes(uint64(va), int(size)); !bytes.Equal(b, make([]byte, size)) {
			t.Error("the spare region holds something")
		}
		for name, at := range g.im.symbols {
			if at >= va && at < va+phys.VirtAddr(size) {
				t.Errorf("%s lies in the spare region", name)
			}
		}
		for i := range size / phys.PageSize {
			if e := leaf(t, g, uint64(va)+i*phys.PageSize); e>>63 != 0 {
				t.Fatalf("entry %#x of the spare region forbids execution", e)
			}
		}
	})
}

// leaf returns the entry that maps va.
func leaf(t *testing.T, g guest, va uint64) uint64 {
	t.Helper()
	table := g.root
	for shift := topShift(g.im); ; shift -= 9 {
		var b [8]byte
		if err := g.im.ReadPhys(t.Context(), b[:], phys.Addr(table+(va>>shift&0x1ff)*8)); err != nil {
			t.Fatal(err)
		}
		e := le.Uint64(b[:])
		if shift == 12 || e&0x80 != 0 {
			return e
		}
		table = e & 0x000ffffffffff000
	}
}

// TestReadersAndWriters is for the race detector: readers and writers of
// different pages share an image.
func TestReadersAndWriters(t *testing.T) {
	g := build(t, Config{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			p := make([]byte, phys.PageSize)
			for i := range 200 {
				at := phys.PFN(0x2000 + 4*i + w).Addr()
				if err := g.im.WritePhys(at, []byte{byte(w), byte(i)}); err != nil {
					t.Error(err)
				}
				if err := g.im.ReadPhys(t.Context(), p, at); err != nil || p[0] != byte(w) || p[1] != byte(i) {
					t.Errorf("page %#x reads %v, %v", at, p[:2], err)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkBuild(b *testing.B) {
	for b.Loop() {
		if _, err := Build(Config{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	im, err := Build(Config{Memory: 4 * gib})
	if err != nil {
		b.Fatal(err)
	}
	for name, at := range map[string]phys.Addr{"empty": 4 * gib, "filled": mib} {
		b.Run(name, func(b *testing.B) {
			if name == "filled" {
				if err := im.Fill(64*mib, Mix{Zero: 1, Text: 1, Structures: 1, Random: 1}); err != nil {
					b.Fatal(err)
				}
			}
			p := make([]byte, mib)
			b.SetBytes(mib)
			for b.Loop() {
				if err := im.ReadPhys(b.Context(), p, at); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
