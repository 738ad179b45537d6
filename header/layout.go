package header

import (
	"cmp"
	"slices"
)

// Kind is what the bytes of a field mean.
type Kind int

// Kinds of field.
const (
	KindReserved Kind = iota // padding or reserved: kept, never interpreted
	KindNumber               // unsigned integer, shown in decimal
	KindHex                  // unsigned integer, shown in hexadecimal
	KindPhysical             // physical address
	KindVirtual              // kernel virtual address
	KindTag                  // four characters
	KindMachine              // Machine
	KindDumpType             // DumpType
	KindFileTime             // FILETIME
	KindUpTime               // units of 100 ns
	KindText                 // ASCII, NUL-terminated
	KindRuns                 // array of {BasePage, PageCount}
	KindContext              // CONTEXT and what follows it in its area
	KindHexArray             // pointer-sized integers
)

// Field is one entry of a header's layout.
type Field struct {
	Name   string
	Offset int // bytes from the start of the header
	Size   int // bytes
	Kind   Kind
	Doc    string // what the field says, for people
}

// end returns the offset of the first byte after f.
func (f Field) end() int { return f.Offset + f.Size }

// Layout returns the fields of a header of width w in order of their offsets;
// reserved areas are fields too, so that each byte belongs to exactly one. It
// is nil for a width that does not exist. The slice is the caller's.
func Layout(w Width) []Field {
	var list []Field
	for _, f := range layout(w) {
		list = append(list, f.Field)
	}
	return list
}

func layout(w Width) []laid {
	switch w {
	case Width32:
		return layout32
	case Width64:
		return layout64
	}
	return nil
}

// fieldOf returns the field called name, and false if the layout has none.
func fieldOf(w Width, name string) (Field, bool) {
	l := layout(w)
	i := slices.IndexFunc(l, func(f laid) bool { return f.Name == name })
	if i < 0 {
		return Field{}, false
	}
	return l[i].Field, true
}

// place is where a field lies in one layout. One of size 0 is not in it.
type place struct {
	offset, size int
}

func at(offset, size int) place { return place{offset, size} }

// row is one field of the dump header: all that is known of it.
type row struct {
	name       string
	in64, in32 place
	kind       Kind
	doc        string

	// cell is the Go field. It is nil for reserved areas, and for the runs: see
	// descriptor.go.
	cell func(*Header) cell
	// set sets the field of a header that is being made and returns where the
	// value comes from. It is nil for fields that no such header has set.
	set func(*Header, *making) (from string)
}

// laid is a field with its row.
type laid struct {
	Field
	row *row
}

var (
	layout64 = lay(func(r *row) place { return r.in64 })
	layout32 = lay(func(r *row) place { return r.in32 })
)

// lay puts the rows that have a place in order.
func lay(in func(*row) place) []laid {
	var list []laid
	for i := range rows {
		r := &rows[i]
		if p := in(r); p.size != 0 {
			list = append(list, laid{Field{Name: r.name, Offset: p.offset, Size: p.size, Kind: r.kind, Doc: r.doc}, r})
		}
	}
	slices.SortFunc(list, func(a, b laid) int { return cmp.Compare(a.Offset, b.Offset) })
	return list
}

// pageFill is the byte that offset at of a header holds before anything is set.
func pageFill(at int) byte { return "PAGE"[at&3] }

// fill sets all of b, which begins at offset at of a header, to 'PAGE'.
func fill(b []byte, at int) {
	for i := range b {
		b[i] = pageFill(at + i)
	}
}

// filled reports whether b, which begins at offset at of a header, still is as
// fill leaves it.
func filled(b []byte, at int) bool {
	for i, c := range b {
		if c != pageFill(at+i) {
			return false
		}
	}
	return true
}
