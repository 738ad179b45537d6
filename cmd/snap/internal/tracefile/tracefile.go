// Package tracefile writes what a program does to a file that go tool trace shows
// (runtime/trace). It never holds the program up: what the file doesn't take in time
// is lost, and the trace with it.
package tracefile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"runtime/trace"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds on what a file system that doesn't answer may cost.
const (
	maxHeld  = 8 << 20         // bytes that wait to be written
	patience = 5 * time.Second // with the file's making, and with the last bytes of it
)

// File is a trace that is being written. One process can write one at a time.
type File struct {
	path     string
	f        *os.File
	patience time.Duration
	task     *trace.Task

	mu     sync.Mutex
	wake   *sync.Cond // of the writer of the file
	held   []byte
	ended  bool
	failed error         // the first failure: nothing more is kept
	done   chan struct{} // closed when nothing is written any more
}

// errSlow says that the file took too little for too long.
var errSlow = errors.New("what it lies on doesn't take it in time")

// Start begins a trace in a new file of its own, which only its owner may read. Another
// trace that has the name is replaced if force is set; nothing else ever is. The
// context is that of a task of the given name, for regions to belong to. The caller
// ends with End.
func Start(ctx context.Context, path string, force bool, task string) (context.Context, *File, error) {
	f, err := open(path, force)
	if err != nil {
		return ctx, nil, fmt.Errorf("trace to %s: %w", path, err)
	}
	return start(ctx, f, path, patience, task)
}

// start is Start of a file that was made.
func start(ctx context.Context, f *os.File, path string, patience time.Duration, task string) (context.Context, *File, error) {
	t := &File{path: path, f: f, patience: patience, done: make(chan struct{})}
	t.wake = sync.NewCond(&t.mu)
	if err := trace.Start(t); err != nil {
		return ctx, nil, fmt.Errorf("trace to %s: %w", path, errors.Join(err, t.remove()))
	}
	go t.pump()
	ctx, t.task = trace.NewTask(ctx, task)
	return ctx, t, nil
}

// open makes the file, given up where nothing answers.
func open(path string, force bool) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	opened := make(chan result, 1)
	go func() {
		f, err := create(path, force)
		opened <- result{f, err}
	}()
	select {
	case r := <-opened:
		return r.f, r.err
	case <-time.After(patience):
		return nil, errSlow
	}
}

// create makes the file.
func create(path string, force bool) (*os.File, error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL | unix.O_NOFOLLOW
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrExist) && force && isTrace(path) {
		if err := os.Remove(path); err != nil {
			return nil, reason(err)
		}
		f, err = os.OpenFile(path, flags, 0o600)
	}
	if errors.Is(err, fs.ErrExist) && force {
		return nil, fmt.Errorf("it is there and no trace, which alone is replaced: %w", fs.ErrExist)
	}
	return f, reason(err)
}

// traceStart is how a trace begins (internal/trace/version in Go's source).
var traceStart = regexp.MustCompile(`^go 1\.[0-9]+ trace\x00`)

// isTrace reports whether there is a regular file with a trace in it, or with nothing.
func isTrace(path string) bool {
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 16)
	n, _ := f.Read(b) // of an empty file nothing
	return n == 0 || traceStart.Match(b[:n])
}

// reason is err without the path, which the caller adds.
func reason(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// Write implements io.Writer for the runtime: it takes all, and waits for nobody.
func (t *File) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil && len(t.held)+len(p) > maxHeld {
		t.failed = errSlow
	}
	if t.failed == nil {
		t.held = append(t.held, p...)
		t.wake.Signal()
	}
	return len(p), nil
}

// pump writes what is held to the file until the trace has ended or failed.
func (t *File) pump() {
	defer close(t.done)
	t.mu.Lock()
	defer t.mu.Unlock()
	for {
		for len(t.held) == 0 && !t.ended && t.failed == nil {
			t.wake.Wait()
		}
		if t.failed != nil || len(t.held) == 0 {
			return
		}
		next := t.held
		t.held = nil
		t.mu.Unlock()
		_, err := t.f.Write(next)
		t.mu.Lock()
		if err != nil && t.failed == nil {
			t.failed = reason(err)
		}
	}
}

// End ends the trace. If it fails there is no file.
func (t *File) End() error {
	t.task.End()
	trace.Stop() // all that it has is with Write when this returns
	t.mu.Lock()
	t.ended = true
	t.wake.Signal()
	t.mu.Unlock()
	select {
	case <-t.done:
	case <-time.After(t.patience):
		return fmt.Errorf("trace to %s: %w", t.path, errSlow)
	}
	if t.failed != nil {
		return fmt.Errorf("trace to %s: %w", t.path, errors.Join(t.failed, t.remove()))
	}
	if err := t.f.Close(); err != nil {
		return fmt.Errorf("trace to %s: %w", t.path, reason(err))
	}
	return nil
}

// remove closes the file and takes it away, unless something else has its name by now.
func (t *File) remove() error {
	own, err := t.f.Stat()
	_ = t.f.Close() // nothing in it matters
	if err != nil {
		return reason(err)
	}
	if there, err := os.Lstat(t.path); err != nil || !os.SameFile(own, there) {
		return nil //nolint:nilerr // it is gone
	}
	return reason(os.Remove(t.path))
}
