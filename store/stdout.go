package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
)

// stdoutName is standard output's destination, and the name of the one file that
// it takes.
const stdoutName = "-"

// ErrOneFile says that a place takes one file, and that this would be another.
var ErrOneFile = errors.New("takes one file only")

// stdoutKind is standard output.
func stdoutKind() kind {
	return kind{
		forms: []string{"- for standard output"},
		takes: IsStdout,
		open: func(_ string, o Options) (Place, string, error) {
			s := &stdout{w: o.Stdout, options: o}
			if s.w == nil {
				s.w = os.Stdout
			}
			return s, stdoutName, nil
		},
	}
}

// IsStdout reports whether a destination is standard output: "-", or a path by which
// the system calls it. A file called "-" is "./-".
func IsStdout(dest string) bool {
	if dest == stdoutName {
		return true
	}
	switch filepath.Clean(dest) {
	case "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1": // stdout(4)
		return true
	}
	return false
}

// stdout is the place for one file that goes to standard output, as it is
// written: it can neither be read back nor taken back.
type stdout struct {
	w       io.Writer
	options Options
	begun   atomic.Bool
}

// Path implements Place.
func (s *stdout) Path(string) string { return stdoutName }

// Check implements Place.
func (s *stdout) Check(_ context.Context, name string) error {
	if s.begun.Load() || name != stdoutName {
		return fmt.Errorf("create %s: standard output %w", name, ErrOneFile)
	}
	return nil
}

// Space implements Place.
func (s *stdout) Space(context.Context) (Space, error) {
	f, ok := s.w.(*os.File)
	if !ok {
		return Space{}, nil
	}
	info, err := f.Stat()
	if err != nil {
		return Space{}, &Error{"look at", stdoutName, err}
	}
	if !info.Mode().IsRegular() {
		return Space{}, nil
	}
	space, err := spaceOf(int(f.Fd()))
	if err != nil {
		return Space{}, &Error{"look at", stdoutName, err}
	}
	return space, nil
}

// ReadsBack implements Place.
func (s *stdout) ReadsBack() bool { return false }

// Create implements Place.
func (s *stdout) Create(ctx context.Context, name string) (File, error) {
	if err := s.Check(ctx, name); err != nil {
		return nil, err
	}
	if !s.begun.CompareAndSwap(false, true) {
		return nil, s.Check(ctx, name)
	}
	if f, ok := s.w.(*os.File); ok {
		off, ok, err := holesFrom(f)
		if err != nil {
			return nil, fmt.Errorf("look at standard output: %w", err)
		}
		if ok {
			return &redirected{sparseFile{f: f, off: off, hashed: newSum(s.options)}}, nil
		}
	}
	return &stream{w: s.w, sum: newSum(s.options)}, nil
}

// stream is standard output that is no regular file.
type stream struct {
	sum
	w      io.Writer
	broken error // of a write; nothing is written after it
	closed bool
}

// Write implements io.Writer.
func (s *stream) Write(p []byte) (int, error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	n, err := s.write(p, s.w.Write)
	s.broken = err
	return n, err
}

func (s *stream) usable() error {
	if s.closed {
		return os.ErrClosed
	}
	return s.broken
}

// Reopen implements File.
func (s *stream) Reopen(context.Context) (io.ReaderAt, int64, error) {
	return nil, 0, fmt.Errorf("read standard output: %w", ErrWriteOnly)
}

// Commit implements File.
func (s *stream) Commit(context.Context) error {
	if err := s.usable(); err != nil {
		return fmt.Errorf("commit standard output: %w", err)
	}
	s.closed = true
	return nil
}

// Abort implements File. What was written can't be taken back.
func (s *stream) Abort() error {
	s.closed = true
	return nil
}

// redirected is standard output that is a regular file, which can have holes.
type redirected struct{ sparseFile }

var _ HoleWriter = (*redirected)(nil)

// Reopen implements File: to others it is a stream, whatever it was redirected to.
func (r *redirected) Reopen(context.Context) (io.ReaderAt, int64, error) {
	return nil, 0, fmt.Errorf("read standard output: %w", ErrWriteOnly)
}

// Commit implements File.
func (r *redirected) Commit(context.Context) error {
	if err := r.end(); err != nil {
		return fmt.Errorf("commit standard output: %w", err)
	}
	return nil
}

// Abort implements File. What was written can't be taken back.
func (r *redirected) Abort() error {
	if !r.closed {
		_ = r.end() // what is in the file doesn't matter any more
	}
	return nil
}

// end leaves the file as if it had been written as a stream: others may go on.
func (r *redirected) end() error {
	err := r.setLength()
	if !r.closed {
		_, seekErr := r.f.Seek(r.off, io.SeekStart)
		err = cmp.Or(err, seekErr)
	}
	r.closed = true
	return err
}
