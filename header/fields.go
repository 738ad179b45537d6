package header

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"snap/phys"
)

// FieldValue is a field of one header, for people.
type FieldValue struct {
	Field
	Value string // "unset" while the field holds 'PAGE', "" for an area that is reserved
	Set   bool

	// From is where the value comes from, in a header that Make made; empty in
	// one that was decoded, where the field was changed since, and for reserved
	// areas.
	From string
}

// unset is what the value of a field reads that nobody has set.
const unset = "unset"

// Fields lists the header's fields in order of their offsets, reserved areas
// included, as Encode would write them. It works for a header that Encode
// refuses; what can't be written shows as it was before.
func (h *Header) Fields() []FieldValue {
	img, _ := h.image() // each failure concerns one field, which is then as it was
	var list []FieldValue
	for _, f := range layout(h.Width) {
		v := f.value(img[f.Offset:f.end()], h)
		v.From = h.origin(f.Field, img)
		list = append(list, v)
	}
	return list
}

// origin returns where the value of f comes from that img, an image of h, holds.
func (h *Header) origin(f Field, img []byte) string {
	from, ok := h.from[f.Name]
	if !ok || !bytes.Equal(img[f.Offset:f.end()], h.raw[f.Offset:f.end()]) {
		return ""
	}
	return from
}

// value shows b, the bytes of f. Only fields of a dump header need h.
func (f Field) value(b []byte, h *Header) FieldValue {
	v := FieldValue{Field: f, Value: unset, Set: f.set(b)}
	if f.Kind == KindReserved {
		v.Value = ""
	} else if v.Set {
		v.Value = h.show(f, b)
	}
	return v
}

// IsSet reports whether the field called name holds anything but the 'PAGE'
// that a header is filled with. It is false for a field that the layout lacks.
func (h *Header) IsSet(name string) bool {
	f, ok := fieldOf(h.Width, name)
	if !ok {
		return false
	}
	img, _ := h.image() // as in Fields
	return f.set(img[f.Offset:f.end()])
}

// set reports whether b, the bytes of f, are more than the fill. The signature
// happens to be the fill.
func (f Field) set(b []byte) bool { return f.Kind == KindTag || !filled(b, f.Offset) }

// show formats the bytes of a field by its kind.
func (h *Header) show(f Field, b []byte) string {
	switch f.Kind {
	case KindHex, KindPhysical:
		return fmt.Sprintf("%#x", getUint(b))
	case KindVirtual:
		return fmt.Sprintf("0x%0*x", 2*len(b), getUint(b))
	case KindTag:
		return fmt.Sprintf("%q", b)
	case KindMachine:
		return fmt.Sprintf("%v (%#x)", Machine(getUint(b)), getUint(b))
	case KindDumpType:
		return fmt.Sprintf("%v (%d)", DumpType(getUint(b)), getUint(b))
	case KindFileTime:
		return FileTime(getUint(b)).Format(time.RFC3339Nano)
	case KindUpTime:
		return showUpTime(getUint(b))
	case KindText:
		return fmt.Sprintf("%q", text(b))
	case KindRuns:
		return showRuns(h.Runs)
	case KindContext:
		return h.showContext(b)
	case KindHexArray:
		return showArray(f, b, h.Width)
	default:
		return fmt.Sprintf("%d", getUint(b))
	}
}

// showUpTime formats units of 100 ns.
func showUpTime(v uint64) string {
	const limit = uint64(1<<63-1) / 100
	if v > limit {
		return fmt.Sprintf("%d units of 100 ns", v)
	}
	return (time.Duration(v) * 100).String()
}

// showRuns lists runs as ranges of physical addresses.
func showRuns(runs []phys.Run) string {
	if len(runs) == 0 {
		return "no runs"
	}
	list := make([]string, len(runs))
	for i, r := range runs {
		list[i] = r.String()
	}
	return strings.Join(list, " ")
}

// showArray lists the entries of an array that are set.
func showArray(f Field, b []byte, w Width) string {
	n := int(w) / 8
	var list []string
	for i := 0; i+n <= len(b); i += n {
		if v := b[i : i+n]; filled(v, f.Offset+i) {
			list = append(list, unset)
		} else {
			list = append(list, fmt.Sprintf("%#x", getUint(v)))
		}
	}
	return strings.Join(list, " ")
}

// showContext says where the processor was, if the layout is one we know.
func (h *Header) showContext(b []byte) string {
	if strings.Trim(string(b), "\x00") == "" {
		return "all zero"
	}
	c, err := DecodeContext(h.MachineImageType, b)
	switch {
	case err != nil:
		return fmt.Sprintf("%d bytes", len(b))
	case h.Width == Width32:
		return fmt.Sprintf("flags %#x eip 0x%08x esp 0x%08x", c.Flags, c.Rip, c.Rsp)
	default:
		return fmt.Sprintf("flags %#x rip 0x%016x rsp 0x%016x", c.Flags, c.Rip, c.Rsp)
	}
}
