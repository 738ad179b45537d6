package header

import (
	"bytes"
	"reflect"
	"testing"
)

// Whatever Decode takes is written back byte for byte, and read again as the
// same; whatever it takes can be listed and has runs that a reader can use.
func FuzzDecodeHeader(f *testing.F) {
	for name := range realHeaders {
		f.Add(realHeader(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Decode(b)
		if err != nil {
			if h != nil {
				t.Fatalf("Decode returned a header with the error %v", err)
			}
			return
		}
		got, err := h.Encode()
		if err != nil {
			t.Fatalf("Encode of a decoded header failed: %v", err)
		}
		if !bytes.Equal(got, b[:h.Width.Size()]) {
			t.Fatalf("Encode of a decoded header changed its bytes")
		}
		again, err := Decode(got)
		if err != nil || !reflect.DeepEqual(h, again) {
			t.Fatalf("Decode of the encoded header failed (%v) or gave something else", err)
		}
		if len(h.Fields()) != len(Layout(h.Width)) {
			t.Fatalf("Fields() lists %d fields; want %d", len(h.Fields()), len(Layout(h.Width)))
		}
		if len(h.Runs) > 0 && !h.Describes(h.Runs) {
			t.Fatalf("the header does not describe its own runs %v", h.Runs)
		}
	})
}

// Whatever DecodeBitmap takes is a set of pages as its fields say, and is made
// again from them.
func FuzzDecodeBitmap(f *testing.F) {
	img, err := InitializeBitmapDumpHeader(factsAMD64(), smallPages)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(img[0x2000:])
	f.Add(rawBitmap("SDMPDUMP", 0x2041, 6, 67, []byte{0b1110_0111, 0, 0, 0, 0, 0, 0, 0, 4})[0x2000:])
	f.Fuzz(func(t *testing.T, tail []byte) {
		b, err := DecodeBitmap(bytes.NewReader(append(make([]byte, Size64), tail...)), Width64)
		if err != nil {
			if b != nil {
				t.Fatalf("DecodeBitmap returned a bitmap with the error %v", err)
			}
			return
		}
		var pages uint64
		for i, r := range b.Runs {
			if !r.Valid() || (i > 0 && r.Base <= b.Runs[i-1].End()) {
				t.Fatalf("run %d of %v is out of order", i, b.Runs)
			}
			pages += r.Pages
		}
		if pages != b.Pages || uint64(b.Runs.End()) > b.BitmapSize || b.FirstPage < Size64+0x38+(b.BitmapSize+7)/8 {
			t.Fatalf("%d pages up to %#x in %+v", pages, uint64(b.Runs.End()), b)
		}
		h := blank(Width64)
		h.MachineImageType, h.DumpType = MachineAMD64, DumpTypeBitmapFull
		h.clearDescriptor()
		img, err := h.EncodeBitmap(b.Runs)
		if err != nil {
			t.Fatalf("EncodeBitmap of decoded pages failed: %v", err)
		}
		again, err := DecodeBitmap(bytes.NewReader(img), Width64)
		if err != nil || !reflect.DeepEqual(again.Runs, b.Runs) {
			t.Fatalf("DecodeBitmap of the encoded bitmap failed (%v) or gave something else", err)
		}
	})
}
