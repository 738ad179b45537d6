package ntlab

import (
	"bytes"
	"math/bits"
	"testing"

	"snap/guest/phys"
)

// walk is a page-table walk written apart from the builder's: it reads the
// tables as bytes of physical memory.
func walk(t *testing.T, im *Image, root, va uint64) (uint64, bool) {
	t.Helper()
	table := root & 0x000ffffffffff000
	for _, shift := range []uint{39, 30, 21, 12} {
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
	panic("unreachable")
}

func readVirt(t *testing.T, im *Image, root, va uint64, n int) []byte {
	t.Helper()
	out := make([]byte, 0, n)
	for len(out) < n {
		at, ok := walk(t, im, root, va)
		if !ok {
			t.Fatalf("%#x is not mapped", va)
		}
		p := make([]byte, min(n-len(out), int(0x1000-va&0xfff)))
		if err := im.ReadPhys(t.Context(), p, phys.Addr(at)); err != nil {
			t.Fatalf("read %#x (physical %#x): %v", va, at, err)
		}
		out = append(out, p...)
		va += uint64(len(p))
	}
	return out
}

func build(t *testing.T, c Config) *Image {
	t.Helper()
	im, err := Build(c)
	if err != nil {
		t.Fatalf("Build(%+v): %v", c, err)
	}
	return im
}

func TestKDBG(t *testing.T) {
	for seed := range uint64(20) {
		im := build(t, Config{Profile: "win10-22h2", Seed: seed})
		dtb := uint64(im.Truth.DirectoryTableBase)
		kdbg := readVirt(t, im, dtb, uint64(im.Truth.KDBG), 0x380)
		sym := func(n string) uint64 {
			va, ok := im.Symbol(n)
			if !ok {
				t.Fatalf("no symbol %s", n)
			}
			return uint64(va)
		}
		q := func(va uint64) uint64 { return le.Uint64(readVirt(t, im, dtb, va, 8)) }
		n, a, v := q(sym("KiWaitNever")), q(sym("KiWaitAlways")), sym("KdpDataBlockEncoded")
		for i := 0; i < 0x380; i += 8 {
			e := le.Uint64(kdbg[i:])
			le.PutUint64(kdbg[i:], bits.ReverseBytes64(bits.RotateLeft64(e^n, int(n&63))^v)^a)
		}
		if !bytes.Equal(kdbg, im.Truth.KDBGPlain) {
			t.Errorf("seed %d: the decoded KDBG is not Truth's", seed)
		}
		if string(kdbg[0x10:0x14]) != "KDBG" {
			t.Errorf("seed %d: tag %q", seed, kdbg[0x10:0x14])
		}
	}
}

func TestVariants(t *testing.T) {
	for _, c := range []Config{
		{KPTI: true},
		{Profile: "ws2003sp1-x64"},
		{Profile: "ws2003sp1-x64", StraddleKDBG: true, UserMode: true, CPUs: 64},
		{KPTI: true, UserMode: true},
		{UserMode: true, CPUs: 64},
		{SmallPages: true, StraddleKDBG: true},
		{Memory: MinMemory},
		{Memory: 5 * gib, CPUs: 1, Machine: "i440fx"},
		{Memory: 1 << 40, CPUs: 512},
	} {
		build(t, c)
	}
}
