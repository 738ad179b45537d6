package vmstate

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"snap/phys"
)

func TestParse(t *testing.T) {
	stream := smallStream()
	stream.config = be(stream.config, byte(5), "configuration/uuid", uint32(1), make([]byte, 16),
		byte(5), "configuration/target-page-bits", uint32(1), uint32(12),
		byte(5), "configuration/capabilities", uint32(1), uint32(0))
	b := stream.bytes()
	s, err := Parse(b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Machine != "pc-test" || s.Data != 1 || s.Zero != 5 || s.Size != int64(len(b)) {
		t.Errorf("Parse() = machine %q, %d data, %d zero, %d bytes; want pc-test, 1, 5, %d", s.Machine, s.Data, s.Zero, s.Size, len(b))
	}
	if len(s.Blocks) != 2 || s.Blocks[0] != s.Block("pc.ram") || s.Blocks[1] != s.Block("rom") || s.Block("none") != nil {
		t.Fatalf("Parse() = blocks %v; want pc.ram, rom", s.Blocks)
	}
	ram := s.Block("pc.ram")
	want := []PageKind{Zero, Data, Zero, Absent, Zero, Zero, Absent}
	for i, want := range want {
		page, kind := ram.Page(uint64(i))
		if kind != want || (page != nil) != (want == Data) {
			t.Errorf("Page(%d) = %d bytes, kind %d; want kind %d", i, len(page), kind, want)
		}
	}
	if page, _ := ram.Page(1); !bytes.Equal(page, content(1)) || cap(page) != 4096 {
		t.Errorf("Page(1) has the wrong content, or room for %d bytes", cap(page))
	}
	if _, kind := ram.Page(1 << 60); kind != Absent {
		t.Errorf("Page(1 << 60) is of kind %d; want Absent", kind)
	}
}

// TestRegisters looks at values that the guest of the recordings doesn't have.
func TestRegisters(t *testing.T) {
	state := testCPU(0)
	copy(state[236:], be(uint32(0x12345678), uint64(0x1122334455667788), uint32(0x99aabbcc), uint32(0xffffffff)))
	for _, kvm := range []bool{false, true} {
		s := newTestStream().blocks(testBlock{"a", 1 << 12}).part()
		s.devices[2].body = state
		s.devices[2].instance, s.devices[3].instance = 9, 4 // hot-plugged in another order
		b := s.bytes()
		got, err := Parse(b, Options{KVM: kvm})
		if err != nil {
			t.Fatal(err)
		}
		devices, err := ParseDevices(s.deviceBytes(), Options{KVM: kvm})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(got.CPUs, devices); d != "" {
			t.Errorf("Parse and ParseDevices differ (-Parse +ParseDevices):\n%s", d)
		}
		if len(devices) != 2 || devices[0].CPU != 4 || devices[1].CPU != 9 {
			t.Fatalf("ParseDevices() has %d processors; want 4 and 9", len(devices))
		}
		r := devices[1]
		want := phys.Segment{Selector: 0x5678, Base: 0x1122334455667788, Limit: 0x99aabbcc, Flags: 0x00ffff00}
		if r.ES != want {
			t.Errorf("ES = %+v; want %+v", r.ES, want)
		}
		if r.DR[4] != 0 || r.DR[5] != 0 || r.DR[6] == 0 {
			t.Errorf("DR = %x; want DR4 and DR5 to be 0", r.DR)
		}
		// TOP is 7, and the first is the register of that number under TCG.
		first := 7
		if kvm {
			first = 0
		}
		for i := range 8 {
			x87 := slices.Clone(state[156+(first+i)%8*10:][:10])
			slices.Reverse(x87[:8])
			slices.Reverse(x87[8:])
			if !bytes.Equal(r.FPU.ST[i][:], x87) {
				t.Errorf("ST%d = %x with KVM %v; want %x", i, r.FPU.ST[i], kvm, x87)
			}
		}
	}
}

// TestFootersInside has bytes in a device's state that look like its footer.
func TestFootersInside(t *testing.T) {
	footer := be(byte(0x7e), uint32(4))
	s := newTestStream().blocks(testBlock{"a", 1 << 12}).part()
	s.devices[0].id = 4
	s.devices[0].body = be(footer, byte(0), byte(1), footer, byte(4), footer, footer, byte(0),
		footer, byte(4), uint32(1), "\x00", uint64(0), footer, byte(0), byte(6), uint32(2), []byte("{}"))
	if cpus, err := ParseDevices(s.deviceBytes(), Options{}); err != nil || len(cpus) != 2 {
		t.Errorf("ParseDevices() = %d processors, %v; want 2", len(cpus), err)
	}
	if st, err := Parse(s.bytes(), Options{}); err != nil || len(st.CPUs) != 2 {
		t.Errorf("Parse() = %+v, %v; want 2 processors", st, err)
	}
	// Those that no section ends in front of don't count.
	for range 2 * maxCandidates {
		s.devices[1].body = be(s.devices[1].body, byte(0), byte(6), uint32(2), []byte("{}"))
	}
	if _, err := Parse(s.bytes(), Options{}); err != nil {
		t.Errorf("Parse() = %v with texts that no section ends in front of; want none", err)
	}
	// A processor is known to be of some length.
	copy(s.devices[2].body[600:], testSection{name: "x", id: s.devices[2].id}.bytes())
	copy(s.devices[2].body[595:], be(byte(0x7e), s.devices[2].id))
	if cpus, err := ParseDevices(s.deviceBytes(), Options{}); err != nil || len(cpus) != 2 {
		t.Errorf("ParseDevices() = %d processors, %v; want 2", len(cpus), err)
	}
	// Too many of the others end the search.
	for range maxCandidates {
		s.devices[0].body = be(s.devices[0].body, footer, byte(0), byte(6), uint32(2), []byte("{}"))
	}
	if _, err := Parse(s.bytes(), Options{}); !errors.Is(err, ErrFormat) {
		t.Errorf("Parse() = %v with %d descriptions; want ErrFormat", err, maxCandidates+1)
	}
}

// TestSparse has a few pages far apart in a block of 3 TiB.
func TestSparse(t *testing.T) {
	const pages = 3 << 40 >> 12
	at := []uint64{0, 511, 512, 1<<18 - 1, 1 << 18, 5 << 18, pages - 1}
	s := newTestStream().blocks(testBlock{"a", 3 << 40})
	for _, i := range at {
		s.part(zeroPage("a", i))
	}
	st, err := Parse(s.bytes(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Range{{0, 1}, {511, 2}, {1<<18 - 1, 2}, {5 << 18, 1}, {pages - 1, 1}}
	if got := slices.Collect(st.Blocks[0].Runs(Zero)); !slices.Equal(got, want) {
		t.Errorf("Runs(Zero) = %v; want %v", got, want)
	}
	want = []Range{{1, 510}, {513, 1<<18 - 514}, {1<<18 + 1, 4<<18 - 1}, {5<<18 + 1, pages - 1 - 5<<18 - 1}}
	if got := slices.Collect(st.Blocks[0].Runs(Absent)); !slices.Equal(got, want) {
		t.Errorf("Runs(Absent) = %v; want %v", got, want)
	}
	for range st.Blocks[0].Runs(Absent) {
		break // an iterator can be left
	}
}

// TestRoundTrip writes streams with pages in any order and reads them.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type pageID struct {
			block int
			page  uint64
		}
		var list []testBlock
		var order []pageID
		for i := range rapid.IntRange(1, 3).Draw(t, "blocks") {
			n := rapid.Uint64Range(1, 1300).Draw(t, "pages")
			list = append(list, testBlock{string(rune('a' + i)), n << 12})
			// A few runs, with jumps between them.
			start := rapid.Uint64Range(0, n-1).Draw(t, "start")
			for j := range n {
				order = append(order, pageID{i, (start + j) % n})
			}
		}
		if rapid.Bool().Draw(t, "mixed") {
			order = rapid.Permutation(order).Draw(t, "order")
		}
		data := rapid.SliceOfN(rapid.IntRange(0, len(order)-1), 0, 30).Draw(t, "data")
		absent := rapid.SliceOfN(rapid.IntRange(0, len(order)-1), 0, 30).Draw(t, "absent")
		want := make(map[pageID]PageKind)
		s := newTestStream().blocks(list...)
		var part []byte
		last := -1
		for i, p := range order {
			if slices.Contains(absent, i) {
				continue
			}
			name := list[p.block].name
			if p.block == last {
				name = ""
			}
			last = p.block
			if slices.Contains(data, i) {
				want[p] = Data
				part = append(part, dataPage(name, p.page, content(uint64(p.block)<<32|p.page))...)
			} else {
				want[p] = Zero
				part = append(part, zeroPage(name, p.page)...)
			}
			if i%700 == 699 {
				s.part(part)
				part = nil
			}
		}
		s.part(part)
		b := s.bytes()
		got, err := Parse(b, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got.Data+got.Zero != uint64(len(want)) || got.Size != int64(len(b)) {
			t.Errorf("Parse() = %d data, %d zero, %d bytes; want %d pages, %d bytes", got.Data, got.Zero, got.Size, len(want), len(b))
		}
		for i, block := range got.Blocks {
			runs := make(map[PageKind][]Range)
			for p := range list[i].size >> 12 {
				kind := want[pageID{i, p}]
				page, gotKind := block.Page(p)
				if gotKind != kind || kind == Data && !bytes.Equal(page, content(uint64(i)<<32|p)) {
					t.Fatalf("block %d: Page(%d) is of kind %d or has other content; want %d", i, p, gotKind, kind)
				}
				if r := runs[kind]; len(r) > 0 && r[len(r)-1].First+r[len(r)-1].Pages == p {
					r[len(r)-1].Pages++
				} else {
					runs[kind] = append(r, Range{p, 1})
				}
			}
			for _, k := range []PageKind{Absent, Zero, Data} {
				if got := slices.Collect(block.Runs(k)); !slices.Equal(got, runs[k]) {
					t.Errorf("block %d: Runs(%d) = %v; want %v", i, k, got, runs[k])
				}
			}
		}
	})
}

// TestMutations changes bytes of a real stream.
func TestMutations(t *testing.T) {
	orig := recording(t, "qemu-7.2-pc.stream")
	devices := recording(t, "qemu-7.2-pc.devices")
	rapid.Check(t, func(t *rapid.T) {
		b := slices.Clone(orig)
		for range rapid.IntRange(1, 4).Draw(t, "n") {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		}
		checkResult(t, b)
		d := slices.Clone(devices)
		d[rapid.IntRange(0, len(d)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		checkDevices(t, d)
	})
}

type errorer interface{ Errorf(string, ...any) }

// checkResult parses b and holds the result against itself.
func checkResult(t errorer, b []byte) {
	s, err := Parse(b, Options{MaxRAM: 1 << 40})
	if err != nil {
		if s != nil || !errors.Is(err, ErrFormat) {
			t.Errorf("Parse() = %v, %v; want one of them, of class ErrFormat", s, err)
		}
		return
	}
	if s.Size > int64(len(b)) || len(s.CPUs) == 0 {
		t.Errorf("Parse() = %d of %d bytes, %d processors", s.Size, len(b), len(s.CPUs))
	}
	var pages [3]uint64
	for _, block := range s.Blocks {
		var all uint64
		for _, k := range []PageKind{Absent, Zero, Data} {
			for r := range block.Runs(k) {
				pages[k] += r.Pages
				all += r.Pages
				for _, i := range []uint64{r.First, r.First + r.Pages - 1} {
					if page, kind := block.Page(i); kind != k || k == Data && len(page) != 4096 {
						t.Errorf("Page(%d) = %d bytes, kind %d; want kind %d", i, len(page), kind, k)
					}
				}
			}
		}
		if all<<12 != block.Size {
			t.Errorf("runs of %q have %d pages; want %d", block.Name, all, block.Size>>12)
		}
	}
	if pages[Zero] != s.Zero || pages[Data] != s.Data {
		t.Errorf("runs have %d zero, %d data; want %d, %d", pages[Zero], pages[Data], s.Zero, s.Data)
	}
}

func checkDevices(t errorer, b []byte) {
	cpus, err := ParseDevices(b, Options{})
	if err != nil && (cpus != nil || !errors.Is(err, ErrFormat)) || err == nil && len(cpus) == 0 {
		t.Errorf("ParseDevices() = %d processors, %v; want one of them, of class ErrFormat", len(cpus), err)
	}
}
