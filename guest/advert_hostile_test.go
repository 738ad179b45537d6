package guest_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// What is wrong with one table takes nothing from the others.
func TestBadAdvertTables(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 100})
	d := drivers(im)
	goodAt := advertise(t, im, d[2], goodTable(someEntries...))
	good := guest.AdvertTable{Module: d[2].Name, At: goodAt, EntrySize: 0x20, Capacity: 3, Count: 3, Sequence: 2, Entries: slices.Concat(someEntries...)}
	bad := d[0]
	data := advertise(t, im, bad, goodTable())
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	// A page of pool before one that isn't in memory.
	pool := pages(t, im, 2)
	unmap(t, im, pool+0x1000)

	headed := func(next phys.VirtAddr) advertTable {
		head := goodTable()
		head.next = next
		return head
	}
	headOf := guest.AdvertTable{Module: bad.Name, At: data, EntrySize: 0x20, Sequence: 2}
	edited := func(edit func(*advertTable)) advertTable {
		table := goodTable(someEntries...)
		edit(&table)
		return table
	}
	tests := []struct {
		name   string
		table  advertTable
		second advertTable   // at pool's end, if at is there
		at     phys.VirtAddr // of the fault
		want   string
	}{
		{"magic", edited(func(a *advertTable) { a.magic = "SNAPRMPH" }), advertTable{}, data, `begins with "SNAPRMPH"`},
		{"nothing at all", advertTable{}, advertTable{}, data, "begins with"},
		{"version", edited(func(a *advertTable) { a.version = 2 }), advertTable{}, data, "version 2"},
		{"entries of x86", edited(func(a *advertTable) { a.entrySize = 0x14 }), advertTable{}, data, "entries of 0x14 bytes"},
		{"entries of no bytes", edited(func(a *advertTable) { a.entrySize = 0 }), advertTable{}, data, "entries of 0x0 bytes"},
		{"more than fit", edited(func(a *advertTable) { a.count = 4 }), advertTable{}, data, "4 entries, with room for 3"},
		{"2^32-1 of none", edited(func(a *advertTable) { a.capacity, a.count = 0, 0xFFFF_FFFF }), advertTable{}, data, "4294967295 entries"},
		{"2^32-1 of as many", edited(func(a *advertTable) { a.capacity, a.count = 0xFFFF_FFFF, 0xFFFF_FFFF }), advertTable{}, data, "not present"},
		{"version, with a sound table behind it", edited(func(a *advertTable) { a.version, a.next = 2, pool+0xFC0 }), goodTable(), data, "version 2"},
		{"next in user space", headed(0x7FFE_0000), advertTable{}, 0x7FFE_0000, "not a kernel address"},
		{"next unaligned", headed(pool + 4), advertTable{}, pool + 4, "multiple of 8"},
		{"next not canonical", headed(0x8000_0000_0000_0000), advertTable{}, 0x8000_0000_0000_0000, "not a kernel address"},
		{"next not mapped", headed(0xFFFF_8000_0000_0000), advertTable{}, 0xFFFF_8000_0000_0000, "not present"},
		{"next paged out", headed(pool + 0x1000), advertTable{}, pool + 0x1000, "not present"},
		{"next at the end of memory", headed(0xFFFF_FFFF_FFFF_FFF8), advertTable{}, 0xFFFF_FFFF_FFFF_FFF8, "not canonical"},
		{"next is the table", headed(data), advertTable{}, data, "read already, for " + bad.Name},
		{"next is another driver's", headed(goodAt), advertTable{}, goodAt, "read already"},
		{"entries paged out", headed(pool + 0xFC0), edited(func(*advertTable) {}), pool + 0xFC0, "not present"},
	}
	for _, tt := range tests {
		writeBytes(t, im, data, tt.table.bytes())
		writeBytes(t, im, pool+0xFC0, tt.second.bytes()[:0x20])
		a, err := s.Adverts(t.Context())
		if err != nil {
			t.Errorf("%s: Adverts failed: %v", tt.name, err)
			continue
		}
		tables, problems := []guest.AdvertTable{good}, []problem{{bad.Name, tt.at, tt.want, false}}
		if tt.table.next != 0 && tt.table.version == 1 {
			tables = append([]guest.AdvertTable{headOf}, tables...)
		}
		if tt.table.next == goodAt { // it comes first in load order, and gets it
			stolen := good
			stolen.Module = bad.Name
			tables, problems[0].module = []guest.AdvertTable{headOf, stolen}, d[2].Name
		}
		t.Run(tt.name, func(t *testing.T) { checkAdverts(t, a, tables, problems) })
	}

	// A head that makes sense leads on, even if its entries can't be had.
	gone := edited(func(a *advertTable) { a.next = pool })
	writeBytes(t, im, pool, goodTable().bytes())
	writeBytes(t, im, pool+0xFC0, gone.bytes()[:0x20])
	writeBytes(t, im, data, headed(pool+0xFC0).bytes())
	checkAdverts(t, adverts(t, im, nil), []guest.AdvertTable{headOf, {Module: bad.Name, At: pool, EntrySize: 0x20, Sequence: 2}, good},
		[]problem{{bad.Name, pool + 0xFC0, "not present", false}})
}

func TestBadAdvertExports(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 101})
	d := drivers(im)
	goodAt := advertise(t, im, d[5], goodTable())
	good := []guest.AdvertTable{{Module: d[5].Name, At: goodAt, EntrySize: 0x20, Sequence: 2}}

	export(t, im, d[0], "SnapRemovePages", 0xFFFF_FFF0)
	export(t, im, d[1], "SnapRemovePages", exportsRVA+0x32) // a forwarder
	export(t, im, d[2], "SnapRemovePages", 0x2000)
	writeBytes(t, im, d[2].Base+exportsRVA+0x14, binary.LittleEndian.AppendUint32(nil, 0xFFFF_FFFF))
	export(t, im, d[3], "SnapRemovePagez", 0x2000)
	writeBytes(t, im, d[4].Base, []byte("ZM"))
	unmap(t, im, d[6].Base)
	export(t, im, d[7], "SnapRemovePages", 0x2000)
	unmap(t, im, d[7].Base+exportsRVA)
	export(t, im, d[8], "SnapRemovePages", uint32(sectionOf(t, im, d[8], ".data")-d[8].Base)+4)

	a := adverts(t, im, nil)
	checkAdverts(t, a, good, []problem{
		{d[0].Name, d[0].Base, "outside the image", false},
		{d[1].Name, d[1].Base, "forwarded", false},
		{d[2].Name, d[2].Base, "4294967295 functions", false},
		{d[4].Name, d[4].Base, "signature", false},
		{d[8].Name, sectionOf(t, im, d[8], ".data") + 4, "multiple of 8", false},
	})
	if want := []string{d[6].Name, d[7].Name}; !slices.Equal(a.Unread, want) {
		t.Errorf("Unread = %q; want %q", a.Unread, want)
	}
}

// Chains end, and so does the guest's share of tables.
func TestAdvertChains(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 102})
	d := drivers(im)
	const links = 10_000
	pool := pages(t, im, links*0x20/phys.PageSize+1)
	var b []byte
	for i := range phys.VirtAddr(links) {
		table := goodTable()
		table.next = pool + 0x20*(i+1)
		b = append(b, table.bytes()...)
	}
	writeBytes(t, im, pool, b)
	var problems []problem
	for i, m := range d[:5] {
		head := goodTable()
		head.next = pool + phys.VirtAddr(i)*0x20*1000
		advertise(t, im, m, head)
		problems = append(problems, problem{m.Name, head.next + 63*0x20, "more than 64 tables", false})
	}
	a := adverts(t, im, nil)
	// 4 times 64 tables is all that a guest gets.
	problems[4] = problem{d[4].Name, sectionOf(t, im, d[4], ".data"), "first 256 tables", false}
	checkProblems(t, a, problems)
	perModule := map[string]int{}
	for _, table := range a.Tables {
		perModule[table.Module]++
	}
	for _, m := range d[:4] {
		if perModule[m.Name] != 64 {
			t.Errorf("%d tables of %s; want 64", perModule[m.Name], m.Name)
		}
	}

	// A loop of three.
	write(t, im, pool+0x20*2+0x18, uint64(pool))
	for _, m := range d[1:5] {
		export(t, im, m, "Other", 0x1000)
	}
	a = adverts(t, im, nil)
	checkProblems(t, a, []problem{{d[0].Name, pool, "read already", false}})
	if len(a.Tables) != 4 {
		t.Errorf("%d tables; want the driver's and three", len(a.Tables))
	}
}

// What is taken is bounded, and what was cut off is said.
func TestAdvertEntriesAreBounded(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 103})
	d := drivers(im)
	const entries = 1<<16 + 1
	at := pages(t, im, 2*(entries*0x20/phys.PageSize+2))
	second := at + (entries*0x20+0x20+0xFFF)&^0xFFF
	for i, va := range []phys.VirtAddr{at, second} {
		table := goodTable(make([]byte, entries*0x20))
		table.capacity, table.count = 0xFFFF_FFFF, entries-uint32(i)
		writeBytes(t, im, va, table.bytes())
		head := goodTable()
		head.next = va
		advertise(t, im, d[i], head)
	}
	small := advertise(t, im, d[2], goodTable(someEntries[0]))
	a := adverts(t, im, nil)
	checkProblems(t, a, []problem{
		{d[0].Name, at, "first 65536 of 65537 entries", false},
		{d[2].Name, small, "first 0 of 1 entries", false}, // 2^17 are taken
	})
	var got []int
	for _, table := range a.Tables {
		got = append(got, len(table.Entries))
	}
	if want := []int{0, 0x20 << 16, 0, 0x20 << 16, 0}; !slices.Equal(got, want) {
		t.Errorf("bytes of entries = %d; want %d", got, want)
	}
}

// addModules appends n entries to PsLoadedModuleList, all images the pages of
// one driver at addresses of their own, and returns the first's base.
func addModules(t *testing.T, im *ntlab.Image, d ntlab.Module, n int) phys.VirtAddr {
	t.Helper()
	const base = 0xFFFF_F87F_0000_0000
	flags := uint64(1 | 1<<5 | 1<<6)
	for i := range n {
		for off := phys.VirtAddr(0); off < phys.VirtAddr(d.Size); off += 0x1000 {
			pa, ok := im.Translate(d.Base + off)
			if !ok {
				continue
			}
			va := base + phys.VirtAddr(i)*phys.VirtAddr(d.Size) + off
			if err := im.MapPage(im.Truth.DirectoryTableBase, va, pa.PFN(), 1, flags); err != nil {
				t.Fatal(err)
			}
		}
	}
	const size = 0x80
	entries := pages(t, im, n*size/phys.PageSize+1)
	head := im.Truth.PsLoadedModuleList
	prev := phys.VirtAddr(read(t, im, head+8))
	for i := range n {
		at := entries + phys.VirtAddr(i)*size
		b := make([]byte, size)
		binary.LittleEndian.PutUint64(b, uint64(at+size))
		binary.LittleEndian.PutUint64(b[8:], uint64(prev))
		binary.LittleEndian.PutUint64(b[0x30:], uint64(base+phys.VirtAddr(i)*phys.VirtAddr(d.Size)))
		binary.LittleEndian.PutUint32(b[0x40:], d.Size)
		writeBytes(t, im, at, b)
		write(t, im, prev, uint64(at))
		prev = at
	}
	write(t, im, prev, uint64(head))
	write(t, im, head+8, uint64(prev))
	return base
}

func TestTenThousandModules(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 104})
	d := slices.MinFunc(drivers(im), func(a, b ntlab.Module) int { return int(a.Size) - int(b.Size) })
	advertise(t, im, d, goodTable(someEntries[0]))
	base := addModules(t, im, d, 10_000)
	header, _ := im.Translate(d.Base)
	looked := 0
	a := adverts(t, im, &watched{im, func(p []byte, at phys.Addr) {
		if at == header && len(p) == phys.PageSize {
			looked++
		}
	}})
	checkProblems(t, a, []problem{
		{fmt.Sprintf("module at %#x", uint64(base)+255*uint64(d.Size)), base + 255*phys.VirtAddr(d.Size) + (a.Tables[0].At - d.Base), "first 256 tables", false},
		{"", im.Truth.PsLoadedModuleList, "first 2048 modules", false},
	})
	if len(a.Tables) != 256 {
		t.Errorf("%d tables; want 256", len(a.Tables))
	}
	// The driver itself and its copies, after those that were there.
	if want := 2048 - (len(im.Truth.Modules) - 1); looked != want {
		t.Errorf("%d modules with the same header were looked at; want %d", looked, want)
	}
}

// One image in the list a thousand times is one image.
func TestSameModuleManyTimes(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 105})
	d := drivers(im)[0]
	at := advertise(t, im, d, goodTable())
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	mods, err := s.Modules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mods[2:] {
		write(t, im, m.Entry+0x30, uint64(d.Base))
	}
	checkAdverts(t, adverts(t, im, nil), []guest.AdvertTable{
		{Module: mods[2].Name, At: at, EntrySize: 0x20, Sequence: 2},
	}, nil)
}

// A name is what it is: text from the guest. What is wrong with one module's
// entry takes nothing from the modules behind it.
func TestAdvertNames(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 106})
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	mods, err := s.Modules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	pool := pages(t, im, 1)
	text := func(at phys.VirtAddr, s string) uint16 {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = binary.LittleEndian.AppendUint16(b, u)
		}
		writeBytes(t, im, at, b)
		return uint16(len(b))
	}
	name := func(m guest.Module, off phys.VirtAddr, at phys.VirtAddr, length uint16) {
		write(t, im, m.Entry+off, uint64(length)|uint64(length)<<16, uint64(at))
	}
	var want []string
	last := len(mods) - 1
	for i, set := range map[int]struct {
		edit func(m guest.Module)
		want string
	}{
		last - 6: {func(m guest.Module) { name(m, 0x58, pool, text(pool, "a\x1b[2Jb\u202ec\n.sys")) }, "a\uFFFD[2Jb\uFFFDc\uFFFD.sys"},
		last - 5: {func(m guest.Module) { name(m, 0x58, pool+0x100, text(pool+0x100, strings.Repeat("x", 400))) }, strings.Repeat("x", 128)},
		last - 4: {func(m guest.Module) { name(m, 0x58, pool+0x500, 7) }, mods[last-4].Name}, // by its path
		last - 3: {func(m guest.Module) { name(m, 0x58, 0x1000, 8); name(m, 0x48, ^phys.VirtAddr(1), 8) }, fmt.Sprintf("module at %#x", uint64(mods[last-3].Base))},
		last - 2: {func(m guest.Module) { name(m, 0x58, pool+0x600, 6); write(t, im, pool+0x600, 0xDC00_D800_DC00) }, "\uFFFD\U00010000"},
	} {
		if set.edit(mods[i]); mods[i].Name == "" {
			t.Fatalf("module %d has no name", i)
		}
		want = append(want, set.want)
	}
	write(t, im, mods[2].Entry+0x30, 0xFFFF_F800_0000_0123) // not an image's base
	write(t, im, mods[3].Entry+0x40, 0xFFFF_FFFF)           // nor an image's size
	for i := last - 6; i <= last-2; i++ {
		writeBytes(t, im, mods[i].Base, []byte("ZM"))
	}
	var got []string
	a := adverts(t, im, nil)
	for _, p := range a.Problems {
		got = append(got, p.Module)
	}
	want = append(want, mods[2].Name, mods[3].Name)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("problems are of %q; want %q", got, want)
	}
}

// A list that is broken gives what comes before the break, and says so.
func TestAdvertsOfBrokenList(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 107})
	d := drivers(im)
	i := slices.IndexFunc(im.Truth.Modules, func(m ntlab.Module) bool { return m == d[1] })
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	mods, err := s.Modules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := advertise(t, im, d[0], goodTable())
	advertise(t, im, d[2], goodTable())
	write(t, im, mods[i].Entry, 0xFFFF_8000_0000_0000)
	checkAdverts(t, adverts(t, im, nil), []guest.AdvertTable{{Module: d[0].Name, At: first, EntrySize: 0x20, Sequence: 2}},
		[]problem{{"", im.Truth.PsLoadedModuleList, "not present", false}})
}

// No attack on the rest of the guest makes Adverts fail, or Protected.
func TestAdvertsUnderAttack(t *testing.T) {
	for _, p := range ntlab.Profiles() {
		base := build(t, ntlab.Config{Profile: p, Seed: 108, PlainKDBG: true})
		for _, attack := range ntlab.Attacks() {
			t.Run(p+"/"+attack.Name, func(t *testing.T) {
				t.Parallel()
				im := base.Clone()
				s, err := discover(t, im)
				if err != nil {
					t.Fatal(err)
				}
				if err := attack.Edit(im); err != nil && !errors.Is(err, ntlab.ErrNothingThere) {
					t.Fatal(err)
				}
				if _, err := s.Adverts(t.Context()); err != nil {
					t.Errorf("Adverts failed: %v", err)
				}
				set, err := s.Protected(t.Context())
				if err != nil {
					t.Errorf("Protected failed: %v", err)
				}
				checkDisjoint(t, im, set)
			})
		}
	}
}
