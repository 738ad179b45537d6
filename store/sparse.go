package store

import (
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// sparseFile writes a regular file from an offset on, with holes. What lies
// behind the offset must read as zeros.
type sparseFile struct {
	f      *os.File
	off    int64 // where the next byte goes
	hole   bool  // the file ends in a hole, and is too short
	hashed sum
	behind writeBehind
	broken error // of a write; nothing is written after it
	closed bool
}

// Write implements io.Writer.
func (s *sparseFile) Write(p []byte) (int, error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	n, err := s.hashed.write(p, func(p []byte) (int, error) { return s.f.WriteAt(p, s.off) })
	s.off += int64(n)
	s.hole = s.hole && n == 0
	if err == nil {
		err = s.behind.wrote(s.f, n, s.off)
	}
	s.broken = err
	return n, err
}

// WriteHole implements HoleWriter.
func (s *sparseFile) WriteHole(n int64) error {
	if err := s.usable(); err != nil {
		return err
	}
	if n < 0 || n > math.MaxInt64-s.off {
		return fmt.Errorf("write a hole of %d bytes at %#x of %s: no file is that long", n, s.off, s.f.Name())
	}
	s.hashed.addZeros(n)
	s.off += n
	s.hole = s.hole || n > 0
	return nil
}

// Sum implements File.
func (s *sparseFile) Sum() string { return s.hashed.Sum() }

// Held implements HeldWriter.
func (s *sparseFile) Held(held bool) { s.behind.held = held }

// usable returns nil if the file can be written and be committed.
func (s *sparseFile) usable() error {
	if s.closed {
		return os.ErrClosed
	}
	return s.broken
}

// setLength gives the file its length, which a hole at its end doesn't.
func (s *sparseFile) setLength() error {
	if err := s.usable(); err != nil {
		return err
	}
	if !s.hole {
		return nil
	}
	if err := s.f.Truncate(s.off); err != nil {
		return err
	}
	s.hole = false
	return nil
}

// holesFrom returns the offset from which f can be written with holes, and false
// where leaving bytes out would not leave zeros: in anything but a regular file
// that ends where it is about to be written, and in one opened for appending.
func holesFrom(f *os.File) (int64, bool, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	if !fi.Mode().IsRegular() {
		return 0, false, nil
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return 0, false, err
	}
	off, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, false, err
	}
	return off, flags&unix.O_APPEND == 0 && fi.Size() <= off, nil
}
