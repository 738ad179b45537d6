package header

import (
	"errors"
	"strings"
)

// cell connects one field of Header with its bytes.
type cell interface {
	// load sets the Go field from b, the field's bytes.
	load(b []byte)
	// store writes the Go field over b, which holds the field's bytes so far.
	// On failure it returns the value, or the length, that can't be written.
	store(b []byte) (bad uint64, err error)
}

// Why a value can't be stored.
var (
	errTooWide = errors.New("does not fit the field")
	errText    = errors.New("must be printable ASCII that leaves room for a NUL")
	errLength  = errors.New("must be exactly as long as the field")
)

// getUint reads the little-endian integer that fills b, at most 8 bytes.
func getUint(b []byte) uint64 {
	var v uint64
	for i, c := range b {
		v |= uint64(c) << (8 * i)
	}
	return v
}

// put writes the low bytes of v little-endian over all of b.
func put(b []byte, v uint64) {
	for i := range b {
		b[i] = byte(v >> (8 * i))
	}
}

// putUint is put for a value that may be too wide; then it fails and writes
// nothing.
func putUint(b []byte, v uint64) error {
	if len(b) < 8 && v>>(8*len(b)) != 0 {
		return errTooWide
	}
	put(b, v)
	return nil
}

// numCell is an unsigned integer. The field may be narrower than the Go type.
type numCell[T ~uint8 | ~uint16 | ~uint32 | ~uint64] struct{ p *T }

func num[T ~uint8 | ~uint16 | ~uint32 | ~uint64](p *T) cell { return numCell[T]{p} }

func (c numCell[T]) load(b []byte) { *c.p = T(getUint(b)) }

func (c numCell[T]) store(b []byte) (uint64, error) {
	v := uint64(*c.p)
	return v, putUint(b, v)
}

// arrayCell is an array of integers that share the field's bytes evenly.
type arrayCell struct{ v []uint64 }

func (c arrayCell) load(b []byte) {
	n := len(b) / len(c.v)
	for i := range c.v {
		c.v[i] = getUint(b[i*n : (i+1)*n])
	}
}

func (c arrayCell) store(b []byte) (uint64, error) {
	n := len(b) / len(c.v)
	for i, v := range c.v {
		if err := putUint(b[i*n:(i+1)*n], v); err != nil {
			return v, err
		}
	}
	return 0, nil
}

// bytesCell is bytes that mean nothing to the header itself.
type bytesCell struct{ p *[]byte }

func (c bytesCell) load(b []byte) { *c.p = append([]byte(nil), b...) }

func (c bytesCell) store(b []byte) (uint64, error) {
	if len(*c.p) != len(b) {
		return uint64(len(*c.p)), errLength
	}
	copy(b, *c.p)
	return 0, nil
}

// textCell is ASCII that ends at the first NUL or with the field.
type textCell struct{ p *string }

func (c textCell) load(b []byte) { *c.p = text(b) }

// store leaves bytes alone that say what the string says, because what follows
// the NUL is kept. Text fields begin at multiples of four, so that the fill
// needs no offset.
func (c textCell) store(b []byte) (uint64, error) {
	n := len(*c.p)
	if text(b) == *c.p {
		return 0, nil
	}
	if n >= len(b) || !printable(*c.p) {
		return uint64(n), errText
	}
	fill(b, 0)
	copy(b, *c.p)
	b[n] = 0
	return 0, nil
}

// text returns the string in b, "" where b was never set.
func text(b []byte) string {
	if filled(b, 0) {
		return ""
	}
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

// printable reports whether s consists of printable ASCII.
func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}

// fixedCell is bytes of a fixed number that mean nothing to the caller.
type fixedCell struct{ v []byte }

func (c fixedCell) load(b []byte)                  { copy(c.v, b) }
func (c fixedCell) store(b []byte) (uint64, error) { copy(b, c.v); return 0, nil }
