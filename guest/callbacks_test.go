package guest_test

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// callback is a KBUGCHECK_REASON_CALLBACK_RECORD, registered for
// KbCallbackRemovePages; its neighbours in the list are anything.
func callback(routine, component phys.VirtAddr) []byte {
	b := make([]byte, 0x30)
	binary.LittleEndian.PutUint64(b, 0xFFFF_F800_0000_0010)
	binary.LittleEndian.PutUint64(b[0x08:], 0xFFFF_F800_0000_0010)
	binary.LittleEndian.PutUint64(b[0x10:], uint64(routine))
	binary.LittleEndian.PutUint64(b[0x18:], uint64(component))
	binary.LittleEndian.PutUint64(b[0x20:], uint64(routine)+6+uint64(component))
	binary.LittleEndian.PutUint32(b[0x28:], 6)
	b[0x2C] = 1
	return b
}

func TestSilentDrivers(t *testing.T) {
	for _, p := range ntlab.Profiles() {
		im := build(t, ntlab.Config{Profile: p, Seed: 110})
		d := drivers(im)
		name := d[0].Base + 0x1B00
		writeBytes(t, im, name, []byte("KeyVault\x00junk"))
		data := sectionOf(t, im, d[0], ".data")
		other := sectionOf(t, im, d[1], ".data")
		advertise(t, im, d[2], goodTable())

		// One in its driver's data, at its very end; one in another's.
		writeBytes(t, im, data+0xFD0, callback(d[0].Base+0x1080, name))
		writeBytes(t, im, other+0x18, callback(d[4].Base+0x1040, name))
		// Of a driver that advertises, of the kernel, and in read-only data.
		writeBytes(t, im, other+0x100, callback(d[2].Base+0x1040, name))
		writeBytes(t, im, other+0x140, callback(im.Truth.KernelBase+0x1000, name))
		writeBytes(t, im, d[3].Base+0x1A00, callback(d[3].Base+0x1040, name))
		// In the kernel, where it is no driver's.
		writeBytes(t, im, sectionOf(t, im, im.Truth.Modules[0], ".data")+0x10, callback(d[5].Base+0x1040, name))
		a := adverts(t, im, nil)
		want := []guest.SilentDriver{
			{Module: d[0].Name, Component: "KeyVault", Record: data + 0xFD0},
			{Module: d[4].Name, Component: "KeyVault", Record: other + 0x18},
		}
		if diff := cmp.Diff(want, a.Silent); diff != "" {
			t.Errorf("%s: silent drivers (-want +got):\n%s", p, diff)
		}
		if len(a.Problems) != 0 {
			t.Errorf("%s: Problems = %+v", p, a.Problems)
		}
	}
}

// Each rule of a record.
func TestCallbackRecords(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 111})
	d := drivers(im)[0]
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	at := sectionOf(t, im, d, ".data") + 0x200
	routine, component := d.Base+0x1080, d.Base+0x1B00
	writeBytes(t, im, component, []byte("X\x00"))
	free := phys.VirtAddr(0xFFFF_8000_0000_1000)
	edit := func(off int, v byte) func(b []byte) { return func(b []byte) { b[off] = v } }
	resum := func(b []byte) {
		sum := binary.LittleEndian.Uint64(b[0x10:]) + uint64(binary.LittleEndian.Uint32(b[0x28:])) + binary.LittleEndian.Uint64(b[0x18:])
		binary.LittleEndian.PutUint64(b[0x20:], sum)
	}
	pointer := func(off int, va phys.VirtAddr) func(b []byte) {
		return func(b []byte) {
			binary.LittleEndian.PutUint64(b[off:], uint64(va))
			resum(b)
		}
	}
	for _, tt := range []struct {
		name  string
		edit  func(b []byte)
		shift phys.VirtAddr
		want  bool
	}{
		{"sound", func([]byte) {}, 0, true},
		{"not 8-aligned", func([]byte) {}, 4, false},
		{"checksum", edit(0x20, 0), 0, false},
		{"reason 4 and its checksum", func(b []byte) { b[0x28] = 4; resum(b) }, 0, false},
		{"reason 5 and the checksum of 6", edit(0x28, 5), 0, false},
		{"reason 6 with high bits", func(b []byte) { b[0x2B] = 1; resum(b) }, 0, false},
		{"state empty", edit(0x2C, 0), 0, false},
		{"state started", edit(0x2C, 2), 0, true},
		{"state incomplete", edit(0x2C, 4), 0, true},
		{"no state", edit(0x2C, 5), 0, false},
		{"last byte of the image", pointer(0x10, d.Base+phys.VirtAddr(d.Size)-1), 0, true},
		{"first byte after it", pointer(0x10, d.Base+phys.VirtAddr(d.Size)), 0, false},
		{"routine outside of modules", pointer(0x10, free), 0, false},
		{"component outside of modules", pointer(0x18, free), 0, false},
	} {
		b := callback(routine, component)
		tt.edit(b)
		writeBytes(t, im, at, make([]byte, 0x80))
		writeBytes(t, im, at+tt.shift, b)
		a, err := s.Adverts(t.Context())
		if err != nil {
			t.Fatalf("%s: Adverts failed: %v", tt.name, err)
		}
		if got := len(a.Silent) == 1; got != tt.want || len(a.Silent) > 1 {
			t.Errorf("%s: Silent = %+v; want one: %v", tt.name, a.Silent, tt.want)
		}
	}
}

func TestComponents(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 112})
	d := drivers(im)[0]
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	data := sectionOf(t, im, d, ".data")
	gone := sectionOf(t, im, d, ".rdata")
	unmap(t, im, gone)
	for text, want := range map[string]string{
		"":                                "",
		"a b":                             "a b",
		"\x1b[2J\xC3\xA9\n":               "?[2J??",
		strings.Repeat("z", 100):          strings.Repeat("z", 64),
		strings.Repeat("z", 63) + "\x00y": strings.Repeat("z", 63),
	} {
		writeBytes(t, im, d.Base+0x1B00, append([]byte(text), 0))
		writeBytes(t, im, data, callback(d.Base+0x1080, d.Base+0x1B00))
		writeBytes(t, im, data+0x40, callback(d.Base+0x1080, gone)) // its text is paged out
		a, err := s.Adverts(t.Context())
		if err != nil || len(a.Silent) != 2 || a.Silent[0].Component != want || a.Silent[1].Component != "" {
			t.Errorf("component %q: Silent = %+v, %v; want %q and nothing", text, a.Silent, err, want)
		}
	}
}

// The list that a record is in leads to others, wherever they are, and has an
// end.
func TestLinkedCallbacks(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 115})
	d := drivers(im)
	data, pool := sectionOf(t, im, d[0], ".data"), pages(t, im, 2)
	component := d[0].Base + 0x1B00
	writeBytes(t, im, component, []byte("L\x00"))
	head := symbol(t, im, "PsInitialSystemProcess") - 0x400 // somewhere in the kernel's data
	linked := func(at, next phys.VirtAddr, b []byte) {
		binary.LittleEndian.PutUint64(b, uint64(next))
		writeBytes(t, im, at, b)
	}
	added := callback(d[1].Base+0x1040, component)
	added[0x28], added[0x20] = 4, added[0x20]-2 // for KbCallbackAddPages, in the same list
	linked(data, pool+0x40, callback(d[0].Base+0x1040, component))
	linked(pool+0x40, pool+0xFE8, added)
	linked(pool+0xFE8, head, callback(d[2].Base+0x1040, component))
	write(t, im, head, uint64(pool)+0x100)
	linked(pool+0x100, data, callback(d[3].Base+0x1040, component))
	want := []guest.SilentDriver{
		{Module: d[0].Name, Component: "L", Record: data},
		{Module: d[2].Name, Component: "L", Record: pool + 0xFE8},
		{Module: d[3].Name, Component: "L", Record: pool + 0x100},
	}
	if diff := cmp.Diff(want, adverts(t, im, nil).Silent); diff != "" {
		t.Errorf("silent drivers (-want +got):\n%s", diff)
	}

	// A list that leads out of memory, to where no record can be, or 100,000
	// entries far.
	writeBytes(t, im, pool+0x204, callback(d[3].Base+0x1040, component))
	for _, next := range []uint64{0x7FFE_0000, uint64(pool) + 0x204} {
		write(t, im, pool+0xFE8, next)
		if got := adverts(t, im, nil).Silent; len(got) != 2 {
			t.Errorf("Silent, with a link to %#x = %+v; want the first two", next, got)
		}
	}
	far := pages(t, im, 100_000*8/phys.PageSize+2)
	var b []byte
	for i := range phys.VirtAddr(100_000) {
		b = binary.LittleEndian.AppendUint64(b, uint64(far+8*i+8))
	}
	writeBytes(t, im, far, b)
	write(t, im, pool+0xFE8, uint64(far))
	follows := 0
	adverts(t, im, &watched{im, func(p []byte, _ phys.Addr) {
		if len(p) == 0x30 {
			follows++
		}
	}})
	if follows < 3000 || follows > 4096 { // some straddle pages
		t.Errorf("%d entries were followed; want nearly 4096", follows)
	}
}

// A driver with many records and many drivers with one are listed up to a
// limit.
func TestSilentDriversAreBounded(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 113})
	var want int
	for _, d := range drivers(im) {
		data := sectionOf(t, im, d, ".data")
		for off := phys.VirtAddr(0); off+0x30 <= 0x1000; off += 0x30 {
			writeBytes(t, im, data+off, callback(d.Base+0x1080, d.Base+0x1B00))
			want++
		}
	}
	if want <= 256 {
		t.Fatalf("%d records are too few", want)
	}
	if a := adverts(t, im, nil); len(a.Silent) != 256 {
		t.Errorf("%d silent drivers of %d records; want 256", len(a.Silent), want)
	}
}

// The search reads data once, and no more of it than it is allowed to, however
// large modules say that it is. What straddles two reads is found.
func TestCallbackScan(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 114})
	d := drivers(im)[0]
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	// The driver becomes one of 200 MiB, all of it one writable section, of
	// which 12 MiB from the first MiB on are there.
	const size, there = 200 << 20, 12 << 20
	base := phys.VirtAddr(0xFFFF_F87F_0000_0000)
	remap := func(va, from phys.VirtAddr) {
		pa, ok := im.Translate(from)
		if !ok {
			t.Fatalf("%#x is not mapped", uint64(from))
		}
		if err := im.MapPage(im.Truth.DirectoryTableBase, va, pa.PFN(), 1, 3); err != nil {
			t.Fatal(err)
		}
	}
	remap(base, d.Base)
	remap(base+0x1000, d.Base+0x1000)
	content := pages(t, im, there>>phys.PageShift)
	for off := phys.VirtAddr(0); off < there; off += 0x1000 {
		remap(base+1<<20+off, content+off)
	}
	var lfanew [4]byte
	if err := im.ReadVirt(base+0x3C, lfanew[:]); err != nil {
		t.Fatal(err)
	}
	pe := base + phys.VirtAddr(binary.LittleEndian.Uint32(lfanew[:]))
	put32 := func(va phys.VirtAddr, v uint32) { writeBytes(t, im, va, binary.LittleEndian.AppendUint32(nil, v)) }
	put32(pe+0x18+0x38, size)
	section := pe + 0x18 + 0xF0
	put32(section+0x08, size-(1<<20))
	put32(section+0x0C, 1<<20)
	put32(section+0x24, 0xC000_0040)
	mods, err := s.Modules(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(mods, func(m guest.Module) bool { return m.Base == d.Base })
	write(t, im, mods[i].Entry+0x30, uint64(base))
	put32(mods[i].Entry+0x40, size)

	component := base + 0x1B00
	writeBytes(t, im, component, []byte("S\x00"))
	var want []guest.SilentDriver
	record := func(off phys.VirtAddr, found bool) {
		writeBytes(t, im, content+off, callback(base+0x1080, component))
		if found {
			want = append(want, guest.SilentDriver{Module: d.Name, Component: "S", Record: base + 1<<20 + off})
		}
	}
	// Reads are of 1 MiB, each from 0x28 before the last one's end on. These are
	// the first position of a read, the last one, one that reaches over the end of
	// a read, and one that reaches over a multiple of 1 MiB.
	for _, off := range []phys.VirtAddr{1<<20 - 0x28, 2<<20 - 0x58, 4<<20 - 0x90, 5<<20 - 0x18} {
		record(off, true)
	}
	record(8<<20-0x400, true)   // near the end of what a module may have
	record(8<<20+0x1000, false) // and behind it
	var read uint64
	s.Space = guest.NewAddressSpace(&watched{im, func(p []byte, _ phys.Addr) { read += uint64(len(p)) }}, im.RAM(), s.DirectoryTableBase.Value)
	a, err := s.Adverts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, a.Silent); diff != "" {
		t.Errorf("silent drivers (-want +got):\n%s", diff)
	}
	if limit := uint64(12 << 20); read > limit {
		t.Errorf("%d bytes were read; want at most %d", read, limit)
	}
}
