package header

import "slices"

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
func Layout(w Width) []Field { return slices.Clone(layout(w)) }

func layout(w Width) []Field {
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
	i := slices.IndexFunc(l, func(f Field) bool { return f.Name == name })
	if i < 0 {
		return Field{}, false
	}
	return l[i], true
}

// The layouts are places only; what a field means does not depend on the width.
var (
	layout64 = lay(places64, meanings)
	layout32 = lay(places32, meanings)
)

// place is where a field lies.
type place struct {
	name         string
	offset, size int
}

// meaning is what a field says.
type meaning struct {
	kind Kind
	doc  string
}

func lay(places []place, meanings map[string]meaning) []Field {
	fields := make([]Field, 0, len(places))
	for _, p := range places {
		m, ok := meanings[p.name]
		if !ok {
			m = meaning{KindReserved, "padding or reserved"}
		}
		fields = append(fields, Field{Name: p.name, Offset: p.offset, Size: p.size, Kind: m.kind, Doc: m.doc})
	}
	return fields
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
