package manifest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Hex is an address, a register or a set of flags; in JSON a string like
// "0x1ad000", as a value and as the key of a map: numbers above 2^53 don't
// survive every JSON reader.
type Hex uint64

// String returns h with a 0x prefix.
func (h Hex) String() string { return fmt.Sprintf("%#x", uint64(h)) }

// MarshalText implements encoding.TextMarshaler, which encoding/json uses for
// values and for keys.
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It takes what MarshalText
// writes, in digits of either case: 0x and a number of at most 64 bits. The
// errors of JSON that isn't that, a number among it, are encoding/json's.
func (h *Hex) UnmarshalText(text []byte) error {
	digits, ok := strings.CutPrefix(string(text), "0x")
	if !ok {
		return fmt.Errorf("%w: number %q doesn't begin with 0x", ErrFormat, clip(text))
	}
	// ParseUint takes no sign and, with base 16, no underscore and no second prefix.
	n, err := strconv.ParseUint(digits, 16, 64)
	if err != nil {
		return fmt.Errorf("%w: number %q is not 0x and a hexadecimal number of at most 64 bits", ErrFormat, clip(text))
	}
	*h = Hex(n)
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. It differs from UnmarshalText in
// one thing: null is an error, not what encoding/json makes of it, nothing.
func (h *Hex) UnmarshalJSON(b []byte) error {
	text, ok := bytes.CutPrefix(b, []byte(`"`))
	text, closed := bytes.CutSuffix(text, []byte(`"`))
	if !ok || !closed {
		return fmt.Errorf("%w: %q is not a string with a hexadecimal number", ErrFormat, clip(b))
	}
	// A number needs no escape sequences: one with them is none of ours.
	return h.UnmarshalText(text)
}

// clip bounds what of a hostile document an error repeats.
func clip(b []byte) []byte { return b[:min(len(b), 40)] }
