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
