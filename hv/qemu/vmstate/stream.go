package vmstate

import (
	"snap/phys"
)

const (
	magic         = 0x5145564d // "QEVM"
	streamVersion = 3
)

// Stream is a background snapshot. It refers to the bytes that it was read from,
// which must neither change nor go away while it is used. It is safe for
// concurrent use.
type Stream struct {
	Machine string           // machine type, as in "pc-q35-7.2"
	Blocks  []*Block         // in the order of the stream: largest first
	CPUs    []phys.Registers // by QEMU's processor index, ascending
	Size    int64            // bytes that the stream takes; what follows is not part of it
	Data    uint64           // pages with content
	Zero    uint64           // pages that are all zero
}

// Block returns the block of that name, nil if there is none.
func (s *Stream) Block(name string) *Block {
	for _, b := range s.Blocks {
		if b.Name == name {
			return b
		}
	}
	return nil
}

// Parse reads a background snapshot that begins at b[0] and ends anywhere in b.
// Of pages with content it touches no byte. Errors are of class ErrFormat.
func Parse(b []byte, o Options) (*Stream, error) {
	c := &cursor{b: b}
	if err := c.start(); err != nil {
		return nil, err
	}
	s := new(Stream)
	var err error
	if s.Machine, err = c.configuration(); err != nil {
		return nil, err
	}
	r := &ramParser{cursor: c, maxRAM: o.MaxRAM}
	if r.maxRAM == 0 {
		r.maxRAM = defaultMaxRAM
	}
	early, err := r.sections()
	if err != nil {
		return nil, err
	}
	s.Blocks, s.Data, s.Zero = r.blocks, r.data, r.zero
	cpus, err := c.devices(early, o)
	if err != nil {
		return nil, err
	}
	s.CPUs, s.Size = cpus, int64(c.pos)
	return s, nil
}

// start reads what every stream starts with.
func (c *cursor) start() error {
	m, err := c.be32("magic number")
	if err != nil {
		return err
	}
	if m != magic {
		return c.errorf(0, "magic number %#x; want %#x", m, magic)
	}
	at := c.pos
	v, err := c.be32("version")
	if err != nil {
		return err
	}
	if v != streamVersion {
		return c.errorf(at, "stream version %d; want %d", v, streamVersion)
	}
	return nil
}
