package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// ErrLeftBehind says that a file that isn't finished may still be there: what it lies
// on answered nothing in time. A Guardian was told of it.
var ErrLeftBehind = errors.New("an unfinished file may be left behind")

// Bounds on what can't be given up at once.
const (
	// abortFor is how long a place is waited for to take a file back.
	abortFor = 5 * time.Second
	// commitFor is how long a file that is whole may take to get its name once its
	// context has ended: it is worth waiting for.
	commitFor = 10 * time.Second
)

// interruptible is a place whose calls end with their contexts: a pipe whose reader
// stalls, a file system of a server that is gone. The context of Create is that of
// the file's writes, too. A call that is given up goes on in the background, with
// memory of its own, and nothing else is asked of the file after it but to go away.
type interruptible struct {
	p        Place
	abortFor time.Duration
}

func newInterruptible(p Place) Place { return &interruptible{p: p, abortFor: abortFor} }

// Path implements Place.
func (i *interruptible) Path(name string) string { return i.p.Path(name) }

// Check implements Place.
func (i *interruptible) Check(ctx context.Context, name string) error {
	_, err := await(ctx, 0, func() (struct{}, error) { return struct{}{}, i.p.Check(ctx, name) }, nil)
	if errors.Is(err, errGivenUp) {
		err = fmt.Errorf("create %s: %w", i.p.Path(name), err)
	}
	return err
}

// Space implements Place.
func (i *interruptible) Space(ctx context.Context) (Space, error) {
	return await(ctx, 0, func() (Space, error) { return i.p.Space(ctx) }, nil)
}

// ReadsBack implements Place.
func (i *interruptible) ReadsBack() bool { return i.p.ReadsBack() }

// Create implements Place.
func (i *interruptible) Create(ctx context.Context, name string) (File, error) {
	f, err := await(ctx, 0, func() (File, error) { return i.p.Create(ctx, name) },
		func(f File) { _ = f.Abort() }) // nobody has it
	if errors.Is(err, errGivenUp) {
		err = fmt.Errorf("create %s: %w", i.p.Path(name), err)
	}
	if err != nil {
		return nil, err
	}
	g := &interruptibleFile{ctx: ctx, f: f, path: i.p.Path(name), abortFor: i.abortFor}
	h, ok := f.(HoleWriter)
	if !ok {
		return g, nil
	}
	holes := &interruptibleHoles{g, h}
	if s, ok := f.(ScatterWriter); ok {
		return &interruptibleScatter{holes, s}, nil
	}
	return holes, nil
}

// errGivenUp marks the failure of a call that goes on without its caller.
var errGivenUp = errors.New("no answer from what it lies on")

// await makes a call and gives it up when ctx has ended and after has passed. late,
// if not nil, gets what the call returns after that, if it was no error.
func await[T any](ctx context.Context, after time.Duration, call func() (T, error), late func(T)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := call()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		return r.v, r.err
	case <-time.After(after):
	}
	if late != nil {
		go func() {
			if r := <-done; r.err == nil {
				late(r.v)
			}
		}()
	}
	var none T
	if cause := context.Cause(ctx); !errors.Is(cause, ctx.Err()) {
		return none, fmt.Errorf("%w: %w (%w)", errGivenUp, cause, ctx.Err())
	}
	return none, fmt.Errorf("%w: %w", errGivenUp, ctx.Err())
}

var _ Borrower = (*interruptibleFile)(nil)

// interruptibleFile is a file of such a place.
type interruptibleFile struct {
	ctx      context.Context
	f        File
	path     string
	abortFor time.Duration

	own     []byte        // what is written, until that is done
	busy    chan struct{} // closed when the call that was given up has ended, nil if there is none
	givenUp error         // why it was
	over    bool          // committed or aborted
}

// attempt makes a call, one at a time, and none after one that was given up. call
// must not use the caller's memory.
func (g *interruptibleFile) attempt(ctx context.Context, after time.Duration, what string, call func() error) error {
	switch {
	case g.givenUp != nil:
		return g.givenUp
	case g.over:
		return os.ErrClosed
	}
	ended := make(chan struct{})
	_, err := await(ctx, after, func() (struct{}, error) {
		defer close(ended)
		return struct{}{}, call()
	}, nil)
	if errors.Is(err, errGivenUp) {
		err = fmt.Errorf("%s %s: %w", what, g.path, err)
		g.busy, g.givenUp = ended, err
	}
	return err
}

// Write implements File.
func (g *interruptibleFile) Write(p []byte) (n int, err error) {
	if g.givenUp == nil { // else the call that was may still be at it
		g.own = append(g.own[:0], p...)
	}
	return g.WriteLent(g.own)
}

// WriteLent implements Borrower.
func (g *interruptibleFile) WriteLent(p []byte) (n int, err error) {
	var wrote int
	err = g.attempt(g.ctx, 0, "write", func() (err error) {
		wrote, err = g.f.Write(p)
		return err
	})
	if g.busy != nil {
		return 0, err
	}
	return wrote, err
}

// Held implements HeldWriter.
func (g *interruptibleFile) Held(held bool) {
	if h, ok := g.f.(HeldWriter); ok && g.busy == nil {
		h.Held(held)
	}
}

// Expect implements Sized.
func (g *interruptibleFile) Expect(size int64) {
	if s, ok := g.f.(Sized); ok && g.busy == nil {
		s.Expect(size)
	}
}

// Reopen implements File.
func (g *interruptibleFile) Reopen(ctx context.Context) (io.ReaderAt, int64, error) {
	var r io.ReaderAt
	var size int64
	err := g.attempt(ctx, 0, "read", func() (err error) {
		r, size, err = g.f.Reopen(ctx)
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	return &interruptibleReader{ctx: ctx, r: r, path: g.path}, size, nil
}

// KeptUntil implements KeptFile.
func (g *interruptibleFile) KeptUntil() time.Time { return KeptUntil(g.f) }

// Sum implements File.
func (g *interruptibleFile) Sum() string {
	if g.busy != nil {
		return "" // the call that was given up may be at it
	}
	return g.f.Sum()
}

// Commit implements File.
func (g *interruptibleFile) Commit(ctx context.Context) error {
	err := g.attempt(ctx, commitFor, "commit", func() error { return g.f.Commit(ctx) })
	if g.busy != nil {
		return errors.Join(fmt.Errorf("%w: or it gets its name yet", err), g.Abort())
	}
	g.over = true
	return err
}

// Abort implements File.
func (g *interruptibleFile) Abort() error {
	if g.over {
		return nil
	}
	g.over = true
	call := func() (struct{}, error) {
		if g.busy != nil {
			<-g.busy
		}
		return struct{}{}, g.f.Abort()
	}
	ctx, cancel := context.WithTimeout(context.Background(), g.abortFor)
	defer cancel()
	_, err := await(ctx, 0, call, nil)
	if errors.Is(err, errGivenUp) {
		return fmt.Errorf("%s: %w: nothing answers there; look for %s", g.path, ErrLeftBehind, leftBehind(g.path))
	}
	return err
}

// leftBehind is what to look for where the file of a path wasn't finished.
func leftBehind(path string) string {
	if IsS3(path) {
		return "an unfinished upload of it"
	}
	return path + partialInfix + "*"
}

// interruptibleHoles is such a file that can leave out zeros.
type interruptibleHoles struct {
	*interruptibleFile
	h HoleWriter
}

var _ HoleWriter = (*interruptibleHoles)(nil)

// WriteHole implements HoleWriter.
func (g *interruptibleHoles) WriteHole(n int64) error {
	return g.attempt(g.ctx, 0, "write", func() error { return g.h.WriteHole(n) })
}

// interruptibleReader reads what was written. It is safe for concurrent use.
type interruptibleReader struct {
	ctx  context.Context
	r    io.ReaderAt
	path string
	free sync.Pool // of *[]byte, which no call has
}

// ReadAt implements io.ReaderAt.
func (r *interruptibleReader) ReadAt(p []byte, off int64) (int, error) {
	type read struct {
		b   *[]byte
		n   int
		err error
	}
	got, err := await(r.ctx, 0, func() (read, error) {
		b, _ := r.free.Get().(*[]byte)
		if b == nil || cap(*b) < len(p) {
			own := make([]byte, len(p))
			b = &own
		}
		n, err := r.r.ReadAt((*b)[:len(p)], off)
		return read{b, n, err}, nil
	}, nil)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", r.path, err)
	}
	defer r.free.Put(got.b)
	return copy(p, (*got.b)[:got.n]), got.err
}
