package header

import (
	"strings"
	"testing"
)

func TestFieldsTileTheHeader(t *testing.T) {
	for _, tt := range []struct {
		width Width
		size  int
	}{{Width32, 0x1000}, {Width64, 0x2000}} {
		at := 0
		seen := map[string]bool{}
		for _, f := range Layout(tt.width) {
			if f.Offset != at || f.Size <= 0 {
				t.Errorf("%d-bit: %s lies at %#x with %#x bytes; want offset %#x", tt.width, f.Name, f.Offset, f.Size, at)
			}
			if seen[f.Name] {
				t.Errorf("%d-bit: %s occurs twice", tt.width, f.Name)
			}
			seen[f.Name] = true
			at = f.Offset + f.Size
		}
		if at != tt.size || tt.width.Size() != tt.size {
			t.Errorf("%d-bit: fields end at %#x, Size() = %#x; want %#x", tt.width, at, tt.width.Size(), tt.size)
		}
	}
}

// A row without a kind would silently be reserved, one without a place never be
// read.
func TestTablesAgree(t *testing.T) {
	reserved := map[Width]int{Width32: 4, Width64: 8} // Padding*, Unused*, Spare*, Reserved*
	used := map[string]bool{}
	for w, want := range reserved {
		got := 0
		for _, f := range layout(w) {
			cell := f.row.cell != nil
			used[f.Name] = true
			if f.Kind == KindReserved {
				got++
			}
			runs := f.Name == nameNumberOfRuns || f.Name == nameRun
			if cell == (f.Kind == KindReserved || runs) {
				t.Errorf("%d-bit %s: has a Go field = %v, kind %d", w, f.Name, cell, f.Kind)
			}
			if f.Doc == "" || strings.HasSuffix(f.Doc, ".") {
				t.Errorf("%d-bit %s: Doc = %q; want a phrase", w, f.Name, f.Doc)
			}
		}
		if got != want {
			t.Errorf("%d-bit: %d reserved areas; want %d", w, got, want)
		}
	}
	for _, r := range rows {
		if !used[r.name] {
			t.Errorf("%s is in no layout", r.name)
		}
		if r.set != nil && r.kind == KindReserved {
			t.Errorf("%s is reserved, but a header that is made has it set", r.name)
		}
	}
}

func TestLayoutOfNoWidth(t *testing.T) {
	if got := Layout(16); got != nil || Width(16).Size() != 0 {
		t.Errorf("Layout(16), Size() = %v, %d; want nil, 0", got, Width(16).Size())
	}
}
