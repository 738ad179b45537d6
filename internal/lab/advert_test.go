package lab

import (
	"bytes"
	"context"
	"testing"
	"time"

	"snap/guest"
	"snap/hv"
	"snap/hv/libvirt"
	"snap/phys"
)

// live opens a guest that runs, and its memory, as snap does.
func live(ctx context.Context, t *testing.T, g *Guest) (*libvirt.Domain, hv.Memory) {
	t.Helper()
	c, err := libvirt.Connect(ctx, g.URI)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	d, err := c.LookupDomain(ctx, g.Name)
	if err != nil {
		t.Fatal(err)
	}
	m, err := d.OpenMemory(ctx, hv.MechanismDirect)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return d, m
}

// TestAdvertChanges reads a table that a driver keeps changing, in a guest
// that runs.
func TestAdvertChanges(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	g := up(ctx, t, Spec{Advert: 64, MemoryMiB: 128, CPUs: 2, Seed: 12})
	d, m := live(ctx, t, g)
	t.Run("protocol", func(t *testing.T) { checkProtocol(ctx, t, g, m) })
	t.Run("snap", func(t *testing.T) { checkReader(ctx, t, g, d, m) })
}

// checkProtocol: by the published protocol no read is torn. What the reads
// would have been without it shows that there is something to be had.
func checkProtocol(ctx context.Context, t *testing.T, g *Guest, m hv.Memory) {
	a := g.Boot.Advert
	read := func(va phys.VirtAddr, b []byte) {
		for len(b) > 0 {
			at, ok := g.Image.Translate(va)
			if !ok {
				t.Fatalf("%#x is not mapped", va)
			}
			n := min(len(b), int(phys.PageSize-va.Offset()))
			if err := m.ReadPhys(ctx, b[:n], at); err != nil {
				t.Fatal(err)
			}
			va, b = va+phys.VirtAddr(n), b[n:]
		}
	}
	const reads, changes, header, entry = 200, 100, 0x20, 0x20
	var stable, odd, changed, torn int
	generations := map[uint64]bool{}
	for stable < reads || len(generations) < changes || odd == 0 || torn == 0 {
		if ctx.Err() != nil {
			t.Fatalf("%d reads of %d generations succeeded; %d sequences were odd, %d changed, %d tables torn; want %d of %d and some of each",
				stable, len(generations), odd, changed, torn, reads, changes)
		}
		before, after := make([]byte, header), make([]byte, header)
		read(a.Table, before)
		count, sequence := le.Uint32(before[0x14:]), le.Uint32(before[0x10:])
		if !bytes.HasPrefix(before, []byte("SNAPRMPG\x01\x00\x20\x00\x40\x00\x00\x00")) || count > 64 {
			t.Fatalf("table = %x", before)
		}
		entries := make([]byte, count*entry)
		read(a.Table+header, entries)
		read(a.Table, after)
		generation, err := a.Check(entries)
		if err != nil {
			torn++
		}
		switch {
		case sequence%2 != 0:
			odd++
		case !bytes.Equal(before, after):
			changed++
		case err != nil:
			t.Fatalf("a read that the protocol lets pass, with sequence %d: %v", sequence, err)
		default:
			stable++
			generations[generation] = true
		}
	}
	t.Logf("%d reads of %d generations; %d sequences odd, %d changed, %d tables torn", stable, len(generations), odd, changed, torn)
}

// checkReader has snap read the table.
func checkReader(ctx context.Context, t *testing.T, g *Guest, d *libvirt.Domain, m hv.Memory) {
	regs, err := d.Registers(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s, err := guest.Discover(ctx, m, m.RAM(), regs)
	if err != nil {
		t.Fatal(err)
	}
	generations := map[uint64]bool{}
	for reads := 0; reads < 200 || len(generations) < 20; {
		got, err := s.Adverts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range got.Problems {
			if !p.Unstable {
				t.Fatalf("problem with %s: %s", p.Module, p.Reason)
			}
		}
		for _, table := range got.Tables {
			generation, err := g.Boot.Advert.Check(table.Entries)
			if table.Module != advertDriver || table.At != g.Boot.Advert.Table || err != nil {
				t.Fatalf("table of %s at %#x: %v", table.Module, uint64(table.At), err)
			}
			reads++
			generations[generation] = true
		}
	}
	t.Logf("%d generations", len(generations))
}

// TestAdvertOfOneProcessor: the one processor in the kernel does it.
func TestAdvertOfOneProcessor(t *testing.T) {
	s := Spec{Name: "a", Advert: 2, UserMode: true, MemoryMiB: 128}
	if err := s.complete(); err != nil {
		t.Fatal(err)
	}
	_, p, err := program(s)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Info.Advert.CPU; got != 0 {
		t.Errorf("vCPU %d changes the table; want 0, which alone is in the kernel", got)
	}
	for _, n := range []int{-2, 1, 3, 1 << 20} {
		s.Advert = n
		if _, _, err := program(s); err == nil {
			t.Errorf("program(%d entries) = nil; want an error", n)
		}
	}
}
