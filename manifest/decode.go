package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Bounds on a document that is decoded. The largest that snap makes has some
// thousand values.
const (
	// MaxSize is the largest document that Decode reads, in bytes: as much as a
	// dump has room for.
	MaxSize = 16 << 20
	// maxCommas bounds the elements of its lists. An element of two bytes can take
	// a hundred in memory.
	maxCommas = 1 << 20
)

// ErrFormat is the failure to read what isn't a manifest.
var ErrFormat = errors.New("not a manifest")

// Decode reads a manifest, of this snap or of another version: it passes over
// names that it doesn't know, and what is missing is zero. Every error wraps
// ErrFormat. The manifest shares no memory with b.
//
// Nothing in it is to be trusted more than the file that it came in, and text in
// it may hold anything but broken UTF-8.
func Decode(b []byte) (*Manifest, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("read a manifest: %w: %d bytes; want at most %d", ErrFormat, len(b), MaxSize)
	}
	if n := bytes.Count(b, []byte(",")); n > maxCommas {
		return nil, fmt.Errorf("read a manifest: %w: %d commas; want at most %d", ErrFormat, n, maxCommas)
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("read a manifest: %w: %w", ErrFormat, err)
	}
	// Any other JSON object would do until here, and null.
	if m.Snap == "" {
		return nil, fmt.Errorf(`read a manifest: %w: "snap", the version that wrote it, is missing`, ErrFormat)
	}
	return &m, nil
}
