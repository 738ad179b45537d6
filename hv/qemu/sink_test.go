package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSink: what it may hold is fixed when it is made, what it holds once it is
// looked at.
func TestSink(t *testing.T) {
	const size, limit = 64 << 10, 128 << 10
	s, err := newSink(t.Context(), size, limit)
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.writer()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := w.Read(make([]byte, 1)); err == nil {
		t.Error("QEMU could read the sink")
	}
	if n, err := w.WriteAt([]byte("in the end"), limit-4); n > 4 || !errors.Is(err, unix.EPERM) {
		t.Errorf("a write across the limit wrote %d bytes with %v; want 4 at most with %v", n, err, unix.EPERM)
	}
	if err := w.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("it could be cut short: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(s.file.Fd()), &st); err != nil || st.Blocks*512 < size {
		t.Errorf("%d bytes were taken from the host (%v); want %d", st.Blocks*512, err, size)
	}
	if _, err := w.WriteAt([]byte("QEVM"), 0); err != nil {
		t.Fatal(err)
	}
	b, err := s.contents()
	if err != nil || len(b) != limit || !bytes.HasPrefix(b, []byte("QEVM\x00")) {
		t.Fatalf("contents() = %d bytes, %v; want %d that begin with what was written", len(b), err, limit)
	}
	if _, err := w.WriteAt([]byte("changed"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("it could be written to afterwards: %v", err)
	}
	if again, err := s.contents(); err != nil || &again[0] != &b[0] {
		t.Errorf("contents() again = other bytes, %v", err)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

func TestSinkRefuses(t *testing.T) {
	if _, err := newSink(t.Context(), 2<<20, 1<<20); err == nil {
		t.Error("newSink(larger than its limit) = nil; want an error")
	}
	if _, err := newSink(t.Context(), 1<<62, 1<<63); err == nil {
		t.Error("newSink(more than there is) = nil; want an error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := newSink(ctx, 1<<20, 1<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("newSink(cancelled) = %v; want context.Canceled", err)
	}
	before := openFiles(t)
	_, _ = newSink(ctx, 1<<20, 1<<20) // it fails
	if after := openFiles(t); after != before {
		t.Errorf("%d files are open after a failure; want %d", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}
