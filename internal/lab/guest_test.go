package lab

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"snap/internal/lab/labtest"
	"snap/internal/ntlab/boot"
	"snap/phys"
)

// within returns a context that ends before the test binary's own limit would.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// up starts a guest that ends with the test.
func up(ctx context.Context, t *testing.T, s Spec) *Guest {
	t.Helper()
	labtest.NeedsDaemons(t)
	s.Name = "lab-" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	g, err := Up(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Down(); err != nil {
			t.Errorf("Down() of %s = %v; want no error", g.Name, err)
		}
	})
	return g
}

// TestGuest boots guests of every kind and holds all of their memory, and
// their processors, against what was built.
func TestGuest(t *testing.T) {
	tests := []struct {
		name string
		spec Spec
	}{
		{"Win10", Spec{FillMiB: 128, Seed: 1}},
		{"Win10Busy", Spec{Mode: boot.Busy, CPUs: 2, Seed: 2, Advert: 64}},
		{"Win10Idle", Spec{Mode: boot.Idle, Machine: "i440fx", Seed: 3}},
		{"Win10Memfd", Spec{Backing: Memfd, FillMiB: 16, Mix: boot.Mix{Random: 1}, Seed: 4}},
		{"Win10Huge", Spec{Backing: HugeTLB, MemoryMiB: 128, CPUs: 1, Seed: 5}},
		{"Win10KPTI", Spec{KPTI: true, PlainKDBG: true, MemoryMiB: 256, Seed: 6}},
		{"Win10FiveLevels", Spec{LA57: true, KPTI: true, UserMode: true, MemoryMiB: 128, CPUs: 2, Seed: 13}},
		{"Win10User", Spec{UserMode: true, KPTI: true, CPUs: 3, MemoryMiB: 128, Seed: 10}},
		{"Server2003User", Spec{UserMode: true, Profile: "ws2003sp1-x64", CPUs: 2, MemoryMiB: 128, Seed: 11}},
		{"Win10Session", Spec{Connect: Session, FillMiB: 16, Seed: 8}},
		{"Server2003", Spec{Profile: "ws2003sp1-x64", Seed: 9}},
		{"Win10NewerQEMU", Spec{NewerQEMU: true, MemoryMiB: 128, CPUs: 2, Seed: 12}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := within(t, 2*time.Minute)
			g := up(ctx, t, tt.spec)
			if g.Spec.Mode != boot.Idle {
				checkRuns(ctx, t, g)
			}
			if _, err := g.Virsh(ctx, "suspend", g.Name); err != nil {
				t.Fatal(err)
			}
			c := dumpCore(ctx, t, g)
			checkProcessors(t, g, c)
			checkMemory(ctx, t, g, c)
			checkTime(ctx, t, g, c)
			got, err := boot.CheckChains(ctx, c, g.Boot.Chains)
			if err != nil || !got.OnePoint || got.Smear != 0 {
				t.Fatalf("CheckChains(core of a paused guest) = %+v, %v; want one point in time", got, err)
			}
			if g.Spec.Mode != boot.Idle && slices.Min(got.Rounds) == 0 {
				t.Errorf("rounds of the processors = %v; want them to have begun", got.Rounds)
			}
		})
	}
}

// checkRuns waits until every processor's heartbeat has moved.
func checkRuns(ctx context.Context, t *testing.T, g *Guest) {
	t.Helper()
	first, err := g.Heartbeats(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range first {
		for {
			now, err := g.Qword(ctx, g.Boot.VCPUs[i].Heartbeat)
			if err != nil {
				t.Fatalf("heartbeat of vCPU %d stays at %d: %v", i, first[i], err)
			}
			if now != first[i] {
				break
			}
		}
	}
}

// checkProcessors holds the core's CPU notes against the image's registers.
func checkProcessors(t *testing.T, g *Guest, c *core) {
	t.Helper()
	regs := g.Image.Registers()
	if len(c.notes) != len(regs) {
		t.Fatalf("core has %d QEMU notes; want %d", len(c.notes), len(regs))
	}
	seen := map[uint64]bool{}
	for i, n := range c.notes {
		r, v := &regs[i], g.Boot.VCPUs[i]
		if g.Spec.UserMode && i == 0 {
			continue // in the kernel, and not as the image says
		}
		if rip := phys.VirtAddr(n.rip); rip < v.Code || rip >= v.CodeEnd {
			t.Errorf("vCPU %d: RIP = %#x; want it in [%#x, %#x)", i, n.rip, uint64(v.Code), uint64(v.CodeEnd))
		}
		kernel := g.Image.Truth.KernelBase
		rip := phys.VirtAddr(n.rip)
		if inKernel := rip >= kernel && rip < kernel+phys.VirtAddr(g.Image.Truth.KernelSize); inKernel == r.UserMode() || n.cs != uint32(r.CS.Selector) {
			t.Errorf("vCPU %d: CS:RIP = %#x:%#x, in the kernel: %v; want CS %#x", i, n.cs, n.rip, inKernel, r.CS.Selector)
		}
		const frame = 64 // that the timer tick pushes
		if n.rsp > r.RSP || n.rsp < r.RSP-frame || seen[n.rsp] {
			t.Errorf("vCPU %d: RSP = %#x; want %#x, or less by a frame, and no other's", i, n.rsp, r.RSP)
		}
		seen[n.rsp] = true
		const pcid = 0xFFF
		if n.gsBase != r.GS.Base || n.kernelGSBase != r.KernelGSBase || n.gdt != r.GDT.Base || n.idt != r.IDT.Base || n.cr3 != r.CR3&^pcid {
			t.Errorf("vCPU %d: GS base, kernel GS base, GDT, IDT, CR3 = %#x, %#x, %#x, %#x, %#x; want %#x, %#x, %#x, %#x, %#x",
				i, n.gsBase, n.kernelGSBase, n.gdt, n.idt, n.cr3, r.GS.Base, r.KernelGSBase, r.GDT.Base, r.IDT.Base, r.CR3)
		}
	}
	for _, p := range g.Image.Truth.Processors {
		got := c.notes[p.VCPU].gsBase
		if g.Spec.UserMode && p.VCPU != 0 {
			got = c.notes[p.VCPU].kernelGSBase
		}
		if got != uint64(p.KPCR) {
			t.Errorf("vCPU %d: GS base in the kernel = %#x; want the KPCR at %#x", p.VCPU, got, uint64(p.KPCR))
		}
	}
}

// checkTime holds KUSER_SHARED_DATA's times together: they have moved, unless
// the guest idles, and both by as much.
func checkTime(ctx context.Context, t *testing.T, g *Guest, c *core) {
	t.Helper()
	at, ok := g.Image.Translate(0xFFFFF780_00000000)
	if !ok {
		t.Fatal("KUSER_SHARED_DATA is not mapped")
	}
	var k, before [0x20]byte
	if err := errors.Join(c.ReadPhys(ctx, k[:], at), g.Image.ReadPhys(ctx, before[:], at)); err != nil {
		t.Fatal(err)
	}
	const interruptTime, systemTime, high1, high2 = 0x08, 0x14, 4, 8
	for _, field := range []int{interruptTime, systemTime} {
		if a, b := le.Uint32(k[field+high1:]), le.Uint32(k[field+high2:]); a != b {
			t.Errorf("time at %#x of KUSER_SHARED_DATA: High1Time, High2Time = %#x, %#x; want them to agree", field, a, b)
		}
	}
	moved := le.Uint64(k[interruptTime:]) - le.Uint64(before[interruptTime:])
	if (moved == 0) != (g.Spec.Mode == boot.Idle) {
		t.Errorf("InterruptTime has moved by %d", moved)
	}
	const step = 10_000 // a guest may have been stopped between the two
	if got := le.Uint64(k[systemTime:]) - le.Uint64(before[systemTime:]); got != moved && got+step != moved {
		t.Errorf("SystemTime has moved by %d; want %d as InterruptTime", got, moved)
	}
}

// checkMemory accounts for every page of RAM: it is as built, or was changed
// as the guest changes it, or is the boot code's or the firmware's.
func checkMemory(ctx context.Context, t *testing.T, g *Guest, c *core) {
	t.Helper()
	changing := changingPages(t, g)
	fills := map[phys.PFN]boot.Fill{}
	for _, f := range g.Boot.Fills {
		for p := f.Run.Base; p < f.Run.End(); p++ {
			fills[p] = f
		}
	}
	image := map[phys.PFN]*[phys.PageSize]byte{}
	for p, b := range g.Image.Pages() {
		image[p] = b
	}
	const chunk = 256
	buf, want := make([]byte, chunk*phys.PageSize), make([]byte, phys.PageSize)
	var bad, filled int
	for _, r := range g.Image.RAM() {
		for p := r.Base; p < r.End() && bad < 5; p++ {
			at := (p - r.Base) % chunk * phys.PageSize
			if at == 0 {
				n := min(chunk, r.End()-p)
				if err := c.ReadPhys(ctx, buf[:n*phys.PageSize], p.Addr()); err != nil {
					t.Fatal(err)
				}
			}
			got := buf[at : at+phys.PageSize]
			b, built := image[p]
			if changing.Has(p) || (!built && (g.Boot.Residue.Has(p) || firmware(g, p))) {
				continue
			}
			clear(want)
			if f, ok := fills[p]; ok {
				f.Page(want, p)
				filled++
			}
			if built {
				copy(want, b[:])
			}
			if !bytes.Equal(got, want) && !sameButAccessed(got, want) {
				bad++
				t.Errorf("page %#x (built %v): differs from byte %#x on", uint64(p.Addr()), built, mismatch(got, want))
			}
		}
	}
	if want := int(g.Spec.FillMiB << 20 / phys.PageSize); filled != want {
		t.Errorf("guest filled %d pages; want %d", filled, want)
	}
}

// changingPages returns the pages that the guest is known to write to.
func changingPages(t *testing.T, g *Guest) phys.Runs {
	t.Helper()
	var out []phys.Run
	add := func(at phys.Addr) { out = append(out, phys.Run{Base: at.PFN(), Pages: 1}) }
	virtual := func(v uint64) {
		at, ok := g.Image.Translate(phys.VirtAddr(v))
		if !ok {
			t.Fatalf("%#x is not mapped", v)
		}
		add(at)
	}
	add(g.Boot.Ready)
	for _, v := range g.Boot.VCPUs {
		add(v.Heartbeat)
		if phys.VirtAddr(v.RSP).Kernel() {
			virtual(v.RSP - 8) // NMI frames, which may straddle two pages
			virtual(v.RSP - 64)
		}
	}
	for _, c := range g.Boot.Chains {
		for _, at := range c.Pages {
			add(at)
		}
	}
	if a := g.Boot.Advert; a != nil {
		for at := 0; at < 0x20+a.Size(0); at += 8 {
			virtual(uint64(a.Table) + uint64(at))
		}
	}
	for _, r := range g.Image.Registers() {
		virtual(r.GDT.Base) // accessed and busy bits
	}
	virtual(0xFFFFF780_00000000)
	runs, err := phys.NewRuns(out...)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

// firmware reports whether SeaBIOS has put something of its own into page p.
func firmware(g *Guest, p phys.PFN) bool {
	const mib = 1 << 20 / phys.PageSize
	var low phys.Run
	for _, r := range g.Image.RAM() {
		if r.Base < 4096*mib {
			low = r
		}
	}
	return p < mib || (p < low.End() && p >= low.End()-18*mib)
}

// sameButAccessed reports whether two pages are the same page table but for
// the accessed and dirty bits of present entries, which the processor sets.
func sameButAccessed(a, b []byte) bool {
	const present, accessed = 1, 0x60
	for i := 0; i < len(a); i += 8 {
		x, y := le.Uint64(a[i:]), le.Uint64(b[i:])
		if x != y && (x&^accessed != y&^accessed || y&present == 0) {
			return false
		}
	}
	return true
}

func mismatch(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}
