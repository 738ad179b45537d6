package vmstate

import (
	"bytes"
	"encoding/binary"

	"snap/phys"
)

const (
	// maxCandidates bounds the places that look like a description.
	maxCandidates = 8
	// maxDevices bounds the bytes of all sections of devices.
	maxDevices = 256 << 20

	descriptionHead = 1 + 1 + 4 // end of sections, type, length
)

// devices reads the sections of devices after RAM and the description that
// follows them, and leaves the cursor after it. early are the sections before RAM.
//
// The description comes last, and where the stream ends isn't known. So
// everything that looks like one is tried, until the sections between lie as it
// says, byte for byte.
func (c *cursor) devices(early []header, o Options) ([]phys.Registers, error) {
	start := c.pos
	var first error
	at := start
	for range maxCandidates {
		text, eof := c.findDescription(at)
		if text == nil {
			break
		}
		cpus, err := c.tryDescription(text, start, eof, early, o)
		if err == nil {
			return cpus, nil
		}
		if first == nil {
			first = err
		}
		at = eof + 1
	}
	if first != nil {
		return nil, first
	}
	c.pos = start
	return nil, c.truncated("devices without a description")
}

// findDescription returns the next text from offset at on that may be the
// description, and the offset of the end of sections in front of it.
func (c *cursor) findDescription(at int) (text []byte, eof int) {
	end := min(len(c.b), c.pos+maxDevices)
	mark := []byte{sectionEOF, sectionDescription}
	for at < end {
		i := bytes.Index(c.b[at:end], mark)
		if i < 0 {
			return nil, 0
		}
		at += i
		eof, text := at, at+descriptionHead
		at++
		if len(c.b)-text < 2 || eof-footerSize < c.pos || c.b[eof-footerSize] != sectionFooter {
			continue
		}
		n := uint64(binary.BigEndian.Uint32(c.b[eof+2:]))
		if n < 2 || n > maxDescription || n > uint64(len(c.b)-text) {
			continue
		}
		t := c.b[text : text+int(n)]
		if t[0] == '{' && t[n-1] == '}' {
			return t, eof
		}
	}
	return nil, 0
}

// tryDescription walks the sections from start to eof as the description says.
func (c *cursor) tryDescription(text []byte, start, eof int, early []header, o Options) ([]phys.Registers, error) {
	shapes, err := parseDescription(text)
	if err != nil {
		return nil, c.errorf(eof, "description: %v", err)
	}
	w := &deviceWalk{cursor: &cursor{b: c.b, pos: start}, shapes: shapes, cpus: newCPUList(o)}
	for _, h := range early {
		if err := w.shape(h, h.size); err != nil {
			return nil, err
		}
	}
	for w.pos < eof {
		if err := w.section(eof); err != nil {
			return nil, err
		}
	}
	cpus, err := w.cpus.finish(w.cursor)
	if err != nil {
		return nil, err
	}
	c.pos = eof + descriptionHead + len(text)
	return cpus, nil
}

// deviceWalk goes through sections by their description.
type deviceWalk struct {
	*cursor
	shapes map[deviceKey]deviceShape // of sections that have not been seen yet
	cpus   *cpuList
}

// section reads a FULL section, which must end before eof.
func (w *deviceWalk) section(eof int) error {
	at := w.pos
	t, err := w.u8("section type")
	if err != nil {
		return err
	}
	if t != sectionFull {
		return w.wrongType(at, t)
	}
	h, err := w.header()
	if err != nil {
		return err
	}
	size := w.shapes[deviceKey{h.name, h.instance}].size
	if err := w.shape(h, size); err != nil {
		return err
	}
	if w.pos > eof || size > uint64(eof-w.pos) {
		return w.errorf(at, "section %q instance %d of %d bytes goes past the end of sections", h.name, h.instance, size)
	}
	body, err := w.next(int(size), h.name)
	if err != nil {
		return err
	}
	if err := w.footer(h.id); err != nil {
		return err
	}
	return w.cpus.add(w.cursor, h, body)
}

// shape holds section h, whose body has size bytes, against its description.
func (w *deviceWalk) shape(h header, size uint64) error {
	k := deviceKey{h.name, h.instance}
	s, ok := w.shapes[k]
	switch {
	case !ok:
		return w.errorf(h.at, "section %q instance %d isn't described, or is there twice", h.name, h.instance)
	case s.version != h.version:
		return w.errorf(h.at, "section %q instance %d has version %d; %d is described", h.name, h.instance, h.version, s.version)
	case s.size != size:
		return w.errorf(h.at, "section %q instance %d has %d bytes; %d are described", h.name, h.instance, size, s.size)
	}
	delete(w.shapes, k)
	return nil
}
