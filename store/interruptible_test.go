package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"
)

// soon bounds what must not hang. It measures nothing.
const soon = 20 * time.Second

// promptly runs f and fails the test if it doesn't return.
func promptly(t *testing.T, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(soon):
		t.Fatalf("%s hangs", what)
		return nil
	}
}

// hung is a place on something that stops answering: one kind of call waits until
// the test lets it go.
type hung struct {
	at  string
	go_ chan struct{}

	mu      sync.Mutex
	got     []byte
	aborted int
}

func (h *hung) wait(call string) {
	if call == h.at {
		<-h.go_
	}
}

func (h *hung) Path(name string) string { return "/mnt/" + name }
func (h *hung) ReadsBack() bool         { return true }
func (h *hung) Space(context.Context) (Space, error) {
	h.wait("space")
	return Space{}, nil
}
func (h *hung) Check(context.Context, string) error { h.wait("check"); return nil }
func (h *hung) Create(context.Context, string) (File, error) {
	h.wait("create")
	return h, nil
}

func (h *hung) Write(p []byte) (int, error) {
	h.wait("write")
	h.mu.Lock()
	defer h.mu.Unlock()
	h.got = append(h.got, p...)
	return len(p), nil
}

func (h *hung) ReadAt(p []byte, _ int64) (int, error) {
	h.wait("read")
	return len(p), nil
}

func (h *hung) Reopen(context.Context) (io.ReaderAt, int64, error) {
	h.wait("reopen")
	return h, 4, nil
}
func (h *hung) Sum() string                  { return "sum" }
func (h *hung) Commit(context.Context) error { h.wait("commit"); return nil }
func (h *hung) Abort() error {
	h.wait("abort")
	h.mu.Lock()
	defer h.mu.Unlock()
	h.aborted++
	return nil
}

// TestHungPlace: whichever call of a place's doesn't come back, its caller does when
// the context ends, and the file is taken back once it can be.
func TestHungPlace(t *testing.T) {
	for _, at := range []string{"check", "space", "create", "write", "reopen", "read", "abort"} {
		t.Run(at, func(t *testing.T) {
			h := &hung{at: at, go_: make(chan struct{})}
			p := &interruptible{p: h, abortFor: 20 * time.Millisecond}
			ctx, cancel := context.WithCancel(t.Context())
			if at == "abort" { // which has a limit of its own
				defer cancel()
			} else {
				time.AfterFunc(20*time.Millisecond, cancel)
			}
			buf := []byte("data")
			var abort error
			err := promptly(t, at, func() error {
				if err := p.Check(ctx, "a"); err != nil {
					return err
				}
				if _, err := p.Space(ctx); err != nil {
					return err
				}
				f, err := p.Create(ctx, "a")
				if err != nil {
					return err
				}
				defer func() { abort = f.Abort() }()
				if _, err := f.Write(buf); err != nil {
					return err
				}
				r, _, err := f.Reopen(ctx)
				if err != nil {
					return err
				}
				_, err = r.ReadAt(buf, 0)
				return err
			})
			copy(buf, "over") // it is the caller's again
			if at == "abort" {
				if err != nil || !errors.Is(abort, ErrLeftBehind) {
					t.Errorf("the calls end with %v, and Abort with %v; want %v of the latter", err, abort, ErrLeftBehind)
				}
			} else if !errors.Is(err, context.Canceled) {
				t.Errorf("the calls end with %v; want %v", err, context.Canceled)
			}
			if at == "write" && !errors.Is(abort, ErrLeftBehind) {
				t.Errorf("Abort() while a write goes on = %v; want %v", abort, ErrLeftBehind)
			}
			close(h.go_)
			created := at != "check" && at != "space"
			for until := time.Now().Add(soon); created; time.Sleep(time.Millisecond) {
				h.mu.Lock()
				aborted, got := h.aborted, string(h.got)
				h.mu.Unlock()
				if aborted == 1 {
					if at == "write" && got != "data" {
						t.Errorf("written in the end is %q; want data", got)
					}
					break
				}
				if time.Now().After(until) {
					t.Fatal("the file is never taken back")
				}
			}
		})
	}
}

// TestStdoutStalls: so it is with a pipe that nobody reads.
func TestStdoutStalls(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	place, name, err := Open("-", Options{Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	f, err := place.Create(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	err = promptly(t, "Write", func() error {
		_, err := f.Write(bytes.Repeat([]byte("x"), 1<<20))
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Write() to a pipe that nobody reads = %v; want %v", err, context.DeadlineExceeded)
	}
	again := promptly(t, "Write", func() error { _, err := f.Write([]byte("x")); return err })
	commit := promptly(t, "Commit", func() error { return f.Commit(t.Context()) })
	if again == nil || commit == nil || f.Sum() != "" {
		t.Errorf("Write() after that = %v, Commit() = %v, Sum() = %q; want errors and no sum", again, commit, f.Sum())
	}
}

// hungScatter is a hung place whose file can be written in any order.
type hungScatter struct{ *hung }

func (h hungScatter) Create(context.Context, string) (File, error) { return h, nil }
func (h hungScatter) WriteHole(int64) error                        { return nil }
func (h hungScatter) Scatter(int64) (io.WriterAt, error)           { h.wait("scatter"); return h, nil }

func (h hungScatter) WriteAt(p []byte, _ int64) (int, error) {
	if string(p) == "hangs" {
		h.wait("write at")
	}
	return h.Write(p)
}

// TestHungScatter: so it is with files that are written in any order: the file is taken
// back when the last of the calls that were given up has ended, and nothing is written
// to it after the first.
func TestHungScatter(t *testing.T) {
	h := hungScatter{&hung{at: "write at", go_: make(chan struct{})}}
	p := &interruptible{p: h, abortFor: 20 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	f, err := p.Create(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	f.(*interruptibleScatter).ctx = ctx
	w, err := f.(ScatterWriter).Scatter(100)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := w.WriteAt([]byte("fine"), 0); n != 4 || err != nil {
		t.Errorf("WriteAt = %d, %v", n, err)
	}
	var calls sync.WaitGroup
	for range 3 {
		calls.Go(func() {
			err := promptly(t, "WriteAt", func() error { _, err := w.WriteAt([]byte("hangs"), 50); return err })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("WriteAt that hangs = %v; want %v", err, context.Canceled)
			}
		})
	}
	calls.Wait()
	if _, err := w.WriteAt([]byte("more"), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteAt after that = %v; want %v", err, context.Canceled)
	}
	if err := promptly(t, "Commit", func() error { return f.Commit(t.Context()) }); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit after that = %v; want %v", err, context.Canceled)
	}
	close(h.go_)
	for until := time.Now().Add(soon); ; time.Sleep(time.Millisecond) {
		h.mu.Lock()
		aborted, got := h.aborted, string(h.got)
		h.mu.Unlock()
		if aborted == 1 {
			if got != "finehangshangshangs" {
				t.Errorf("the file is taken back when %q is written; want all that was begun", got)
			}
			break
		}
		if time.Now().After(until) {
			t.Fatal("the file is never taken back")
		}
	}
}
