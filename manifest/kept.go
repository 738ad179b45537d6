package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Bounds on a manifest that is kept within another one. Both must fit what a dump
// has room for, and be read by Decode.
const (
	maxKept       = 6 << 20 // bytes
	maxKeptCommas = maxCommas / 2
	maxKeptDepth  = 64 // of arrays and objects in each other: five levels, and one for each conversion

	// MaxConversions is how many manifests, one in the other, are kept in that of a
	// dump that was converted again and again.
	MaxConversions = 16
)

// Kept is a manifest within another one, as it was found: with names that this
// version doesn't know, and values that it would not write. It is a JSON object in
// the form that encoding/json gives one, or empty. Make it with Keep.
type Kept []byte

// Keep makes of a document that Decode takes what another manifest may hold. Of one
// that holds MaxConversions others itself, the outermost is left out, which is that
// of a conversion, so that those before stay: left is how many. Every error wraps ErrFormat. The result
// shares no memory with doc.
func Keep(doc []byte) (kept Kept, left int, err error) {
	if _, err := Decode(doc); err != nil {
		return nil, 0, err
	}
	if err := boundKept(doc); err != nil {
		return nil, 0, err
	}
	levels, inner, err := conversions(doc)
	switch {
	case err != nil:
		return nil, 0, err
	case levels > MaxConversions+1:
		return nil, 0, fmt.Errorf("keep a manifest: %w: it holds more than %d others, one in the other", ErrFormat, MaxConversions)
	case levels == MaxConversions+1:
		if _, err := Decode(inner); err != nil {
			return nil, 0, err
		}
		doc, left = inner, 1
	}
	if kept, err = normal(doc); err != nil {
		return nil, 0, err
	}
	return kept, left, boundKept(kept)
}

// Decode reads the manifest; it is nil if there is none.
func (k Kept) Decode() (*Manifest, error) {
	if len(k) == 0 {
		return nil, nil
	}
	return Decode(k)
}

// MarshalJSON implements json.Marshaler.
func (k Kept) MarshalJSON() ([]byte, error) {
	if len(k) == 0 {
		return []byte("{}"), nil
	}
	return k, nil
}

// UnmarshalJSON implements json.Unmarshaler. It takes any object within bounds: what
// it says is looked at when it is decoded.
func (k *Kept) UnmarshalJSON(b []byte) error {
	if bytes.Equal(b, []byte("null")) {
		*k = nil
		return nil
	}
	if len(b) == 0 || b[0] != '{' {
		return fmt.Errorf("%w: %q is no object", ErrFormat, clip(b))
	}
	n, err := normal(b)
	if err != nil {
		return err
	}
	if bytes.Equal(n, []byte("{}")) {
		n = nil
	}
	*k = n
	return nil
}

// normal is a document without white space and broken UTF-8, escaped as
// encoding/json does it: writing it again doesn't change it.
func normal(doc []byte) (Kept, error) {
	var compact, out bytes.Buffer
	if err := json.Compact(&compact, bytes.ToValidUTF8(doc, []byte("\ufffd"))); err != nil {
		return nil, fmt.Errorf("keep a manifest: %w: %w", ErrFormat, err)
	}
	json.HTMLEscape(&out, compact.Bytes())
	return out.Bytes(), nil
}

// boundKept refuses a document that the manifest around it has no room for.
func boundKept(doc []byte) error {
	if len(doc) > maxKept {
		return fmt.Errorf("keep a manifest: %w: %d bytes; want at most %d", ErrFormat, len(doc), maxKept)
	}
	if n := bytes.Count(doc, []byte(",")); n > maxKeptCommas {
		return fmt.Errorf("keep a manifest: %w: %d commas; want at most %d", ErrFormat, n, maxKeptCommas)
	}
	if n := depth(doc); n > maxKeptDepth {
		return fmt.Errorf("keep a manifest: %w: arrays and objects lie %d deep in each other; want at most %d", ErrFormat, n, maxKeptDepth)
	}
	return nil
}

// depth returns how deep arrays and objects of a valid document lie in each other.
func depth(doc []byte) int {
	deep, deepest := 0, 0
	inText := false
	for i := 0; i < len(doc); i++ {
		switch c := doc[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			deep++
			deepest = max(deepest, deep)
		case c == '}' || c == ']':
			deep--
		}
	}
	return deepest
}

// conversions returns how many manifests a document is, one in the other, counting
// no further than there may be, and the one right within it.
func conversions(doc []byte) (levels int, inner []byte, err error) {
	for len(doc) > 0 && levels <= MaxConversions+1 {
		var level struct {
			ConvertedFrom json.RawMessage `json:"converted_from"`
		}
		if err := json.Unmarshal(doc, &level); err != nil {
			return 0, nil, fmt.Errorf("keep a manifest: %w: %w", ErrFormat, err)
		}
		doc = level.ConvertedFrom
		if bytes.Equal(doc, []byte("null")) {
			doc = nil
		}
		if levels++; levels == 1 {
			inner = doc
		}
	}
	return levels, inner, nil
}
