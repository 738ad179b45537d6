package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"snap/internal/sparse"
)

// ScatterWriter is a File that can be written in any order, by several goroutines at a
// time, instead of from its start to its end.
type ScatterWriter interface {
	File

	// Scatter makes the file, of which nothing was written yet, size bytes of zeros,
	// which take no room, and returns what writes others over them, within its length.
	// That is safe for concurrent use, until Commit or Abort; after an error the file
	// can only be aborted, and the bytes that were to be written must not be written to
	// any more. The file is whole whenever no WriteAt is at work. A file whose hash is
	// wanted is written from its start: the error is errors.ErrUnsupported.
	Scatter(size int64) (io.WriterAt, error)
}

// Scatter implements ScatterWriter.
func (p *pending) Scatter(size int64) (io.WriterAt, error) {
	if err := p.usable(); err != nil {
		return nil, err
	}
	switch {
	case p.hashed.h != nil:
		return nil, fmt.Errorf("write %s in any order, and hash it: %w", p.path(), errors.ErrUnsupported)
	case p.off != 0:
		return nil, fmt.Errorf("write %s in any order: there are %d bytes in it", p.path(), p.off)
	case size < 0:
		return nil, fmt.Errorf("write %s in any order: it would have %d bytes", p.path(), size)
	}
	if err := p.f.Truncate(size); err != nil {
		p.broken = err
		return nil, &Error{"write", p.path(), reason(err)}
	}
	p.off = size
	return &scattered{p: p, size: size}, nil
}

// scattered writes a file in any order.
type scattered struct {
	p    *pending
	size int64

	mu  sync.Mutex // over what follows, p.behind and p.broken
	end int64      // of what is furthest in the file
}

// WriteAt implements io.WriterAt.
func (s *scattered) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || off > s.size || int64(len(b)) > s.size-off {
		return 0, fmt.Errorf("write %d bytes at %#x of %s: it has %d", len(b), off, s.p.path(), s.size)
	}
	n, err := s.p.f.WriteAt(b, off)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		// Those who write are not far from each other: what comes late goes to the disk
		// when that is waited for.
		s.end = max(s.end, off+int64(n))
		err = s.p.behind.wrote(s.p.f, n, s.end)
	}
	if err != nil {
		err = &Error{"write", s.p.path(), reason(err)}
		s.p.broken = err
	}
	return n, err
}

// interruptibleScatter is a file of an interruptible place that can be written in any
// order.
type interruptibleScatter struct {
	*interruptibleHoles
	s ScatterWriter
}

var _ ScatterWriter = (*interruptibleScatter)(nil)

// Scatter implements ScatterWriter.
func (g *interruptibleScatter) Scatter(size int64) (io.WriterAt, error) {
	var w io.WriterAt
	err := g.attempt(g.ctx, 0, "write", func() (err error) {
		w, err = g.s.Scatter(size)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &interruptibleWriter{g: g.interruptibleFile, w: w}, nil
}

// interruptibleWriter writes a file in any order. Calls that are given up go on with
// the caller's memory.
type interruptibleWriter struct {
	g *interruptibleFile
	w io.WriterAt

	mu      sync.Mutex // over what follows, and g's state
	calls   sync.WaitGroup
	givenUp error
}

// WriteAt implements io.WriterAt.
func (w *interruptibleWriter) WriteAt(p []byte, off int64) (int, error) {
	w.mu.Lock()
	if w.givenUp != nil || w.g.over {
		defer w.mu.Unlock()
		if w.givenUp != nil {
			return 0, w.givenUp
		}
		return 0, os.ErrClosed
	}
	w.calls.Add(1)
	w.mu.Unlock()
	n, err := await(w.g.ctx, 0, func() (int, error) {
		defer w.calls.Done()
		return w.w.WriteAt(p, off)
	}, nil)
	if errors.Is(err, errGivenUp) {
		err = fmt.Errorf("write %s: %w", w.g.path, err)
		w.giveUp(err)
	}
	return n, err
}

// giveUp lets no more be asked of the file, but to go away when all calls have ended.
func (w *interruptibleWriter) giveUp(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.givenUp != nil {
		return
	}
	ended := make(chan struct{})
	w.givenUp, w.g.givenUp, w.g.busy = err, err, ended
	go func() {
		w.calls.Wait()
		close(ended)
	}()
}

// readBack is what was written of a file, with its holes.
type readBack struct {
	*io.SectionReader
	f *os.File
}

// NextData implements sparse.Finder.
func (r readBack) NextData(off, end int64) (lo, hi int64, err error) {
	return sparse.NextData(r.f, off, min(end, r.Size()))
}

// NextData implements sparse.Finder. Where the place doesn't know of holes, all is
// data.
func (r *interruptibleReader) NextData(off, end int64) (lo, hi int64, err error) {
	finder, ok := r.r.(sparse.Finder)
	if !ok || off >= end {
		return off, end, nil
	}
	part, err := await(r.ctx, 0, func() ([2]int64, error) {
		lo, hi, err := finder.NextData(off, end)
		return [2]int64{lo, hi}, err
	}, nil)
	if err != nil {
		return 0, 0, fmt.Errorf("read %s: %w", r.path, err)
	}
	return part[0], part[1], nil
}
