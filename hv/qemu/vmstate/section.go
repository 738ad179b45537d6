package vmstate

import (
	"bytes"
	"encoding/binary"
)

// Section types (QEMU: migration/savevm.h).
const (
	sectionEOF           = 0x00
	sectionStart         = 0x01
	sectionPart          = 0x02
	sectionEnd           = 0x03
	sectionFull          = 0x04
	sectionSubsection    = 0x05
	sectionDescription   = 0x06
	sectionConfiguration = 0x07
	sectionCommand       = 0x08
	sectionFooter        = 0x7e
)

const (
	footerSize = 1 + 4
	// maxSections bounds the sections of devices; a large guest has a few per
	// processor and per device.
	maxSections = 1 << 16
)

// header is that of a START or FULL section.
type header struct {
	at       int // offset of the section
	id       uint32
	name     string
	instance uint32
	version  uint32
	size     uint64 // of the body, once that is known
}

// header reads a section's header after its type byte.
func (c *cursor) header() (header, error) {
	h := header{at: c.pos - 1}
	var err error
	if h.id, err = c.be32("section id"); err != nil {
		return h, err
	}
	if h.name, err = c.name("section name"); err != nil {
		return h, err
	}
	if h.name == "" {
		return h, c.errorf(h.at, "section without a name")
	}
	if h.instance, err = c.be32("instance id"); err != nil {
		return h, err
	}
	h.version, err = c.be32("section version")
	return h, err
}

// footer reads the footer of section id.
func (c *cursor) footer(id uint32) error {
	at := c.pos
	b, err := c.next(footerSize, "section footer")
	if err != nil {
		return err
	}
	if b[0] != sectionFooter {
		return c.errorf(at, "byte %#02x; want the footer of section %d", b[0], id)
	}
	if got := binary.BigEndian.Uint32(b[1:]); got != id {
		return c.errorf(at, "footer of section %d; want that of section %d", got, id)
	}
	return nil
}

// skipToFooter goes past the footer of section h, whose body has at least least
// bytes but doesn't say how many. The footer is the first that something
// follows which next accepts; next gets a cursor of its own.
func (c *cursor) skipToFooter(h header, least int, next func(*cursor) bool) (body []byte, err error) {
	footer := binary.BigEndian.AppendUint32([]byte{sectionFooter}, h.id)
	start := c.pos
	if least > c.rest() {
		return nil, c.truncated("section " + h.name)
	}
	for at := start + least; ; at++ {
		i := bytes.Index(c.b[at:], footer)
		if i < 0 {
			return nil, c.truncated("section " + h.name)
		}
		at += i
		after := &cursor{b: c.b, pos: at + footerSize}
		if next(after) {
			c.pos = at + footerSize
			return c.b[start:at], nil
		}
	}
}

// looksFull reports whether a FULL section can begin at c.
func looksFull(c *cursor) bool {
	if t, err := c.u8("type"); err != nil || t != sectionFull {
		return false
	}
	h, err := c.header()
	if err != nil {
		return false
	}
	for _, ch := range []byte(h.name) {
		if ch < ' ' || ch > '~' {
			return false
		}
	}
	return true
}

// wrongType makes the error for a section that can't be where it is.
func (c *cursor) wrongType(at int, t byte) error {
	name := map[byte]string{
		sectionEOF: "EOF", sectionStart: "START", sectionPart: "PART", sectionEnd: "END",
		sectionFull: "FULL", sectionSubsection: "SUBSECTION", sectionDescription: "VMDESCRIPTION",
		sectionConfiguration: "CONFIGURATION", sectionCommand: "COMMAND", sectionFooter: "FOOTER",
	}[t]
	if name == "" {
		name = "unknown"
	}
	return c.errorf(at, "section of type %#02x (%s) can't be here in a background snapshot", t, name)
}
