package outlet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

// soon bounds what must not hang. It measures nothing.
const soon = 20 * time.Second

// promptly runs f and fails the test if it doesn't return.
func promptly(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
	case <-time.After(soon):
		t.Fatalf("%s hangs", what)
	}
}

// pipe returns both ends of one.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

// TestMessagesStall: nobody waits for a reader who reads nothing, what it reads
// later is in order, and what it missed is said.
func TestMessagesStall(t *testing.T) {
	r, w := pipe(t)
	m := NewMessages(w)
	line := strings.Repeat("x", 1000) + "\n"
	const lines = 2000
	promptly(t, "Write", func() {
		for range lines {
			if n, err := io.WriteString(m, line); n != len(line) || err != nil {
				t.Errorf("Write() = %d, %v; want all, and no error", n, err)
			}
		}
	})
	promptly(t, "Drain", func() { m.Drain(10 * time.Millisecond) })
	read := make(chan string)
	go func() {
		b, _ := io.ReadAll(r)
		read <- string(b)
	}()
	m.Drain(soon)
	_, _ = io.WriteString(m, "last\n")
	m.Drain(soon)
	_ = w.Close()
	got := <-read
	whole, rest, found := strings.Cut(got, "messages were lost")
	n := strings.Count(whole, line)
	if !found || n < maxHeld/len(line) || n >= lines || rest != ": nobody read them\nlast\n" || len(whole) > n*len(line)+10 {
		t.Errorf("it reads %d lines of %d, and then %.60q; want about a megabyte, how many were lost, and the last one", n, lines, rest)
	}
}

// TestMessagesInOrder: a message that a reader takes stands before what is printed
// elsewhere after it, and a stream that is no file takes it at once.
func TestMessagesInOrder(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/both")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := NewMessages(f)
	for range 100 {
		_, _ = io.WriteString(m, "a")
		m.Drain(soon)
		_, _ = io.WriteString(f, "b")
	}
	if b, err := os.ReadFile(f.Name()); err != nil || string(b) != strings.Repeat("ab", 100) {
		t.Errorf("the file holds %q (%v); want a and b in turns", b, err)
	}
	var buf bytes.Buffer
	if _, err := io.WriteString(NewMessages(&buf), "at once"); err != nil || buf.String() != "at once" {
		t.Errorf("the buffer holds %q (%v); want the message", buf.String(), err)
	}
}

// TestResultsStall: results wait for their reader until the context ends.
func TestResultsStall(t *testing.T) {
	r, w := pipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	out := NewResults(ctx, w)
	if _, err := io.WriteString(out, "first"); err != nil {
		t.Fatal(err)
	}
	p := bytes.Repeat([]byte("y"), 1<<20)
	time.AfterFunc(50*time.Millisecond, cancel)
	promptly(t, "Write", func() {
		if _, err := out.Write(p); !errors.Is(err, context.Canceled) {
			t.Errorf("Write() to a reader that stalls = %v; want %v", err, context.Canceled)
		}
	})
	for i := range p {
		p[i] = 'z' // it is the caller's again
	}
	if _, err := out.Write(p); !errors.Is(err, context.Canceled) {
		t.Errorf("Write() after that = %v; want %v", err, context.Canceled)
	}
	go func() { time.Sleep(100 * time.Millisecond); _ = w.Close() }()
	if b, _ := io.ReadAll(r); bytes.ContainsRune(b, 'z') {
		t.Error("the reader got what the caller wrote over")
	}
	// What can be written at once is, whatever the context.
	_, w2 := pipe(t)
	if n, err := io.WriteString(NewResults(ctx, w2), "late"); n != 4 || err != nil {
		t.Errorf("Write() after the context's end = %d, %v; want 4 bytes", n, err)
	}
}

// TestFile: the file behind a stream is found.
func TestFile(t *testing.T) {
	_, w := pipe(t)
	for _, s := range []io.Writer{w, NewMessages(w), NewResults(t.Context(), w), NewResults(t.Context(), NewMessages(w))} {
		if File(s) != w {
			t.Errorf("File(%T) is not the pipe", s)
		}
	}
	if f := File(NewResults(t.Context(), io.Discard)); f != nil {
		t.Errorf("File() of no file = %v; want nil", f)
	}
}
