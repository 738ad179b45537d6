package header

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// rawBitmap is a 64-bit dump up to its first page, made by hand.
func rawBitmap(signature string, first, pages, bits uint64, bitmap []byte) []byte {
	b := bytes.Repeat([]byte("PAGE"), 0x2000/4)
	b = append(b, signature...)
	b = append(b, bytes.Repeat([]byte("PAGE"), 6)...) // DumpOptions and what is unused, as Windows leaves them
	for _, v := range []uint64{first, pages, bits} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return append(b, bitmap...)
}

// TestDecodeBitmapOfWindows: Windows puts the first page right behind the
// bitmap. The sizes are those of a real kernel dump (rizin test/db/formats/dmp,
// bmp.dmp).
func TestDecodeBitmapOfWindows(t *testing.T) {
	bitmap := make([]byte, 0x8000)
	for i := range 0x544B { // in 0x544B/8 bytes and 3 bits
		bitmap[i/8+7] |= 1 << (i % 8)
	}
	img := rawBitmap("SDMPDUMP", 0xA038, 0x544B, 0x40000, bitmap)
	b, err := DecodeBitmap(bytes.NewReader(img), Width64)
	if err != nil {
		t.Fatalf("DecodeBitmap failed: %v", err)
	}
	if want := (phys.Runs{{Base: 56, Pages: 0x544B}}); b.FirstPage != 0xA038 || b.Signature != BitmapSignatureKernel || !cmp.Equal(b.Runs, want) {
		t.Errorf("DecodeBitmap = first page %#x, signature %#x, %v; want 0xa038, SDMP, %v", b.FirstPage, b.Signature, b.Runs, want)
	}
	if got := b.Fields()[2]; got.Set || got.Value != "unset" {
		t.Errorf("DumpOptions = %q, set %v; want it unset", got.Value, got.Set)
	}
}

// TestDecodeBitmapEnds: bitmaps of any length; bits behind the last count for
// nothing.
func TestDecodeBitmapEnds(t *testing.T) {
	for bits := uint64(1); bits < 200; bits++ {
		bitmap := bytes.Repeat([]byte{0xFF}, int(bits+7)/8)
		img := rawBitmap("FDMPDUMP", 0x3000, bits, bits, bitmap)
		b, err := DecodeBitmap(bytes.NewReader(img), Width64)
		if want := (phys.Runs{{Base: 0, Pages: bits}}); err != nil || !cmp.Equal(b.Runs, want) {
			t.Errorf("%d bits: DecodeBitmap = %+v, %v; want %v", bits, b, err, want)
		}
		img[len(img)-1] &^= 1 << ((bits - 1) % 8)
		if b, err := DecodeBitmap(bytes.NewReader(img), Width64); err == nil {
			t.Errorf("%d bits, the last clear: DecodeBitmap = %v; want an error about the number of pages", bits, b.Runs)
		}
	}
}

func TestDecodeBitmapRefuses(t *testing.T) {
	good := rawBitmap("FDMPDUMP", 0x3000, 6, 0x40, []byte{0b1110_0111, 0, 0, 0, 0, 0, 0, 0})
	if _, err := DecodeBitmap(bytes.NewReader(good), Width64); err != nil {
		t.Fatalf("DecodeBitmap failed: %v", err)
	}
	for _, tt := range []struct {
		name   string
		b      []byte
		field  string
		offset int
	}{
		{"no bitmap header", good[:0x2000], "Bitmap", 0x2038},
		{"half a bitmap header", good[:0x2037], "Bitmap", 0x2038},
		{"no bitmap", good[:0x2038], "Bitmap", 0x2038},
		{"half a bitmap", good[:0x203F], "Bitmap", 0x2038},
		{"a summary dump", poke(good, 0x2000, 4, 0x504D5544), "BitmapSignature", 0x2000},
		{"signature PAGE", poke(good, 0x2000, 4, 0x45474150), "BitmapSignature", 0x2000},
		{"never finished", poke(good, 0x2004, 4, 0), "BitmapValidDump", 0x2004},
		{"first page in the bitmap", poke(good, 0x2020, 8, 0x203F), "FirstPage", 0x2020},
		{"first page at 0", poke(good, 0x2020, 8, 0), "FirstPage", 0x2020},
		{"first page far away", poke(good, 0x2020, 8, 1<<30+1), "FirstPage", 0x2020},
		{"first page beyond any file", poke(good, 0x2020, 8, 1<<63), "FirstPage", 0x2020},
		{"no pages", poke(good, 0x2028, 8, 0), "Pages", 0x2028},
		{"a page fewer", poke(good, 0x2028, 8, 5), "Pages", 0x2028},
		{"a page more", poke(good, 0x2028, 8, 7), "Pages", 0x2028},
		{"more pages than bits", poke(good, 0x2028, 8, 0x41), "Pages", 0x2028},
		{"no bits", poke(good, 0x2030, 8, 0), "BitmapSize", 0x2030},
		{"too many bits", poke(good, 0x2030, 8, 1<<32+1), "BitmapSize", 0x2030},
		{"bits that wrap around", poke(good, 0x2030, 8, 1<<64-1), "BitmapSize", 0x2030},
		{"more bits than the file has", poke(poke(good, 0x2020, 8, 1<<30), 0x2030, 8, 1<<32), "Bitmap", 0x2038},
	} {
		b, err := DecodeBitmap(bytes.NewReader(tt.b), Width64)
		bad, ok := errors.AsType[*FormatError](err)
		if !ok || b != nil || bad.Field != tt.field || bad.Offset != tt.offset || !strings.Contains(err.Error(), tt.field) {
			t.Errorf("%s: DecodeBitmap = %v, %v; want an error at %s, %#x", tt.name, b, err, tt.field, tt.offset)
		}
	}
	if b, err := DecodeBitmap(bytes.NewReader(good), 16); b != nil || err == nil {
		t.Errorf("DecodeBitmap behind a header of no width = %v, %v; want an error", b, err)
	}
}

// madeUp is a file of which only the start is there, the rest being one byte.
type madeUp struct {
	start []byte
	rest  byte
	read  int // bytes so far
}

func (m *madeUp) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	if off < int64(len(m.start)) {
		n = copy(p, m.start[off:])
	}
	for i := n; i < len(p); i++ {
		p[i] = m.rest
	}
	m.read += len(p)
	return len(p), nil
}

// TestBitmapOfTooManyRuns: every second page of 16 TiB is refused once that is
// seen, and takes no memory.
func TestBitmapOfTooManyRuns(t *testing.T) {
	m := &madeUp{start: rawBitmap("FDMPDUMP", 1<<30, 1<<31, 1<<32, nil), rest: 0x55}
	_, err := DecodeBitmap(m, Width64)
	bad, ok := errors.AsType[*FormatError](err)
	if !ok || bad.Field != "Bitmap" {
		t.Errorf("DecodeBitmap = %v; want an error of Bitmap", err)
	}
	if want := MaxBitmapRuns/4 + 1<<17; m.read > want { // four runs to the byte
		t.Errorf("%d bytes were read; want no more than %d", m.read, want)
	}
	n := testing.AllocsPerRun(1, func() { _, _ = DecodeBitmap(m, Width64) })
	if n > 20 {
		t.Errorf("refusing it takes %v allocations; want a handful", n)
	}
}

var errBroken = errors.New("disk broken")

type brokenReader struct{ after int64 }

func (r brokenReader) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.after {
		return 0, errBroken
	}
	return (&madeUp{start: rawBitmap("FDMPDUMP", 0x3000, 0x40, 0x40, nil), rest: 0xFF}).ReadAt(p, off)
}

// TestDecodeBitmapReadError: a file that can't be read is no wrong file.
func TestDecodeBitmapReadError(t *testing.T) {
	for _, after := range []int64{0, 0x2038} {
		_, err := DecodeBitmap(brokenReader{after}, Width64)
		_, format := errors.AsType[*FormatError](err)
		if !errors.Is(err, errBroken) || format {
			t.Errorf("DecodeBitmap of a file that breaks at %#x = %v; want that error", after, err)
		}
	}
	if _, err := DecodeBitmap(brokenReader{1 << 20}, Width64); err != nil {
		t.Errorf("DecodeBitmap failed: %v", err)
	}
}

// changing gives another bitmap on the second pass.
type changing struct {
	io.ReaderAt
	pass int
}

func (c *changing) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	if off == 0x2038 {
		if c.pass++; c.pass == 2 {
			for i := range p {
				p[i] = 0x55
			}
		}
	}
	return n, err
}

// TestBitmapThatChanges: a file that is written to while it is read is refused.
func TestBitmapThatChanges(t *testing.T) {
	img := rawBitmap("FDMPDUMP", 0x3000, 0x40, 0x40, bytes.Repeat([]byte{0xFF}, 8))
	b, err := DecodeBitmap(&changing{ReaderAt: bytes.NewReader(img)}, Width64)
	if _, ok := errors.AsType[*FormatError](err); !ok || b != nil {
		t.Errorf("DecodeBitmap = %+v, %v; want a *FormatError", b, err)
	}
}

func TestManyRuns(t *testing.T) {
	var pages phys.Runs
	for i := range phys.PFN(20000) {
		pages = append(pages, phys.Run{Base: 0x1AD + 3*i, Pages: 1})
	}
	img, err := InitializeBitmapDumpHeader(factsAMD64(), pages)
	if err != nil {
		t.Fatalf("InitializeBitmapDumpHeader failed: %v", err)
	}
	b, err := DecodeBitmap(bytes.NewReader(img), Width64)
	if err != nil || !cmp.Equal(b.Runs, pages) {
		t.Errorf("DecodeBitmap = %v; want the %d runs", err, len(pages))
	}
}

// TestEncodeTooManyRuns: what can't be read again is not written.
func TestEncodeTooManyRuns(t *testing.T) {
	pages := make(phys.Runs, MaxBitmapRuns+1)
	for i := range pages {
		pages[i] = phys.Run{Base: 0x1AD + phys.PFN(2*i), Pages: 1}
	}
	img, err := InitializeBitmapDumpHeader(factsAMD64(), pages)
	if bad, ok := errors.AsType[*FormatError](err); !ok || bad.Field != "Bitmap" || img != nil {
		t.Errorf("InitializeBitmapDumpHeader of %d runs = %d bytes, %v; want an error of Bitmap", len(pages), len(img), err)
	}
}

// TestMatchBitmap: a bitmap is told to have these pages if and only if it has, and is
// refused like any other.
func TestMatchBitmap(t *testing.T) {
	good := rawBitmap("FDMPDUMP", 0x3000, 6, 0x40, []byte{0b1110_0111, 0, 0, 0, 0, 0, 0, 0})
	for _, tt := range []struct {
		pages phys.Runs
		want  bool
	}{
		{phys.Runs{{Base: 0, Pages: 3}, {Base: 5, Pages: 3}}, true},
		{phys.Runs{{Base: 0, Pages: 3}, {Base: 5, Pages: 2}}, false},
		{phys.Runs{{Base: 0, Pages: 3}}, false},
		{phys.Runs{{Base: 0, Pages: 3}, {Base: 5, Pages: 3}, {Base: 20, Pages: 1}}, false},
		{nil, false},
	} {
		b, same, err := MatchBitmap(bytes.NewReader(good), Width64, tt.pages)
		if err != nil || same != tt.want || b.FirstPage != 0x3000 || same && len(b.Runs) != 2 {
			t.Errorf("MatchBitmap with %v = %v, %v, %v; want %v", tt.pages, b, same, err, tt.want)
		}
	}
	if b, same, err := MatchBitmap(bytes.NewReader(poke(good, 0x2028, 8, 5)), Width64, nil); b != nil || same || err == nil {
		t.Errorf("MatchBitmap of a bitmap with another number of pages = %v, %v, %v; want an error", b, same, err)
	}
}
