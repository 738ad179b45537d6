package ntlab

import (
	"strconv"
	"testing"

	"snap/internal/ntlab/kerneltables"
	"snap/phys"
)

// walk32 is a page-table walk of a 32-bit guest, written apart from the builder's (Intel
// SDM volume 3, 4.3 and 4.4).
func walk32(t *testing.T, im *Image, va uint32) (phys.Addr, bool) {
	t.Helper()
	entry := func(at uint64, size int) uint64 {
		b := make([]byte, 8)
		if err := im.ReadPhys(t.Context(), b[:size], phys.Addr(at)); err != nil {
			t.Fatalf("entry for %#x at %#x: %v", va, at, err)
		}
		return le.Uint64(b)
	}
	root := uint64(im.Truth.DirectoryTableBase)
	if im.Config.NoPAE {
		dir := entry(root+4*uint64(va>>22), 4)
		switch {
		case dir&1 == 0:
			return 0, false
		case dir&0x80 != 0:
			return phys.Addr(dir&0xFFC00000 | uint64(va&0x3FFFFF)), true
		}
		e := entry(dir&0xFFFFF000+4*uint64(va>>12&0x3FF), 4)
		return phys.Addr(e&0xFFFFF000 | uint64(va&0xFFF)), e&1 != 0
	}
	const frame = 0x000F_FFFF_FFFF_F000
	row := entry(root+8*uint64(va>>30), 8)
	if row&1 == 0 {
		return 0, false
	}
	dir := entry(row&frame+8*uint64(va>>21&0x1FF), 8)
	switch {
	case dir&1 == 0:
		return 0, false
	case dir&0x80 != 0:
		return phys.Addr(dir&frame&^0x1FFFFF | uint64(va&0x1FFFFF)), true
	}
	e := entry(dir&frame+8*uint64(va>>12&0x1FF), 8)
	return phys.Addr(e&frame | uint64(va&0xFFF)), e&1 != 0
}

// guest32 reads a 32-bit image by virtual address and by the columns of its row.
type guest32 struct {
	t   *testing.T
	im  *Image
	row map[string]string
}

func (g guest32) u32(va uint32) uint32 {
	g.t.Helper()
	var b [4]byte
	for i := range uint32(4) {
		at, ok := walk32(g.t, g.im, va+i)
		if !ok {
			g.t.Fatalf("%#x is not mapped", va+i)
		}
		if err := g.im.ReadPhys(g.t.Context(), b[i:i+1], at); err != nil {
			g.t.Fatal(err)
		}
	}
	return le.Uint32(b[:])
}

// at returns the offset that a column says.
func (g guest32) at(column string) uint32 {
	g.t.Helper()
	v, err := strconv.ParseUint(g.row[column], 0, 32)
	if err != nil {
		g.t.Fatalf("column %s: %v", column, err)
	}
	return uint32(v)
}

// is demands that a structure has a value where a column says.
func (g guest32) is(base uint32, column string, want uint32) {
	g.t.Helper()
	if got := g.u32(base + g.at(column)); got != want {
		g.t.Errorf("%s of %#x is %#x; want %#x", column, base, got, want)
	}
}

// TestGenerations32: a 32-bit guest has its structures where the row that it is made of
// says, in page tables of its kind, and with /3GB nothing of the kernel below 3 GiB.
func TestGenerations32(t *testing.T) {
	rows := map[string]map[string]string{}
	for _, r := range kerneltables.Read(t, "testdata/windows/kernels.csv") {
		if r["arch"] == "x86" {
			rows[r["version"]] = r
		}
	}
	built := 0
	for i, k := range kernelRows {
		for _, c := range []Config{{}, {NoPAE: true}, {UserSpace3GB: true, UserMode: true}} {
			c.Profile, c.Seed, c.Memory, c.CPUs = k.profile, uint64(i), MinMemory, 3
			if !k.x86 || !c.Possible() {
				continue
			}
			im, err := Build(c)
			if err != nil {
				t.Fatalf("%+v: %v", c, err)
			}
			built++
			t.Run(k.profile, func(t *testing.T) { guest32{t, im, rows[k.row]}.check() })
		}
	}
	if built < 17 {
		t.Errorf("%d guests were built", built)
	}
}

func (g guest32) check() {
	truth := &g.im.Truth
	for i, p := range truth.Processors {
		kpcr, prcb := uint32(p.KPCR), uint32(p.KPRCB)
		regs := g.im.Registers()[p.VCPU]
		for off, want := range map[uint32]uint32{
			0x1C: kpcr, 0x20: prcb, 0x38: uint32(regs.IDT.Base), 0x3C: uint32(regs.GDT.Base), // KPCR of ntddk.h
		} {
			if got := g.u32(kpcr + off); got != want {
				g.t.Errorf("processor %d: KPCR+%#x is %#x; want %#x", i, off, got, want)
			}
		}
		if got := g.u32(prcb+g.at("KPRCB_Number")) & 0xFF; got != uint32(i) {
			g.t.Errorf("processor %d has the number %d", i, got)
		}
		thread := g.u32(prcb + g.at("KPRCB_CurrentThread"))
		if low, high := g.u32(thread+g.at("KTHREAD_StackLimit")), g.u32(thread+g.at("KTHREAD_StackBase")); !g.im.Config.UserMode &&
			(uint32(regs.RSP) < low || uint32(regs.RSP) >= high) {
			g.t.Errorf("processor %d: ESP %#x is not from %#x to %#x", i, regs.RSP, low, high)
		}
		if g.row["KPRCB_Context"] != "" {
			g.is(prcb, "KPRCB_Context", uint32(p.Context))
		}
	}
	links := g.at("EPROCESS_ActiveProcessLinks")
	entry := g.u32(uint32(truth.PsActiveProcessHead))
	for _, p := range truth.Processes {
		if entry-links != uint32(p.EPROCESS) {
			g.t.Fatalf("process %s is linked at %#x, not in %#x", p.Name, entry, p.EPROCESS)
		}
		g.is(entry-links, "KPROCESS_DirectoryTableBase", uint32(p.DirectoryTableBase))
		g.is(entry-links, "EPROCESS_UniqueProcessId", uint32(p.PID))
		entry = g.u32(entry)
	}
	entry = g.u32(uint32(truth.PsLoadedModuleList))
	for _, m := range truth.Modules {
		g.is(entry, "LDR_DllBase", uint32(m.Base))
		g.is(entry, "LDR_SizeOfImage", m.Size)
		if uint32(m.Base) < 0xC0800000 && g.im.Config.UserSpace3GB {
			g.t.Errorf("module %s is at %#x", m.Name, m.Base)
		}
		entry = g.u32(entry)
	}
	if got := g.u32(uint32(truth.KDBG) + 0x10); got != kdbgTag && !truth.KDBGEncoded {
		g.t.Errorf("the KDBG has the tag %#x", got)
	}
	// The self-map shows the entry that maps it (0xC0300000 without PAE, 0xC0600000 with).
	self, size := uint32(0xC0300C00), uint64(4)
	if !g.im.Config.NoPAE {
		self, size = 0xC0603018, 8
	}
	at, ok := walk32(g.t, g.im, self)
	if shown, ok2 := walk32(g.t, g.im, self&^0xFFF); !ok || !ok2 || uint64(g.u32(self))&^0xFFF != uint64(shown) || at.Offset()%size != 0 {
		g.t.Errorf("the self-map at %#x leads to %#x", self, at)
	}
}
