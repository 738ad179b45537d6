package qemu

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

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
	b, err := s.contents(t.Context())
	if err != nil || len(b) != limit || !bytes.HasPrefix(b, []byte("QEVM\x00")) {
		t.Fatalf("contents() = %d bytes, %v; want %d that begin with what was written", len(b), err, limit)
	}
	if _, err := w.WriteAt([]byte("changed"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("it could be written to afterwards: %v", err)
	}
	if again, err := s.contents(t.Context()); err != nil || &again[0] != &b[0] {
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

// TestSinkBusy: who still has the sink in hand is waited for, but not for ever.
func TestSinkBusy(t *testing.T) {
	for _, letGo := range []bool{true, false} {
		s, err := newSink(t.Context(), 64<<10, 64<<10)
		if err != nil {
			t.Fatal(err)
		}
		// A mapping that could be written to keeps the seal off.
		b, err := unix.Mmap(int(s.file.Fd()), 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, func() {
			if letGo {
				_ = unix.Munmap(b)
			} else {
				cancel()
			}
		})
		_, err = s.contents(ctx)
		if letGo && err != nil {
			t.Errorf("contents() of a sink that is let go = %v; want success", err)
		}
		if !letGo && (!errors.Is(err, unix.EBUSY) || !errors.Is(err, context.Canceled)) {
			t.Errorf("contents() of a sink that isn't let go = %v; want %v and the context's end", err, unix.EBUSY)
		}
		cancel()
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if !letGo {
			_ = unix.Munmap(b)
		}
	}
}
