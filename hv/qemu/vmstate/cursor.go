package vmstate

import (
	"encoding/binary"
	"fmt"
)

// cursor reads numbers from the front of the stream.
type cursor struct {
	b   []byte
	pos int
}

func (c *cursor) rest() int { return len(c.b) - c.pos }

// next returns the next n bytes; what names them in the error.
func (c *cursor) next(n int, what string) ([]byte, error) {
	if n > c.rest() {
		return nil, c.truncated(what)
	}
	b := c.b[c.pos : c.pos+n]
	c.pos += n
	return b, nil
}

func (c *cursor) u8(what string) (byte, error) {
	b, err := c.next(1, what)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

func (c *cursor) be32(what string) (uint32, error) {
	b, err := c.next(4, what)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(b), nil
}

func (c *cursor) be64(what string) (uint64, error) {
	b, err := c.next(8, what)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(b), nil
}

// name reads a text that is preceded by its length in one byte.
func (c *cursor) name(what string) (string, error) {
	n, err := c.u8(what)
	if err != nil {
		return "", err
	}
	b, err := c.next(int(n), what)
	return string(b), err
}

func (c *cursor) truncated(what string) error {
	return fmt.Errorf("%w: offset %#x: %s goes past the end of %d bytes", ErrTruncated, c.pos, what, len(c.b))
}

// An error is put down to a stream that breaks off if the bytes after it were
// never written. The first few after the error may still be the torn rest of what
// was: at most a section's header.
const (
	tornBytes   = 5 + 1 + 255 + 8
	unwritten   = 64 << 10 // bytes that are looked at
	unwrittenOK = 4 << 10  // zeros that it takes
)

// errorf makes the error for what is wrong at offset off.
func (c *cursor) errorf(off int, format string, args ...any) error {
	class := ErrFormat
	if tail := c.b[min(off+tornBytes, len(c.b)):]; len(tail) >= unwrittenOK && zero(tail[:min(unwritten, len(tail))]) {
		class = ErrTruncated
	}
	return fmt.Errorf("%w: offset %#x: %s", class, off, fmt.Sprintf(format, args...))
}

// zero reports whether b has only zeros.
func zero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}
