package dump

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
)

// plainSum hashes a plain dump while it goes by, in order. A nil one hashes nothing.
type plainSum struct{ h hash.Hash }

func newPlainSum() *plainSum { return &plainSum{sha256.New()} }

// frame adds the expanded bytes of f.
func (s *plainSum) frame(f *frame) {
	switch {
	case s == nil:
	case f.zero:
		s.zeros(int64(len(f.in)))
	default:
		s.h.Write(f.in)
	}
}

func (s *plainSum) zeros(n int64) {
	for ; n > 0; n -= holeSize {
		s.h.Write(zeroHole[:min(n, holeSize)])
	}
}

// String returns the sum as sha256sum prints it; "" of a nil one.
func (s *plainSum) String() string {
	if s == nil {
		return ""
	}
	return hex.EncodeToString(s.h.Sum(nil))
}

// Summed returns a writer to w that Expand writes to in order, and what then tells the
// SHA-256 of the plain dump, as sha256sum prints it. It leaves out zeros if w can.
func Summed(w io.Writer) (io.Writer, func() string) {
	s := summed{w, newPlainSum()}
	if h, ok := w.(HoleWriter); ok {
		return summedHoles{s, h}, s.sum.String
	}
	return s, s.sum.String
}

// summed is a writer of which what is written to it is hashed.
type summed struct {
	w   io.Writer
	sum *plainSum
}

// Write implements io.Writer.
func (s summed) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.sum.h.Write(p[:n])
	return n, err
}

// summedHoles is summed with holes.
type summedHoles struct {
	summed
	h HoleWriter
}

// WriteHole implements HoleWriter.
func (s summedHoles) WriteHole(n int64) error {
	if err := s.h.WriteHole(n); err != nil {
		return err
	}
	s.sum.zeros(n)
	return nil
}
