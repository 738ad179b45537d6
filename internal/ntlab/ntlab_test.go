package ntlab

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"testing"

	"snap/phys"
)

// walk is a page-table walk written apart from the builder's: it reads the
// tables as bytes of physical memory.
func walk(t *testing.T, im *Image, root, va uint64) (uint64, bool) {
	t.Helper()
	table := root & 0x000ffffffffff000
	for shift := topShift(im); ; shift -= 9 {
		var e [8]byte
		if err := im.ReadPhys(t.Context(), e[:], phys.Addr(table+(va>>shift&0x1ff)*8)); err != nil {
			t.Fatalf("table of %#x at %#x: %v", va, table, err)
		}
		v := le.Uint64(e[:])
		if v&1 == 0 {
			return 0, false
		}
		table = v & 0x000ffffffffff000
		if shift == 12 || (shift < 39 && v&0x80 != 0) {
			low := uint64(1)<<shift - 1
			return table&^low | va&low, true
		}
	}
}

// topShift is the bit of an address where the index of the top-level table begins.
func topShift(im *Image) uint {
	if im.Config.LA57 {
		return 48
	}
	return 39
}

// guest reads an image as a debugger would, by virtual address.
type guest struct {
	t    *testing.T
	im   *Image
	root uint64
}

// frames are the bits that numbers of the guest's pages have, below all that hides
// them.
func (g guest) frames() phys.PFN { return 1<<bits.Len64(uint64(g.im.RAM().End()-1)) - 1 }

func (g guest) bytes(va uint64, n int) []byte {
	g.t.Helper()
	out := make([]byte, 0, n)
	for len(out) < n {
		at, ok := walk(g.t, g.im, g.root, va)
		if !ok {
			g.t.Fatalf("%#x is not mapped", va)
		}
		p := make([]byte, min(n-len(out), int(0x1000-va&0xfff)))
		if err := g.im.ReadPhys(g.t.Context(), p, phys.Addr(at)); err != nil {
			g.t.Fatalf("read %#x (physical %#x): %v", va, at, err)
		}
		out = append(out, p...)
		va += uint64(len(p))
	}
	return out
}

func (g guest) u64(va uint64) uint64 { g.t.Helper(); return le.Uint64(g.bytes(va, 8)) }
func (g guest) u32(va uint64) uint32 { g.t.Helper(); return le.Uint32(g.bytes(va, 4)) }
func (g guest) u16(va uint64) uint16 { g.t.Helper(); return le.Uint16(g.bytes(va, 2)) }

func (g guest) symbol(name string) uint64 {
	g.t.Helper()
	va, ok := g.im.Symbol(name)
	if !ok {
		g.t.Fatalf("the image has no symbol %s", name)
	}
	return uint64(va)
}

// list follows Flinks and checks the Blinks.
func (g guest) list(head uint64) []uint64 {
	g.t.Helper()
	var out []uint64
	for prev, at := head, g.u64(head); ; prev, at = at, g.u64(at) {
		if back := g.u64(at + 8); back != prev {
			g.t.Fatalf("Blink of %#x = %#x; want %#x", at, back, prev)
		}
		if at == head {
			return out
		}
		if out = append(out, at); len(out) > 1000 {
			g.t.Fatalf("list %#x does not end", head)
		}
	}
}

func build(t *testing.T, c Config) guest {
	t.Helper()
	im, err := Build(c)
	if err != nil {
		t.Fatalf("Build(%+v): %v", c, err)
	}
	return guest{t, im, uint64(im.Truth.DirectoryTableBase)}
}

// everyKind calls f for a range of configurations.
func everyKind(t *testing.T, f func(t *testing.T, g guest)) {
	for _, c := range []Config{
		{Profile: "win10-22h2"},
		{Profile: "win10-22h2", KPTI: true},
		{Profile: "win10-22h2", KPTI: true, UserMode: true, Seed: 4},
		{Profile: "win10-22h2", UserMode: true, CPUs: 64, Seed: 5},
		{Profile: "win10-22h2", SmallPages: true, StraddleKDBG: true, Seed: 6},
		{Profile: "win10-22h2", Memory: MinMemory, PlainKDBG: true, Seed: 7},
		{Profile: "win10-22h2", Memory: 5 * gib, CPUs: 1, Machine: "i440fx", Seed: 8},
		{Profile: "win10-22h2", Memory: 1 << 40, CPUs: 512, Seed: 9},
		{Profile: "win10-22h2", LA57: true, Seed: 12},
		{Profile: "win10-22h2", LA57: true, KPTI: true, UserMode: true, Memory: 5 * gib, Seed: 13},
		{Profile: "win10-22h2", UnalignedKernel: true, TablesAbove: 96 * mib, DummySelfMap: true, HotPlug: 64 * mib, Unreadable: 5 * mib, Seed: 14},
		{Profile: "ws2003sp1-x64"},
		{Profile: "ws2003sp1-x64", StraddleKDBG: true, UserMode: true, CPUs: 64, Seed: 10},
		{Profile: "ws2003sp1-x64", Memory: 3 * gib, IdentityCPUs: true, Seed: 11},
	} {
		t.Run(fmt.Sprintf("%s-%d", c.Profile, c.Seed), func(t *testing.T) { f(t, build(t, c)) })
	}
}

func digest(im *Image) [32]byte {
	h := sha256.New()
	for p, b := range im.Pages() {
		h.Write(le.AppendUint64(nil, uint64(p)))
		h.Write(b[:])
	}
	h.Write(fmt.Appendf(nil, "%+v", im.Registers()))
	return [32]byte(h.Sum(nil))
}

func TestSeedDecidesEverything(t *testing.T) {
	for _, p := range Profiles() {
		a, b := build(t, Config{Profile: p, Seed: 3}), build(t, Config{Profile: p, Seed: 3})
		if digest(a.im) != digest(b.im) {
			t.Errorf("%s: two images of one seed differ", p)
		}
		if c := build(t, Config{Profile: p, Seed: 4}); digest(a.im) == digest(c.im) {
			t.Errorf("%s: the seed makes no difference", p)
		}
	}
}

func TestHugeImageIsCheap(t *testing.T) {
	small := build(t, Config{})
	huge := build(t, Config{Memory: 1 << 40})
	if s, h := small.im.Populated().Pages(), huge.im.Populated().Pages(); h > 2*s {
		t.Errorf("1 TiB populates %d pages, 256 MiB %d; want no more than twice as many", h, s)
	}
	if err := huge.im.Fill(10*gib, Mix{Zero: 1, Text: 1, Structures: 1, Random: 1}); err != nil {
		t.Fatal(err)
	}
	var pages int
	for range huge.im.Pages() {
		pages++
	}
	if got := huge.im.Populated().Pages(); got < 10*gib/phys.PageSize || pages > 20000 {
		t.Errorf("after Fill: %d pages populated, %d of them held; want 10 GiB populated, not held", got, pages)
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, c := range []Config{
		{Profile: "win95"},
		{Memory: MinMemory - 2*mib},
		{Memory: 256*mib + phys.PageSize},
		{Memory: 2 * MaxMemory},
		{CPUs: -1},
		{CPUs: MaxCPUs + 1},
		{Profile: "ws2003sp1-x64", CPUs: 65},
		{Profile: "ws2003sp1-x64", KPTI: true},
		{Profile: "ws2003sp1-x64", LA57: true},
		{FarKernel: true},
		{HotPlug: mib},
		{Unreadable: 1},
		{Unreadable: 200 * mib},
		{TablesAbove: 256 * mib},
		{TablesAbove: 1},
		{Machine: "abacus"},
		{Memory: MinMemory, CPUs: MaxCPUs}, // more than fits
	} {
		if im, err := Build(c); err == nil {
			t.Errorf("Build(%+v) = %v; want an error", c, im.RAM())
		}
	}
}

func TestOtherIsNotWindows(t *testing.T) {
	im, err := BuildOther(Config{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := im.Translate(0xFFFFF78000000000); ok {
		t.Error("KUSER_SHARED_DATA is mapped in a guest that isn't Windows")
	}
	for p, b := range im.Pages() {
		for _, s := range []string{"KDBG", "ntoskrnl", "POOLCODE"} {
			if bytes.Contains(b[:], []byte(s)) {
				t.Errorf("page %#x holds %q", p, s)
			}
		}
	}
	for _, g := range im.Registers() {
		if at, ok := im.TranslateIn(phys.Addr(g.CR3), phys.VirtAddr(g.RIP)); !ok || !im.RAM().Has(at.PFN()) {
			t.Errorf("RIP %#x of vCPU %d is not mapped", g.RIP, g.CPU)
		}
	}
}
