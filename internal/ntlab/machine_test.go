package ntlab

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

func TestRAMMap(t *testing.T) {
	r := func(base phys.PFN, pages uint64) phys.Run { return phys.Run{Base: base, Pages: pages} }
	low := r(0, 0xA0)
	tests := []struct {
		machine      string
		memory       uint64
		ram, windows []phys.Run
	}{
		{"q35", 256 * mib, []phys.Run{low, r(0xC0, 0xFF40)}, []phys.Run{r(1, 0x9E), r(0x100, 0xFE00)}},
		{"q35", 0xb0000000 - 2*mib, []phys.Run{low, r(0xC0, 0xAFD40)}, []phys.Run{r(1, 0x9E), r(0x100, 0xAFC00)}},
		{"q35", 0xb0000000, []phys.Run{low, r(0xC0, 0x7FF40), r(0x100000, 0x30000)}, []phys.Run{r(1, 0x9E), r(0x100, 0x7FE00), r(0x100000, 0x30000)}},
		{"i440fx", 0xb0000000, []phys.Run{low, r(0xC0, 0xAFF40)}, []phys.Run{r(1, 0x9E), r(0x100, 0xAFE00)}},
		{"i440fx", 0xe0000000 - 2*mib, []phys.Run{low, r(0xC0, 0xDFD40)}, []phys.Run{r(1, 0x9E), r(0x100, 0xDFC00)}},
		{"i440fx", 0xe0000000, []phys.Run{low, r(0xC0, 0xBFF40), r(0x100000, 0x20000)}, []phys.Run{r(1, 0x9E), r(0x100, 0xBFE00), r(0x100000, 0x20000)}},
	}
	for _, tt := range tests {
		ram, windows, err := ramMap(tt.machine, tt.memory, 0)
		if err != nil {
			t.Errorf("ramMap(%s, %#x): %v", tt.machine, tt.memory, err)
			continue
		}
		if diff := cmp.Diff(phys.Runs(tt.ram), ram); diff != "" {
			t.Errorf("ramMap(%s, %#x): RAM (-want +got):\n%s", tt.machine, tt.memory, diff)
		}
		if diff := cmp.Diff(tt.windows, windows); diff != "" {
			t.Errorf("ramMap(%s, %#x): Windows' runs (-want +got):\n%s", tt.machine, tt.memory, diff)
		}
	}
}

// TestPagesAreUsedOnce walks everything that the System process maps: no page
// is two things, and each is memory that Windows counts as its own.
func TestPagesAreUsedOnce(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		runs, err := phys.NewRuns(g.im.Truth.Runs...)
		if err != nil {
			t.Fatal(err)
		}
		used := map[uint64]uint64{} // page: what it is
		use := func(pfn, pages, what uint64) {
			if !runs.Covers(phys.PFN(pfn).Addr(), pages<<12) {
				t.Errorf("%#x uses page %#x, which is not Windows' memory", what, pfn)
			}
			for p := pfn; p < pfn+min(pages, 512); p++ {
				if was, ok := used[p]; ok {
					t.Fatalf("page %#x is both %#x and %#x", p, was, what)
				}
				used[p] = what
			}
		}
		var visit func(table, va uint64, shift uint)
		visit = func(table, va uint64, shift uint) {
			b := make([]byte, 4096)
			if err := g.im.ReadPhys(t.Context(), b, phys.Addr(table)); err != nil {
				t.Fatal(err)
			}
			for i := range uint64(512) {
				e, at := le.Uint64(b[8*i:]), va|i<<shift
				frame := e & 0x000ffffffffff000
				switch {
				case e&1 == 0 || frame == g.root:
				case shift == 12 || (shift < 39 && e&0x80 != 0):
					use(frame>>12, 1<<(shift-12), at)
				default:
					use(frame>>12, 1, at)
					visit(frame, at, shift-9)
				}
			}
		}
		use(g.root>>12, 1, 0)
		visit(g.root, 0, topShift(g.im))
		if len(used) < 2500 {
			t.Errorf("only %d pages are mapped", len(used))
		}
		for _, p := range g.im.Truth.Processes[1:] {
			use(uint64(p.DirectoryTableBase)>>12, 1, uint64(p.EPROCESS))
		}
	})
}

func TestMappings(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		kinds := map[MappingKind]bool{}
		for _, m := range g.im.Truth.Mappings {
			kinds[m.Kind] = true
			at, ok := walk(t, g.im, g.root, uint64(m.VA))
			large := m.Kind == MappingLarge || m.Kind == MappingHuge
			if ok != large || (ok && phys.Addr(at).PFN() != m.PFN) {
				t.Errorf("%s page %#x: mapped %v at %#x; want page %#x", m.Kind, m.VA, ok, at, m.PFN)
			}
			entry, ok := g.im.EntryAddr(m.VA, 1)
			if large || !ok {
				continue
			}
			var e [8]byte
			if err := g.im.ReadPhys(t.Context(), e[:], entry); err != nil {
				t.Fatal(err)
			}
			v := le.Uint64(e[:])
			// Only what leads to a prototype entry is held against the page, or nothing.
			proto := uint64(1)
			if v>>10&1 == 1 && v>>32 != 0xffffffff {
				if at, ok := walk(t, g.im, g.root, 0xffff000000000000|v>>16); ok {
					var b [8]byte
					if err := g.im.ReadPhys(t.Context(), b[:], phys.Addr(at)); err != nil {
						t.Fatal(err)
					}
					proto = le.Uint64(b[:])
				}
			}
			frame := func(e uint64) phys.PFN { return phys.PFN(e & 0x000ffffffffff000 >> 12) }
			hidden := func(e uint64) bool {
				if g.im.Config.Profile == "ws2003sp1-x64" { // too old to hide anything
					return e&0x10 == 0 && frame(e) == m.PFN
				}
				return e&0x10 == 0 && frame(e) != m.PFN && frame(e)&g.frames() == m.PFN && !g.im.RAM().Has(frame(e))
			}
			good := false
			switch m.Kind {
			case MappingTransition:
				good = v>>10&3 == 2 && frame(v) == m.PFN
			case MappingHidden:
				good = v>>10&3 == 2 && hidden(v)
			case MappingPrototype:
				good = v>>10&1 == 1 && proto&1 == 1 && frame(proto) == m.PFN
			case MappingProtoTransition:
				good = v>>10&1 == 1 && proto>>10&3 == 2 && proto&1 == 0 && frame(proto) == m.PFN
			case MappingProtoHidden:
				good = v>>10&1 == 1 && proto>>10&3 == 2 && proto&1 == 0 && hidden(proto)
			case MappingProtoGone:
				good = v>>10&1 == 1 && proto>>10&3 == 0 && proto&1 == 0
			case MappingLost:
				good = v>>10&3 == 2 && !g.im.RAM().Has(frame(v)) && !g.im.RAM().Has(frame(v)&g.frames()) ||
					v>>10&1 == 1 && (proto == 1 || proto&1 == 1 && !g.im.RAM().Has(frame(proto)) || proto>>10&1 == 1 || v>>63 == 0)
			default:
				good = v>>10&3 == 0
			}
			if !good {
				t.Errorf("%s entry %#x, by way of %#x; want page %#x", m.Kind, v, proto, m.PFN)
			}
		}
		if !kinds[MappingTransition] || !kinds[MappingHidden] || !kinds[MappingProtoHidden] || !kinds[MappingLost] || !kinds[MappingLarge] ||
			kinds[MappingHuge] != (g.im.Config.Memory >= minHuge) {
			t.Errorf("kinds of mappings: %v", kinds)
		}
	})
}

// Offsets that tell where a CONTEXT goes and which processor it is.
var prcbOffsets = map[string]struct{ number, pointer, inPlace uint64 }{
	"win10-22h2":    {number: 0x24, pointer: 0x85c0},
	"ws2003sp1-x64": {number: 0x4, inPlace: 0x120},
}

func TestProcessors(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		truth, o := &g.im.Truth, prcbOffsets[g.im.Config.Profile]
		block := le.Uint64(g.kdbg()[0x218:])
		rips, vcpus := map[uint64]bool{}, map[int]bool{}
		for i, p := range truth.Processors {
			kpcr, prcb := uint64(p.KPCR), uint64(p.KPRCB)
			if g.u64(block+8*uint64(i)) != prcb || prcb != kpcr+0x180 || kpcr&0xfff != 0 {
				t.Errorf("processor %d: KPCR %#x, KPRCB %#x", i, kpcr, prcb)
			}
			if g.u64(kpcr+0x18) != kpcr || g.u64(kpcr+0x20) != prcb || g.bytes(prcb+o.number, 1)[0] != byte(i) {
				t.Errorf("processor %d: its KPCR does not name itself", i)
			}
			context := prcb + o.inPlace
			if o.pointer != 0 {
				context = g.u64(prcb + o.pointer)
			}
			if context != uint64(p.Context) || context%16 != 0 {
				t.Errorf("processor %d: CONTEXT at %#x; want %#x", i, context, p.Context)
			}
			g.bytes(context, 0x4D0)
			if typ := g.bytes(g.u64(prcb+8), 1)[0]; typ != 6 {
				t.Errorf("processor %d: CurrentThread is an object of type %d", i, typ)
			}
			r := g.im.Registers()[p.VCPU]
			if r.CPU != p.VCPU || vcpus[p.VCPU] || rips[r.RIP] || rips[r.RSP] {
				t.Errorf("processor %d: vCPU %d, RIP %#x and RSP %#x are not its own", i, r.CPU, r.RIP, r.RSP)
			}
			vcpus[p.VCPU], rips[r.RIP], rips[r.RSP] = true, true, true
			g.checkRegisters(i, r, kpcr)
		}
		if g.u64(block+8*uint64(len(truth.Processors))) != 0 && len(truth.Processors) < 64 {
			t.Error("KiProcessorBlock has an entry too many")
		}
	})
}

func (g guest) checkRegisters(i int, r phys.Registers, kpcr uint64) {
	t := g.t
	t.Helper()
	if r.GDT.Base != g.u64(kpcr) || r.IDT.Base != g.u64(kpcr+0x38) || r.TR.Base != g.u64(kpcr+8) {
		t.Errorf("processor %d: GDTR %#x, IDTR %#x, TR %#x are not its KPCR's", i, r.GDT.Base, r.IDT.Base, r.TR.Base)
	}
	own := guest{t, g.im, r.CR3}
	for _, va := range []uint64{r.RIP, r.RSP, r.IDT.Base, r.GDT.Base, r.GDT.Base + uint64(r.GDT.Limit), 0xFFFFF78000000000} {
		own.bytes(va, 1)
	}
	gate := own.bytes(r.IDT.Base, 16)
	handler := uint64(le.Uint16(gate)) | uint64(le.Uint16(gate[6:]))<<16 | uint64(le.Uint32(gate[8:]))<<32
	own.bytes(handler, 16)
	if base := uint64(g.im.Truth.KernelBase); handler < base || handler >= base+uint64(g.im.Truth.KernelSize) {
		t.Errorf("processor %d: IDT[0] = %#x outside of the kernel", i, handler)
	}
	for _, s := range []phys.Segment{r.CS, r.SS, r.DS} {
		d := le.Uint64(own.bytes(r.GDT.Base+uint64(s.Selector&^7), 8))
		if uint32(d>>32)&0xf0ff00 != s.Flags {
			t.Errorf("processor %d: selector %#x has flags %#x; its descriptor is %#x", i, s.Selector, s.Flags, d)
		}
	}
	kernel, user := r.GS.Base, r.KernelGSBase
	if g.im.Config.UserMode {
		kernel, user = user, kernel
	}
	if r.UserMode() != g.im.Config.UserMode || kernel != kpcr || user>>63 != 0 {
		t.Errorf("processor %d: CS %#x, GS base %#x, KERNEL_GS_BASE %#x; KPCR %#x", i, r.CS.Selector, r.GS.Base, r.KernelGSBase, kpcr)
	}
}

func TestShadowHidesTheKernel(t *testing.T) {
	g := build(t, Config{Profile: "win10-22h2", KPTI: true, UserMode: true, Seed: 2})
	for _, r := range g.im.Registers() {
		if phys.Addr(r.CR3)&^0xfff == g.im.Truth.DirectoryTableBase {
			t.Errorf("vCPU %d runs on the System process's tables", r.CPU)
		}
		for _, n := range []string{"PsInitialSystemProcess", "KiSystemCall64", "KdDebuggerDataBlock"} {
			if _, ok := walk(t, g.im, r.CR3, g.symbol(n)); ok {
				t.Errorf("vCPU %d: the user tables map %s", r.CPU, n)
			}
		}
		if _, ok := walk(t, g.im, r.CR3, uint64(g.im.Truth.KernelBase)); ok {
			t.Errorf("vCPU %d: the user tables map the kernel's headers", r.CPU)
		}
		if _, ok := walk(t, g.im, r.CR3, r.LSTAR); !ok {
			t.Errorf("vCPU %d: the user tables don't map the system call entry", r.CPU)
		}
		if got := g.u64(r.KernelGSBase+0x180+0x8E80) &^ 0xfff; got != g.root {
			t.Errorf("vCPU %d: KernelDirectoryTableBase = %#x; want %#x", r.CPU, got, g.root)
		}
	}
}

func TestKUSER(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		truth := &g.im.Truth
		u := g.bytes(0xFFFFF78000000000, 0x1000)
		time := func(off int) uint64 {
			if !bytes.Equal(u[off+4:off+8], u[off+8:off+12]) {
				t.Errorf("the halves of the time at %#x differ", off)
			}
			return uint64(le.Uint32(u[off:])) | uint64(le.Uint32(u[off+4:]))<<32
		}
		got := []uint64{time(0x8), time(0x14), uint64(le.Uint32(u[0x264:])), uint64(le.Uint32(u[0x2D0:])), uint64(le.Uint32(u[0x2C4:]))}
		want := []uint64{truth.InterruptTime, truth.SystemTime, uint64(truth.ProductType), uint64(truth.SuiteMask), uint64(truth.BootID)}
		if !slices.Equal(got, want) {
			t.Errorf("times, product, suite, boot id = %#x; want %#x", got, want)
		}
		if win10 := g.im.Config.Profile == "win10-22h2"; win10 && (le.Uint32(u[0x260:]) != 19045 || le.Uint32(u[0x3C0:]) != uint32(g.im.Config.CPUs)) {
			t.Errorf("NtBuildNumber %d, ActiveProcessorCount %d", le.Uint32(u[0x260:]), le.Uint32(u[0x3C0:]))
		}
		p := truth.Processes[1]
		if other := (guest{t, g.im, uint64(p.DirectoryTableBase)}).bytes(0x7FFE0000, 0x1000); !bytes.Equal(other, u) {
			t.Errorf("%s sees other shared data", p.Name)
		}
	})
}

func TestLowStub(t *testing.T) {
	g := build(t, Config{Profile: "win10-22h2", Seed: 9})
	s := make([]byte, 0x1000)
	if err := g.im.ReadPhys(t.Context(), s, g.im.Truth.LowStub); err != nil {
		t.Fatal(err)
	}
	// The three tests that MemProcFS and memflow make.
	if le.Uint64(s)&0xFFFFFFFFFFFF00FF != 0x00000001000600E9 || le.Uint64(s[0x70:])&0xFFFFF80000000003 != 0xFFFFF80000000000 ||
		le.Uint64(s[0xA0:]) != g.root {
		t.Errorf("start block %x, LmTarget %#x, CR3 %#x", s[:8], le.Uint64(s[0x70:]), le.Uint64(s[0xA0:]))
	}
	for _, c := range []Config{{Profile: "win10-22h2", NoLowStub: true}, {Profile: "ws2003sp1-x64"}} {
		if im := build(t, c).im; im.Truth.LowStub != 0 {
			t.Errorf("%+v has a start block at %#x", c, im.Truth.LowStub)
		}
	}
}
