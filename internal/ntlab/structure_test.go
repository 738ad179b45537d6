package ntlab

import (
	"bytes"
	"math/bits"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"snap/phys"
)

// kdbg reads the guest's KDBG and decodes it with the keys, by the formula of
// QEMU's contrib/elf2dmp/main.c.
func (g guest) kdbg() []byte {
	g.t.Helper()
	b := g.bytes(uint64(g.im.Truth.KDBG), len(g.im.Truth.KDBGPlain))
	if !g.im.Truth.KDBGEncoded {
		return b
	}
	flag := g.symbol("KdpDataBlockEncoded")
	if g.bytes(flag, 1)[0] == 0 {
		g.t.Error("KdpDataBlockEncoded is 0 for an encoded block")
	}
	never, always := g.u64(g.symbol("KiWaitNever")), g.u64(g.symbol("KiWaitAlways"))
	for i := 0; i < len(b); i += 8 {
		e := le.Uint64(b[i:])
		le.PutUint64(b[i:], bits.ReverseBytes64(bits.RotateLeft64(e^never, int(never&63))^flag)^always)
	}
	return b
}

func TestKDBG(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		k, truth := g.kdbg(), &g.im.Truth
		q := func(off int) uint64 { return le.Uint64(k[off:]) }
		if !bytes.Equal(k, truth.KDBGPlain) {
			t.Error("the block in memory does not decode to Truth's")
		}
		if string(k[0x10:0x14]) != "KDBG" || int(le.Uint32(k[0x14:])) != len(k) {
			t.Errorf("tag and size = %x", k[0x10:0x18])
		}
		if head := q(0); q(8) != head || g.u64(head) != uint64(truth.KDBG) || g.u64(head+8) != uint64(truth.KDBG) {
			t.Errorf("the list of data blocks at %#x does not hold the KDBG alone", head)
		}
		for off, want := range map[int]phys.VirtAddr{0x18: truth.KernelBase, 0x48: truth.PsLoadedModuleList, 0x50: truth.PsActiveProcessHead, 0x138: 0x1000} {
			if q(off) != uint64(want) {
				t.Errorf("field %#x = %#x; want %#x", off, q(off), want)
			}
		}
		if got := g.u64(q(0xC0)); got != uint64(truth.PfnDatabase) {
			t.Errorf("MmPfnDatabase = %#x; want %#x", got, truth.PfnDatabase)
		}
		pteBase := uint64(0xFFFF<<48) | uint64(truth.SelfMapSlot)<<39
		if g.im.Config.LA57 {
			pteBase = 0xFF<<56 | uint64(truth.SelfMapSlot)<<48
		}
		if len(k) > 0x368 && q(0x360) != pteBase {
			t.Errorf("PteBase = %#x; want self-map slot %#x", q(0x360), truth.SelfMapSlot)
		}
		d := g.u64(q(0x270))
		var runs []phys.Run
		var pages uint64
		for i := range uint64(g.u32(d)) {
			r := phys.Run{Base: phys.PFN(g.u64(d + 0x10 + 16*i)), Pages: g.u64(d + 0x18 + 16*i)}
			runs, pages = append(runs, r), pages+r.Pages
		}
		if !slices.Equal(runs, truth.Runs) || g.u64(d+8) != pages || uint64(g.u32(0xFFFFF780000002E8)) != pages {
			t.Errorf("MmPhysicalMemoryBlock = %v, %d pages; want %v", runs, g.u64(d+8), truth.Runs)
		}
	})
}

// TestKDBGAgainstRealDump holds the Windows 10 block against a real one: the
// same fields are zero, constants are equal, and pointers point into the
// kernel, to the same kind of place.
func TestKDBGAgainstRealDump(t *testing.T) {
	real, err := os.ReadFile("testdata/kdbg_19041.bin")
	if err != nil {
		t.Fatal(err)
	}
	g := build(t, Config{Profile: "win10-22h2", Seed: 77})
	k := g.kdbg()
	if len(k) != len(real) {
		t.Fatalf("size %#x; want %#x", len(k), len(real))
	}
	inImage := func(v, base uint64) bool { return v >= base && v < base+0x1046000 }
	base, realBase := uint64(g.im.Truth.KernelBase), le.Uint64(real[0x18:])
	for off := 0; off < len(k); off += 8 {
		got, want := le.Uint64(k[off:]), le.Uint64(real[off:])
		switch {
		case inImage(want, realBase):
			if !inImage(got, base) {
				t.Errorf("field %#x = %#x; want an address in the kernel", off, got)
			}
		case off == 0x360: // PteBase
			if got&0xffff007fffffffff != 0xffff000000000000 || got == want {
				t.Errorf("PteBase = %#x; want a random slot of the system half", got)
			}
		case got != want:
			t.Errorf("field %#x = %#x; want %#x as in the real dump", off, got, want)
		}
	}
}

func TestKDBGStraddles(t *testing.T) {
	for _, p := range Profiles() {
		g := build(t, Config{Profile: p, StraddleKDBG: true, Seed: 21})
		va := uint64(g.im.Truth.KDBG)
		a, _ := walk(t, g.im, g.root, va)
		b, _ := walk(t, g.im, g.root, va+uint64(len(g.im.Truth.KDBGPlain))-1)
		if a>>12 == b>>12 || a>>12+1 == b>>12 {
			t.Errorf("%s: the KDBG lies in pages %#x and %#x; want two that are not neighbours", p, a>>12, b>>12)
		}
	}
}

func (g guest) unicode(va uint64) string {
	g.t.Helper()
	raw := g.bytes(g.u64(va+8), int(g.u16(va)))
	var text []uint16
	for i := 0; i < len(raw); i += 2 {
		text = append(text, le.Uint16(raw[i:]))
	}
	return string(utf16.Decode(text))
}

func TestModules(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		var got []Module
		for _, e := range g.list(uint64(g.im.Truth.PsLoadedModuleList)) {
			m := Module{g.unicode(e + 0x58), phys.VirtAddr(g.u64(e + 0x30)), g.u32(e + 0x40)}
			got = append(got, m)
			if full := g.unicode(e + 0x48); !strings.HasSuffix(full, `\`+m.Name) {
				t.Errorf("FullDllName %q of %s", full, m.Name)
			}
			head := g.bytes(uint64(m.Base), 0x400)
			nt := head[le.Uint32(head[0x3C:]):]
			if string(head[:2]) != "MZ" || string(nt[:4]) != "PE\x00\x00" || le.Uint16(nt[4:]) != 0x8664 ||
				le.Uint32(nt[0x18+0x38:]) != m.Size {
				t.Errorf("%s at %#x is no PE image of %#x bytes", m.Name, m.Base, m.Size)
			}
		}
		if !slices.Equal(got, g.im.Truth.Modules) || got[0].Name != "ntoskrnl.exe" {
			t.Errorf("modules = %v; want %v", got, g.im.Truth.Modules)
		}
	})
}

// processOffsets are those of a public dump of build 19041, and of Microsoft's
// symbols for NT 5.2 SP1 x64.
var processOffsets = map[string]struct{ dtb, pid, links, name uint64 }{
	"win10-22h2":    {0x28, 0x440, 0x448, 0x5a8},
	"ws2003sp1-x64": {0x28, 0xd8, 0xe0, 0x268},
}

func TestProcesses(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		truth := &g.im.Truth
		o := processOffsets[g.im.Config.Profile]
		var got []Process
		roots := map[uint64]bool{}
		for _, e := range g.list(uint64(truth.PsActiveProcessHead)) {
			p := e - o.links
			name, _, _ := bytes.Cut(g.bytes(p+o.name, 15), []byte{0})
			dtb := g.u64(p+o.dtb) &^ 0xfff
			got = append(got, Process{string(name), g.u64(p + o.pid), phys.VirtAddr(p), phys.Addr(dtb)})
			if roots[dtb] {
				t.Errorf("%s shares its directory table base", name)
			}
			roots[dtb] = true
			own := guest{t, g.im, dtb}
			if own.u64(uint64(truth.KernelBase)) != g.u64(uint64(truth.KernelBase)) || own.u32(0xFFFFF7800000026C) != g.u32(0xFFFFF7800000026C) {
				t.Errorf("%s does not see the kernel", name)
			}
			top := uint64(0xffff000000000000) | uint64(truth.SelfMapSlot)*0x8040201000
			if g.im.Config.LA57 {
				top = 0xff00000000000000 | uint64(truth.SelfMapSlot)*0x1008040201000
			}
			if at, ok := walk(t, g.im, dtb, top); !ok || at != dtb {
				t.Errorf("%s: the self-map leads to %#x; want its own table %#x", name, at, dtb)
			}
			if _, ok := walk(t, g.im, dtb, 0x7FFE0000); ok == (string(name) == "System") {
				t.Errorf("%s: user shared data mapped = %v", name, ok)
			}
		}
		if !slices.Equal(got, truth.Processes) {
			t.Errorf("processes = %v; want %v", got, truth.Processes)
		}
		if g.u64(g.symbol("PsInitialSystemProcess")) != uint64(truth.SystemProcess) ||
			got[0] != (Process{"System", 4, truth.SystemProcess, truth.DirectoryTableBase}) {
			t.Errorf("System = %+v", got[0])
		}
	})
}

func TestExports(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		base := uint64(g.im.Truth.KernelBase)
		nt := base + uint64(g.u32(base+0x3C))
		d := base + uint64(g.u32(nt+0x18+0x70))
		want, pdb := "ntoskrnl.exe\x00", "ntkrnlmp.pdb\x00"
		if g.im.Config.LA57 {
			want, pdb = "ntkrla57.exe\x00", "ntkrla57.pdb\x00"
		}
		if name := g.bytes(base+uint64(g.u32(d+0xC)), 13); string(name) != want {
			t.Errorf("export directory of %q", name)
		}
		found := map[string]uint64{}
		var last string
		for i := range uint64(g.u32(d + 0x18)) {
			s := g.bytes(base+uint64(g.u32(base+uint64(g.u32(d+0x20))+4*i)), 64)
			name, _, _ := bytes.Cut(s, []byte{0})
			if string(name) <= last {
				t.Errorf("name %q comes after %q", name, last)
			}
			last = string(name)
			ordinal := uint64(g.u16(base + uint64(g.u32(d+0x24)) + 2*i))
			found[last] = base + uint64(g.u32(base+uint64(g.u32(d+0x1C))+4*ordinal))
		}
		for _, n := range []string{"PsInitialSystemProcess", "PsLoadedModuleList", "NtBuildNumber", "KeBugCheckEx", "MmGetPhysicalMemoryRanges"} {
			if found[n] != g.symbol(n) {
				t.Errorf("export %s = %#x; want %#x", n, found[n], g.symbol(n))
			}
		}
		if got := g.u32(found["NtBuildNumber"]); got != 0xF0000000|g.im.Truth.Build {
			t.Errorf("NtBuildNumber = %#x; want %d of a free build", got, g.im.Truth.Build)
		}
		debug := base + uint64(g.u32(nt+0x18+0x70+6*8))
		rsds := base + uint64(g.u32(debug+0x14))
		if got := g.bytes(rsds, 4); string(got) != "RSDS" || string(g.bytes(rsds+0x18, 13)) != pdb {
			t.Errorf("CodeView record = %q", got)
		}
		if first := g.bytes(base, 0x1000); !bytes.Contains(first, []byte("POOLCODE")) {
			t.Error("the kernel's first page does not name POOLCODE")
		}
	})
}
