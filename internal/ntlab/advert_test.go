package ntlab

import (
	"bytes"
	"slices"
	"testing"

	"snap/phys"
)

// readTable reads a table as its layout is published: entries, Sequence and
// Next.
func (g guest) readTable(va uint64) (entries []RemovePages, sequence uint32, next uint64) {
	g.t.Helper()
	h := g.bytes(va, 32)
	if string(h[:12]) != "SNAPRMPG\x01\x00\x20\x00" {
		g.t.Fatalf("table at %#x begins with %q", va, h[:12])
	}
	capacity, count := le.Uint32(h[12:]), le.Uint32(h[20:])
	if count > capacity {
		g.t.Fatalf("table at %#x has %d of %d entries", va, count, capacity)
	}
	for i := range uint64(count) {
		e := g.bytes(va+32+32*i, 32)
		entries = append(entries, RemovePages{
			le.Uint64(e), le.Uint32(e[8:]), le.Uint32(e[12:]), le.Uint64(e[16:]), le.Uint64(e[24:]),
		})
	}
	return entries, le.Uint32(h[16:]), le.Uint64(h[24:])
}

func sampleEntries(n, first int) []RemovePages {
	out := make([]RemovePages, n)
	for i := range out {
		v := uint64(first + i)
		out[i] = RemovePages{v + 1, RemovePhysical, uint32(v), v << 12, v + 2}
	}
	return out
}

func TestAdvertise(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		second := &Advert{Entries: sampleEntries(300, 1000), Sequence: 4, Offset: 0xFF8}
		first := &Advert{Entries: sampleEntries(5, 0), Capacity: 200, Next: second, Offset: 0xFE8}
		a, err := g.im.Advertise("secrets.sys", first)
		if err != nil {
			t.Fatal(err)
		}
		m := g.im.Truth.Modules[len(g.im.Truth.Modules)-1]
		if got := len(g.list(uint64(g.im.Truth.PsLoadedModuleList))); m.Name != "secrets.sys" || got != len(g.im.Truth.Modules) {
			t.Fatalf("%d modules are listed, the last is %s; want %d", got, m.Name, len(g.im.Truth.Modules))
		}
		at := g.exported(m, "SnapRemovePages")
		if at != uint64(a.Symbol) || at&0xfff != 0xFE8 || g.pteOf(at)&2 == 0 || g.pteOf(at)>>63 == 0 {
			t.Errorf("SnapRemovePages at %#x, page-table entry %#x; want it at %#x, writable data", at, g.pteOf(at), a.Symbol)
		}
		for i, want := range []*Advert{first, second} {
			entries, sequence, next := g.readTable(at)
			if !slices.Equal(entries, want.Entries) || sequence != want.Sequence || at != uint64(a.Tables[i].VA) || at%8 != 0 {
				t.Errorf("table %d at %#x: sequence %d, %d entries; want %d, %d as given", i, at, sequence, len(entries), want.Sequence, len(want.Entries))
			}
			p, _ := walk(t, g.im, g.root, at&^0xfff)
			q, _ := walk(t, g.im, g.root, at&^0xfff+0x1000)
			if q == p+0x1000 {
				t.Errorf("table %d lies in physical pages that follow each other", i)
			}
			at = next
		}
		if at != 0 {
			t.Errorf("the chain goes on at %#x", at)
		}
	})
}

func TestAdvertiseInPoolAndByALoadedDriver(t *testing.T) {
	g := build(t, Config{Seed: 22})
	m, err := g.im.LoadDriver("snapadv.sys", sampleDriver(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]*Advert{
		"snapadv.sys": {Entries: sampleEntries(3, 0)},
		"pooled.sys":  {Entries: sampleEntries(4, 0), InPool: true},
	} {
		got, err := g.im.Advertise(name, a)
		if err != nil {
			t.Fatal(err)
		}
		m, _ = g.im.module(name)
		head := g.exported(m, "SnapRemovePages")
		entries, sequence, next := g.readTable(head)
		if head != uint64(got.Symbol) || len(entries) != 0 || sequence%2 != 0 || len(got.Tables) != 2 || next != uint64(got.Tables[1].VA) {
			t.Errorf("%s: head at %#x has %d entries and leads to %#x; Advertise = %+v", name, head, len(entries), next, got)
		}
		if base := uint64(m.Base); next >= base && next < base+uint64(m.Size) {
			t.Errorf("%s: the table is in the driver", name)
		}
		if entries, _, next = g.readTable(next); !slices.Equal(entries, a.Entries) || next != 0 {
			t.Errorf("%s: %d entries, next %#x; want %d, 0", name, len(entries), next, len(a.Entries))
		}
	}
	if len(g.im.Truth.Adverts) != 2 {
		t.Errorf("Truth has %d adverts; want 2", len(g.im.Truth.Adverts))
	}
	for name, a := range map[string]*Advert{
		"CI.dll":     {},
		"none.sys":   {Capacity: 1, Entries: sampleEntries(2, 0)},
		"much.sys":   {Capacity: 1 << 31},
		"behind.sys": {Offset: phys.PageSize},
	} {
		if _, err := g.im.Advertise(name, a); err == nil {
			t.Errorf("Advertise(%s, %+v) = nil; want an error", name, a)
		}
	}
}

func TestRegister(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		if _, err := g.im.Advertise("loud.sys", &Advert{Entries: sampleEntries(9, 0)}); err != nil {
			t.Fatal(err)
		}
		third := g.im.Truth.Modules[3].Name
		var want []uint64
		for _, name := range []string{"silent.sys", "loud.sys", third} {
			r, err := g.im.Register(name)
			if err != nil {
				t.Fatal(err)
			}
			m, _ := g.im.module(name)
			b := g.bytes(uint64(r.Record), 0x30)
			routine, component := le.Uint64(b[0x10:]), le.Uint64(b[0x18:])
			if le.Uint64(b[0x20:]) != routine+component+6 || le.Uint32(b[0x28:]) != 6 || b[0x2C] != 1 || r.Record%8 != 0 {
				t.Errorf("%s: record at %#x = %x", name, r.Record, b)
			}
			for _, va := range []uint64{routine, component, uint64(r.Record)} {
				if va < uint64(m.Base) || va >= uint64(m.Base)+uint64(m.Size) {
					t.Errorf("%s: %#x is outside of the driver", name, va)
				}
			}
			if g.pteOf(routine)>>63 != 0 || g.pteOf(uint64(r.Record))&2 == 0 {
				t.Errorf("%s: the routine can't be run, or the record not written", name)
			}
			if text := name[:len(name)-4] + "\x00"; string(g.bytes(component, len(text))) != text {
				t.Errorf("%s: Component isn't %q", name, text)
			}
			want = append(want, uint64(r.Record))
		}
		if got := g.list(g.symbol("KeBugCheckAddRemovePagesCallbackListHead")); !slices.Equal(got, want) {
			t.Errorf("KeBugCheckAddRemovePagesCallbackListHead has %#x; want %#x", got, want)
		}
		m, _ := g.im.module("silent.sys")
		if at := g.exported(m, "SnapRemovePages"); at != 0 {
			t.Errorf("silent.sys exports SnapRemovePages at %#x", at)
		}
		m, _ = g.im.module("loud.sys")
		if entries, _, _ := g.readTable(g.exported(m, "SnapRemovePages")); !slices.Equal(entries, sampleEntries(9, 0)) {
			t.Error("the record overwrote the table")
		}
	})
}

// TestAdvertAttacks holds each attack against what the published rules say of
// its entries.
func TestAdvertAttacks(t *testing.T) {
	for _, p := range Profiles() {
		names := map[string]bool{}
		for _, a := range AdvertAttacks() {
			t.Run(p+" "+a.Name, func(t *testing.T) {
				g := build(t, Config{Profile: p, Seed: 23, Memory: 128 * mib})
				modules := len(g.im.Truth.Modules)
				out, err := a.Edit(g.im)
				if err != nil {
					t.Fatal(err)
				}
				var entries int
				for _, ad := range g.im.Truth.Adverts {
					for _, table := range ad.Tables {
						entries += len(table.Entries)
					}
				}
				unread := out.Broken + out.Unstable // one entry each, but for where Next leads
				if a.Name == "next" {
					unread = 0
				}
				if sum := out.Honoured + out.Refused + out.Ignored + out.Limited + unread; sum != entries || entries == 0 {
					t.Errorf("of %d entries %d have an outcome: %+v", entries, sum, out)
				}
				if got := len(g.list(uint64(g.im.Truth.PsLoadedModuleList))); got != len(g.im.Truth.Modules) || got == modules {
					t.Errorf("%d modules are listed; want %d", got, len(g.im.Truth.Modules))
				}
				if len(out.Excluded.Minus(g.im.RAM())) != 0 || out.Excluded.Intersect(g.vital()).Pages() != 0 {
					t.Errorf("pages that must stay are to be left out: %v", out.Excluded.Intersect(g.vital()))
				}
				if half := out.Excluded.Pages() > g.im.RAM().Pages()/2; half != out.TooMany || half != (a.Name == "more than half") {
					t.Errorf("%d of %d pages are to be left out, TooMany = %v", out.Excluded.Pages(), g.im.RAM().Pages(), out.TooMany)
				}
			})
			if names[a.Name] || a.About == "" {
				t.Errorf("attack %q is there twice, or says nothing", a.Name)
			}
			names[a.Name] = true
		}
	}
}

// vital returns the pages that a debugger needs, by an own walk.
func (g guest) vital() phys.Runs {
	g.t.Helper()
	var runs []phys.Run
	add := func(at uint64) { runs = append(runs, phys.Run{Base: phys.Addr(at).PFN(), Pages: 1}) }
	var tables func(table uint64, shift uint)
	tables = func(table uint64, shift uint) {
		add(table)
		if shift == 12 {
			return
		}
		b := make([]byte, 4096)
		if err := g.im.ReadPhys(g.t.Context(), b, phys.Addr(table)); err != nil {
			g.t.Fatal(err)
		}
		for i := 0; i < 4096; i += 8 {
			e := le.Uint64(b[i:])
			if next := e & 0x000ffffffffff000; e&1 != 0 && next != g.root && (shift >= 39 || e&0x80 == 0) {
				tables(next, shift-9)
			}
		}
	}
	tables(g.root, topShift(g.im))
	truth := &g.im.Truth
	vas := append(g.list(uint64(truth.PsLoadedModuleList)), uint64(truth.PsLoadedModuleList), uint64(truth.KDBG),
		uint64(truth.KernelBase), 0xFFFFF78000000000)
	for _, p := range truth.Processors {
		vas = append(vas, uint64(p.KPCR), uint64(p.KPRCB), uint64(p.Context))
	}
	for _, va := range vas {
		at, ok := walk(g.t, g.im, g.root, va)
		if !ok {
			g.t.Fatalf("%#x is not mapped", va)
		}
		add(at)
	}
	all, err := phys.NewRuns(runs...)
	if err != nil {
		g.t.Fatal(err)
	}
	return all
}

func TestMark(t *testing.T) {
	everyKind(t, func(t *testing.T, g guest) {
		const n = 9
		marked := map[phys.PFN]*Marked{}
		for _, kind := range MarkKinds() {
			ms, err := g.im.Mark(n, kind)
			if kind == MarkHuge && g.im.Config.Memory < minHuge {
				if err == nil {
					t.Error("Mark found a 1 GiB page where there is none")
				}
				continue
			}
			if err != nil || len(ms) == 0 || (kind != MarkRunEnds && len(ms) != 1) {
				t.Fatalf("Mark(%s) = %d ranges, %v", kind, len(ms), err)
			}
			for i := range ms {
				m := &ms[i]
				g.checkMarked(m, n)
				for _, p := range m.PFNs {
					if marked[p] != nil {
						t.Errorf("page %#x is marked twice", p)
					}
					marked[p] = m
				}
			}
			if _, err := g.im.Mark(n, kind); err != nil && kind != MarkRunEnds {
				t.Errorf("Mark(%s) a second time: %v", kind, err)
			}
		}
		if len(g.im.Truth.Marks) < 2*len(MarkKinds())-2 {
			t.Errorf("Truth has %d marks", len(g.im.Truth.Marks))
		}
		for _, m := range g.im.Truth.Marks {
			for _, p := range m.PFNs {
				if marked[p] == nil {
					marked[p] = &m
				}
			}
		}
		for p, b := range g.im.Pages() {
			if marked[p] != nil {
				if !bytes.Contains(b[:], marked[p].Marker) {
					t.Errorf("page %#x lacks its marker", p)
				}
				continue
			}
			for _, m := range g.im.Truth.Marks {
				if bytes.Contains(b[:], m.Marker[:8]) || bytes.Contains(b[:], m.Marker[40:48]) {
					t.Errorf("page %#x holds the marker of page %#x", p, m.PFNs[0])
				}
			}
		}
	})
}

// checkMarked checks a range by an own walk.
func (g guest) checkMarked(m *Marked, n int) {
	g.t.Helper()
	if len(m.Marker) < 64 || uint64(len(m.PFNs)) > m.Pages || len(m.PFNs) == 0 || m.Pages > uint64(n) {
		g.t.Fatalf("%s: marker of %d bytes on %d of %d pages", m.Kind, len(m.Marker), len(m.PFNs), m.Pages)
	}
	r := m.Request()
	if m.Kind == MarkRunEnds {
		g.checkRunEnd(m, r)
		return
	}
	var present []phys.PFN
	transition := 0
	for i := range m.Pages {
		e := g.pteOf(uint64(m.VA) + i<<12)
		at, ok := walk(g.t, g.im, g.root, uint64(m.VA)+i<<12)
		switch {
		case ok:
			present = append(present, phys.Addr(at).PFN())
		case e>>10&1 == 1: // a prototype entry, which has no page or one at most
			e = g.u64(0xffff000000000000 | e>>16)
			if e&1 == 0 && e>>10&3 != 2 {
				break
			}
			fallthrough
		case e>>10&3 == 2:
			transition++
			present = append(present, phys.Addr(e&0x000ffffffffff000).PFN()&g.frames())
		}
	}
	if !slices.Equal(present, m.PFNs) || r.Flags != 1 || r.Address != uint64(m.VA) || r.Count != m.Pages {
		g.t.Errorf("%s: pages %#x; want %#x; asked for by %+v", m.Kind, present, m.PFNs, r)
	}
	large := g.pteOf(uint64(m.VA))&0x81 == 0x81
	switch {
	case large != (m.Kind == MarkLarge || m.Kind == MarkHuge):
		g.t.Errorf("%s: in a large page: %v", m.Kind, large)
	case (m.Kind == MarkTransition || m.Kind == MarkHidden) && transition != n, m.Kind == MarkPartly && (transition != 2 || len(present) != 5):
		g.t.Errorf("%s: %d of %d pages in RAM, %d of them in transition", m.Kind, len(present), m.Pages, transition)
	case m.Kind == MarkSmall && slices.IsSorted(present):
		g.t.Errorf("%s: the pages are in physical order", m.Kind)
	}
	if (len(m.Views) == 2) != (m.Kind == MarkShared) {
		g.t.Errorf("%s: %d views", m.Kind, len(m.Views))
	}
	for _, v := range m.Views {
		for i, p := range m.PFNs {
			at, ok := walk(g.t, g.im, uint64(v.DirectoryTableBase), uint64(v.VA)+uint64(i)<<12)
			if !ok || phys.Addr(at).PFN() != p {
				g.t.Errorf("%s: page %d of %#x in %#x is %#x; want %#x", m.Kind, i, v.VA, v.DirectoryTableBase, at, p)
			}
		}
	}
}

// checkRunEnd checks that the range begins or ends where a run of Windows'
// does, or spans its end by a page.
func (g guest) checkRunEnd(m *Marked, r RemovePages) {
	g.t.Helper()
	for i, p := range m.PFNs {
		if p != m.PFNs[0]+phys.PFN(i) {
			g.t.Fatalf("%s: pages %#x don't follow each other", m.Kind, m.PFNs)
		}
		if !g.im.RAM().Has(p) {
			g.t.Errorf("%s: page %#x is not RAM", m.Kind, p)
		}
	}
	end := m.PFNs[0] + phys.PFN(len(m.PFNs))
	ok := slices.ContainsFunc(g.im.Truth.Runs, func(run phys.Run) bool {
		return m.PFNs[0] == run.Base || end == run.End() || end == run.End()+1
	})
	if !ok || r.Flags != 2 || r.Address != uint64(m.PFNs[0])<<12 || r.Count != uint64(len(m.PFNs)) || m.VA != 0 {
		g.t.Errorf("%s: %#x to %#x, asked for by %+v", m.Kind, m.PFNs[0], end, r)
	}
}
