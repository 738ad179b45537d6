package vmstate

import (
	"snap/guest/phys"
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

// Parse reads a background snapshot that begins at b[0] and ends anywhere in b.
func Parse(b []byte, o Options) (*Stream, error) {
	return nil, ErrFormat
}

// ParseDevices reads what QMP xen-save-devices-state writes and returns the
// processors by QEMU's index, ascending. Nothing but zeros may follow.
func ParseDevices(b []byte, o Options) ([]phys.Registers, error) {
	return nil, ErrFormat
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
