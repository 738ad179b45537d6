package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// nested is a manifest that was converted n-1 times, the first called "0".
func nested(n int) string {
	doc := `{"snap":"1","domain":"0"}`
	for i := 1; i < n; i++ {
		doc = fmt.Sprintf(`{"snap":"1","domain":"%d","converted_from":%s}`, i, doc)
	}
	return doc
}

// TestKeepIsWhole: what is kept says all that it said, names and values of others
// included, and again when the manifest around it was written and read.
func TestKeepIsWhole(t *testing.T) {
	doc := "{\"snap\":\"9\", \"moon\": {\"phase\": [1, 2.50, 12345678901234567890]},\n \"consistent\":\"maybe not a bool, were it ours\", \"domain\":\"<\xff>\"}"
	doc = strings.Replace(doc, `"consistent":"maybe not a bool, were it ours", `, "", 1)
	kept, left, err := Keep([]byte(doc))
	if err != nil || left != 0 {
		t.Fatalf("Keep failed: %d left out, %v", left, err)
	}
	want := `{"snap":"9","moon":{"phase":[1,2.50,12345678901234567890]},"domain":"\u003c` + "\ufffd" + `\u003e"}`
	if string(kept) != want {
		t.Errorf("Keep = %s; want %s", kept, want)
	}
	m := Manifest{Snap: "1", ConvertedFrom: kept}
	b, err := m.JSON()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if string(again.ConvertedFrom) != want {
		t.Errorf("written and read it is %s; want %s", again.ConvertedFrom, want)
	}
	inner, err := again.ConvertedFrom.Decode()
	if err != nil || inner.Snap != "9" || inner.Domain != "<\ufffd>" {
		t.Errorf("Decode of what is kept = %+v, %v", inner, err)
	}
	if none, err := (Kept{}).Decode(); none != nil || err != nil {
		t.Errorf("Decode of nothing = %v, %v; want nil", none, err)
	}
}

// TestKeepIsBounded: what a hostile source says of itself can't make a manifest that
// nobody can read.
func TestKeepIsBounded(t *testing.T) {
	for _, tt := range []struct{ name, doc string }{
		{"no manifest", `{"name":"web01"}`},
		{"no object", `["snap"]`},
		{"too long", `{"snap":"` + strings.Repeat("x", maxKept) + `"}`},
		{"too long when it is written", `{"snap":"` + strings.Repeat("<", maxKept/4) + `"}`},
		{"too many elements", `{"snap":"1","x":[1` + strings.Repeat(",1", maxKeptCommas) + `]}`},
		{"too deep", `{"snap":"1","x":` + strings.Repeat("[", maxKeptDepth) + strings.Repeat("]", maxKeptDepth) + `}`},
		{"converted too often", nested(MaxConversions + 2)},
		{"converted far too often", nested(maxKeptDepth - 1)},
	} {
		kept, _, err := Keep([]byte(tt.doc))
		if len(kept) != 0 && err == nil || !errors.Is(err, ErrFormat) {
			t.Errorf("%s: Keep = %d bytes, %v; want ErrFormat", tt.name, len(kept), err)
		}
	}
	for _, in := range []string{`[]`, `"x"`, `1`, `true`} {
		if _, err := Decode([]byte(`{"snap":"1","converted_from":` + in + `}`)); !errors.Is(err, ErrFormat) {
			t.Errorf("Decode with converted_from %s = %v; want ErrFormat", in, err)
		}
	}
}

// TestKeepOldest: the account of the guest itself outlives any number of
// conversions.
func TestKeepOldest(t *testing.T) {
	doc := []byte(`{"snap":"1","domain":"first"}`)
	omitted := 0
	for i := range 3 * MaxConversions {
		kept, left, err := Keep(doc)
		if err != nil {
			t.Fatalf("conversion %d: %v", i, err)
		}
		omitted += left
		doc, err = json.Marshal(&Manifest{Snap: "1", Domain: fmt.Sprint(i), ConvertedFrom: kept})
		if err != nil {
			t.Fatal(err)
		}
		if n := depth(doc); n > maxKeptDepth {
			t.Fatalf("conversion %d: %d deep", i, n)
		}
	}
	levels := 0
	m, err := Decode(doc)
	for err == nil && len(m.ConvertedFrom) > 0 {
		levels++
		m, err = m.ConvertedFrom.Decode()
	}
	if err != nil || m.Domain != "first" || levels != MaxConversions || omitted != 2*MaxConversions {
		t.Errorf("after %d conversions: %d manifests kept, the last of %+v, %d left out, %v; want %d, that of the guest, and %d",
			3*MaxConversions, levels, m, omitted, err, MaxConversions, 2*MaxConversions)
	}
}

func FuzzKeep(f *testing.F) {
	f.Add([]byte(nested(3)))
	f.Add([]byte(nested(MaxConversions + 1)))
	f.Add([]byte(`{"snap":"1","converted_from":null,"x":"\"]}\\"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		kept, _, err := Keep(doc)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("Keep failed with %v; want ErrFormat", err)
			}
			return
		}
		b, err := (&Manifest{Snap: "1", ConvertedFrom: kept}).Compact()
		if err != nil {
			t.Fatalf("what is kept can't be written: %v", err)
		}
		m, err := Decode(b)
		if err != nil || string(m.ConvertedFrom) != string(kept) {
			t.Fatalf("Keep(%q) = %q; written and read it is %q, %v", doc, kept, m.ConvertedFrom, err)
		}
		if _, err := m.ConvertedFrom.Decode(); err != nil {
			t.Errorf("what is kept can't be read: %v", err)
		}
	})
}
