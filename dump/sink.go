package dump

import (
	"fmt"
	"io"
)

// sink puts the stored frames out in order. After its first error it is not
// used again.
type sink struct {
	n    uint64 // bytes put out
	out  outlet
	tail tail // nil if nothing stands behind the frames
}

func newSink(w io.Writer, c container) *sink {
	s := &sink{out: newOutlet(w, c.plain)}
	if c.tail != nil {
		s.tail = c.tail()
	}
	return s
}

func (s *sink) write(p []byte) error {
	if _, err := s.out.Write(p); err != nil {
		return fmt.Errorf("write dump at offset %#x: %w", s.n, err)
	}
	s.n += uint64(len(p))
	return nil
}

func (s *sink) frame(f *frame) error {
	if err := s.write(f.stored); err != nil {
		return err
	}
	if s.tail != nil {
		s.tail.frame(f.stored, len(f.in))
	}
	return nil
}

// metadata writes a document behind the frames. There must be a tail.
func (s *sink) metadata(doc []byte) error {
	if len(doc) > MaxMetadata {
		return fmt.Errorf("metadata of %d bytes: the most is %d", len(doc), MaxMetadata)
	}
	return s.write(s.tail.metadata(doc))
}

// close ends the file.
func (s *sink) close() error {
	if s.tail != nil {
		if err := s.tail.end(s.write); err != nil {
			return err
		}
	}
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("write dump at offset %#x: %w", s.n, err)
	}
	return nil
}
