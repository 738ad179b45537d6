package header

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"snap/phys"
)

func TestFieldsTileTheBitmapHeader(t *testing.T) {
	cells := map[string]bool{}
	for _, r := range bitmapRows {
		if r.cell != nil {
			cells[r.name] = true
		}
	}
	for _, w := range []Width{Width32, Width64} {
		at := w.Size()
		seen := map[string]bool{}
		for _, f := range LayoutBitmap(w) {
			if f.Offset != at || f.Size <= 0 || seen[f.Name] {
				t.Errorf("%d-bit: %s lies at %#x with %#x bytes, seen %v; want offset %#x", w, f.Name, f.Offset, f.Size, seen[f.Name], at)
			}
			if ok := cells[f.Name]; ok == (f.Kind == KindReserved) || f.Doc == "" {
				t.Errorf("%d-bit %s: has a Go field = %v, kind %d, Doc %q", w, f.Name, ok, f.Kind, f.Doc)
			}
			if _, ok := fieldOf(w, f.Name); ok {
				t.Errorf("%d-bit: %s is a field of the dump header too", w, f.Name)
			}
			seen[f.Name] = true
			at = f.Offset + f.Size
		}
		if at != w.Size()+0x38 || len(seen) != len(cells)+1 || len(bitmapRows) != len(cells)+1 {
			t.Errorf("%d-bit: %d fields end at %#x; want %d, %#x", w, len(seen), at, len(cells)+1, w.Size()+0x38)
		}
	}
	if got := LayoutBitmap(16); got != nil {
		t.Errorf("LayoutBitmap(16) = %v; want nil", got)
	}
}

// smallPages has runs that end inside bytes, touch and fill whole bytes.
var smallPages = phys.Runs{{Base: 1, Pages: 2}, {Base: 6, Pages: 3}, {Base: 9, Pages: 1}, {Base: 0x1AD, Pages: 0x40}}

// smallBitmap is the bitmap of smallPages, bit by bit: pages 1, 2 and 6 to 9,
// and 0x1AD to 0x1EC, which end in the eighth word.
func smallBitmap() []byte {
	b := make([]byte, 64)
	b[0], b[1] = 0b1100_0110, 0b0000_0011
	b[0x35] = 0b1110_0000
	copy(b[0x36:], bytes.Repeat([]byte{0xFF}, 7))
	b[0x3D] = 0b0001_1111
	return b
}

const smallPagesCount = 6 + 0x40

func TestInitializeBitmapAMD64(t *testing.T) {
	facts := factsAMD64()
	facts.DirectoryTableBase.Value, facts.Runs.Value = 0x1AD002, nil
	got, err := InitializeBitmapDumpHeader(facts, smallPages)
	if err != nil {
		t.Fatalf("InitializeBitmapDumpHeader failed: %v", err)
	}
	if len(got) != 0x3000 {
		t.Fatalf("header of %#x bytes; want 0x3000", len(got))
	}
	context := make([]byte, 3000)
	copy(context, facts.Context.Value)
	holdBytes(t, got[:0x2000], 0x2000, []expectation{
		{0x0004, "DU64"},
		{0x0008, []uint32{0xF, 19041}},
		{0x0010, uint64(0x1AD000)},
		{0x0018, uint64(0xFFFF_FA80_0000_0000)},
		{0x0020, uint64(0xFFFF_F804_7C62_A390)},
		{0x0028, uint64(0xFFFF_F804_7C61_E200)},
		{0x0030, []uint32{0x8664, 16, 0x161}},
		{0x0040, []uint64{1, 2, 3, 0xFFFF_F804_0000_0004}},
		{0x0080, uint64(0xFFFF_F804_7C60_0B20)},
		{0x0088, make([]byte, 700)},
		{0x0348, context},
		{0x0F00, []uint32{0x80000003, 1}},
		{0x0F08, []uint64{0, 0xFFFF_F804_8B58_334C}},
		{0x0F18, uint32(0)},
		{0x0F98, uint32(5)},
		{0x0FA0, uint64(0x3000 + smallPagesCount*0x1000)},
		{0x0FA8, uint64(0x01D7_07F2_3DBB_3399)},
		{0x0FB0, "taken from outside\x00"},
		{0x1030, uint64(0x023B_C1E9)},
		{0x1040, []uint32{1, 0x110, 0}},
		{0x104D, "\x02"},
		{0x1050, []uint32{0, 0xD}},
	})
	want := make([]byte, 0x1000)
	copy(want, "FDMPDUMP")
	binary.LittleEndian.PutUint64(want[0x20:], 0x3000)
	binary.LittleEndian.PutUint64(want[0x28:], smallPagesCount)
	binary.LittleEndian.PutUint64(want[0x30:], 0x200)
	copy(want[0x38:], smallBitmap())
	if diff := cmp.Diff(want, got[0x2000:]); diff != "" {
		t.Errorf("bitmap header (-want +got):\n%s", diff)
	}
}

// TestInitializeBitmapI386: the same behind the shorter header.
func TestInitializeBitmapI386(t *testing.T) {
	facts := factsI386()
	pages := append(phys.Runs{}, smallPages[:3]...)
	pages = append(pages, phys.Run{Base: 0x185, Pages: 0x68}) // ends where smallPages do
	got, err := InitializeBitmapDumpHeader(facts, pages)
	if err != nil {
		t.Fatalf("InitializeBitmapDumpHeader failed: %v", err)
	}
	head, err := Decode(got)
	if err != nil || head.DumpType != 5 || head.Runs != nil || head.RequiredDumpSpace != 0x2000+(6+0x68)*0x1000 {
		t.Errorf("Decode = %+v, %v; want a type 5 dump without runs", head, err)
	}
	if !bytes.Equal(got[0x64:0x320], make([]byte, 700)) {
		t.Errorf("the descriptor is % x; want zeros", got[0x64:0x320])
	}
	if len(got) != 0x2000 || string(got[0x1000:0x1008]) != "FDMPDUMP" || binary.LittleEndian.Uint64(got[0x1020:]) != 0x2000 ||
		got[0x1038] != 0b1100_0110 || got[0x1038+0x3D] != 0b0001_1111 {
		t.Errorf("bitmap header of %#x bytes: % x; want it at 0x1000", len(got), got[0x1000:0x1080])
	}
	b, err := DecodeBitmap(bytes.NewReader(got), Width32)
	if err != nil || b.Pages != 6+0x68 {
		t.Errorf("DecodeBitmap = %+v, %v; want %d pages", b, err, 6+0x68)
	}
}

func TestInitializeBitmapRefuses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		facts func(f *Facts)
		pages phys.Runs
		field string
	}{
		{"page table not among the pages", nil, phys.Runs{{Base: 1, Pages: 0x1AC}}, "DirectoryTableBase"},
		{"no pages", nil, nil, "DirectoryTableBase"},
		{"ARM64", func(f *Facts) { f.Machine.Value = MachineARM64 }, smallPages, "Machine"},
		{"no build", func(f *Facts) { f.NtBuildNumber.Value = 0 }, smallPages, "NtBuildNumber"},
		{"an empty run", nil, phys.Runs{{Base: 1, Pages: 0}, {Base: 0x1AD, Pages: 1}}, "Bitmap"},
		{"runs out of order", nil, phys.Runs{{Base: 0x1AD, Pages: 1}, {Base: 1, Pages: 1}}, "Bitmap"},
		{"runs overlap", nil, phys.Runs{{Base: 0x1AD, Pages: 2}, {Base: 0x1AE, Pages: 1}}, "Bitmap"},
		{"a run past the address space", nil, phys.Runs{{Base: 0x1AD, Pages: 2}, {Base: 1 << 40, Pages: 1}}, "Bitmap"},
		{"above the longest bitmap", nil, phys.Runs{{Base: 0x1AD, Pages: 2}, {Base: MaxBitmapBits, Pages: 1}}, "BitmapSize"},
	} {
		facts := factsAMD64()
		if tt.facts != nil {
			tt.facts(facts)
		}
		got, err := InitializeBitmapDumpHeader(facts, tt.pages)
		field := ""
		if e, ok := errors.AsType[*FactError](err); ok {
			field = e.Field
		} else if e, ok := errors.AsType[*FormatError](err); ok {
			field = e.Field
		}
		if got != nil || field != tt.field {
			t.Errorf("%s: InitializeBitmapDumpHeader = %d bytes, %v; want an error of %s", tt.name, len(got), err, tt.field)
		}
	}
	if got, err := InitializeBitmapDumpHeader(nil, smallPages); got != nil || err == nil {
		t.Errorf("InitializeBitmapDumpHeader without facts = %d bytes, %v; want an error", len(got), err)
	}
}

// TestEncodeBitmapFollowsTheType: what differs between the types with a bitmap,
// and what types have none.
func TestEncodeBitmapFollowsTheType(t *testing.T) {
	h, err := Decode(realHeader(t, "livekd_win10_x64.bin"))
	if err != nil {
		t.Fatalf("Decode failed: %v", err)
	}
	space := h.RequiredDumpSpace
	if got, err := h.EncodeBitmap(smallPages); got != nil || err == nil {
		t.Errorf("EncodeBitmap of a full dump = %d bytes, %v; want an error", len(got), err)
	}
	h.DumpType = DumpTypeBitmapKernel
	got, err := h.EncodeBitmap(smallPages)
	if err != nil || string(got[0x2000:0x2008]) != "SDMPDUMP" {
		t.Errorf("EncodeBitmap of a kernel dump = %v; want SDMPDUMP", err)
	}
	if h.RequiredDumpSpace != space {
		t.Errorf("RequiredDumpSpace became %#x; want %#x as it was", h.RequiredDumpSpace, space)
	}
	if got, err := h.EncodeBitmap(nil); got != nil || err == nil {
		t.Errorf("EncodeBitmap of no pages = %d bytes, %v; want an error", len(got), err)
	}
	if got, err := (&Header{DumpType: DumpTypeBitmapFull}).EncodeBitmap(smallPages); got != nil || err == nil {
		t.Errorf("EncodeBitmap without a width = %d bytes, %v; want an error", len(got), err)
	}
}

// A bitmap of drawn pages has exactly their bits, and gives them back.
func TestBitmapRoundTrip(t *testing.T) {
	facts := factsAMD64()
	rapid.Check(t, func(t *rapid.T) {
		pages := phys.Runs{{Base: 0x1AD, Pages: rapid.Uint64Range(1, 70).Draw(t, "pages")}}
		want := map[uint64]bool{}
		for range rapid.IntRange(0, 300).Draw(t, "runs") {
			hole := rapid.SampledFrom([]phys.PFN{0, 1, 1, 2, 7, 63, 64, 65, 3000}).Draw(t, "hole")
			pages = append(pages, phys.Run{
				Base:  pages.End() + hole,
				Pages: rapid.SampledFrom([]uint64{1, 1, 2, 8, 63, 64, 65, 128, 5000}).Draw(t, "run"),
			})
		}
		for _, r := range pages {
			for p := uint64(0); p < r.Pages; p++ {
				want[uint64(r.Base)+p] = true
			}
		}
		img, err := InitializeBitmapDumpHeader(facts, pages)
		if err != nil {
			t.Fatalf("InitializeBitmapDumpHeader failed: %v", err)
		}
		checkBits(t, img, want)
		b, err := DecodeBitmap(bytes.NewReader(img), Width64)
		if err != nil {
			t.Fatalf("DecodeBitmap failed: %v", err)
		}
		merged, _ := phys.NewRuns(pages...)
		if !cmp.Equal(b.Runs, merged) || b.Pages != uint64(len(want)) {
			t.Fatalf("DecodeBitmap gives %d pages in %d runs; want %d in %d", b.Pages, len(b.Runs), len(want), len(merged))
		}
	})
}

// checkBits reads a bitmap as its format is described: literally, one bit after
// the other.
func checkBits(t *rapid.T, img []byte, want map[uint64]bool) {
	le := binary.LittleEndian
	first, pages, size := le.Uint64(img[0x2020:]), le.Uint64(img[0x2028:]), le.Uint64(img[0x2030:])
	if first != uint64(len(img)) || first%4096 != 0 || size%64 != 0 || pages != uint64(len(want)) {
		t.Fatalf("first page at %#x of %#x bytes, %d bits, %d pages; want it at the end, whole words, %d", first, len(img), size, pages, len(want))
	}
	if end := 0x2038 + size/8; end > first || first-end >= 4096 {
		t.Fatalf("a bitmap up to %#x, and the first page at %#x", end, first)
	}
	for i := range size {
		if got := img[0x2038+i/8]>>(i%8)&1 == 1; got != want[i] {
			t.Fatalf("bit %#x is %v; want %v", i, got, want[i])
		}
	}
	for i, c := range img[0x2038+size/8:] {
		if c != 0 {
			t.Fatalf("byte %#x behind the bitmap is %#x; want 0", i, c)
		}
	}
}

// TestPortableFirstPage: where a guest's addresses must end for LeechCore.
func TestPortableFirstPage(t *testing.T) {
	const most = (512<<30 - 258<<20) >> phys.PageShift
	for end, want := range map[phys.PFN]bool{most: true, 512 << 30 >> phys.PageShift: false} {
		img, err := InitializeBitmapDumpHeader(factsAMD64(), phys.Runs{{Base: 0x100, Pages: uint64(end) - 0x100}})
		if err != nil {
			t.Fatalf("InitializeBitmapDumpHeader failed: %v", err)
		}
		if got := len(img) <= PortableFirstPage; got != want {
			t.Errorf("with pages up to %#x the first is at %#x: portable %v; want %v", uint64(end), len(img), got, want)
		}
	}
}

func TestBitmapFieldsForPeople(t *testing.T) {
	img, err := InitializeBitmapDumpHeader(factsAMD64(), smallPages)
	if err != nil {
		t.Fatal(err)
	}
	b, err := DecodeBitmap(bytes.NewReader(img), Width64)
	if err != nil {
		t.Fatalf("DecodeBitmap failed: %v", err)
	}
	var got []string
	for _, f := range b.Fields() {
		got = append(got, f.Name+" "+f.Value)
	}
	want := `BitmapSignature "FDMP", BitmapValidDump "DUMP", DumpOptions 0x0, Unused0C , FirstPage 0x3000, Pages 70, BitmapSize 512`
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("Fields() = %s; want %s", s, want)
	}
}
