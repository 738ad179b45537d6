package input

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOpenRefuses: whatever can't be read at any offset is told at once. A test
// that waits here has failed.
func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := errors.Join(
		unix.Mkfifo(at("fifo"), 0o600), os.WriteFile(at("empty"), nil, 0o600), os.Symlink("fifo", at("link")),
		os.Symlink("gone", at("dangling")), os.Symlink("loop", at("loop")),
	); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", at("socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for path, want := range map[string]string{
		at("fifo"): "a FIFO or a pipe", at("link"): "a FIFO or a pipe", at("socket"): "a socket", dir: "a folder",
		at("empty"): "empty", "/dev/null": "a character device", "/dev/zero": "a character device",
		fmt.Sprintf("/dev/fd/%d", r.Fd()): "a FIFO or a pipe",
	} {
		f, err := Open(path)
		refusal, ok := errors.AsType[*Refusal](err)
		if !ok || refusal.What != want || refusal.Path != path || refusal.Next == "" {
			t.Errorf("Open(%s) = %v, %v; want a refusal of %s, with what to do next", path, f, err, want)
		}
	}
	for path, want := range map[string]error{
		at("missing"): fs.ErrNotExist, at("dangling"): fs.ErrNotExist, at("loop"): unix.ELOOP, at("empty") + "/x": unix.ENOTDIR,
	} {
		if _, err := Open(path); !errors.Is(err, want) {
			t.Errorf("Open(%s) = %v; want %v", path, err, want)
		}
	}
}

// TestOpenLeavesWriterAlone: whoever waits for a reader of a FIFO goes on waiting,
// and isn't told that one came and went.
func TestOpenLeavesWriterAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Fatal("Open of a FIFO succeeded")
	}
	// A writer that doesn't wait is refused while there is no reader.
	if _, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); !errors.Is(err, unix.ENXIO) {
		t.Errorf("opening the FIFO for writing = %v; want %v: no reader may be left behind", err, unix.ENXIO)
	}
}

func TestOpenReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	content := []byte("what is in the file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for _, name := range []string{path, fmt.Sprintf("/dev/fd/%d", held.Fd())} {
		f, err := Open(name)
		if err != nil {
			t.Fatalf("Open(%s) failed: %v", name, err)
		}
		defer f.Close()
		if f.Name() != name || f.Size() != int64(len(content)) {
			t.Errorf("Name, Size = %q, %d; want %q, %d", f.Name(), f.Size(), name, len(content))
		}
		got := make([]byte, 4)
		if n, err := f.ReadAt(got, 15); n != 4 || string(got) != "file" {
			t.Errorf("ReadAt(15) = %q, %v; want file", got, err)
		}
		if n, err := f.ReadAt(got, 17); n != 2 || !errors.Is(err, io.EOF) {
			t.Errorf("ReadAt past the end = %d, %v; want 2 bytes and %v", n, err, io.EOF)
		}
	}
}

// TestShrunk: what was there when the file was opened, and no longer is, is no end
// of file.
func TestShrunk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	if n, err := f.ReadAt(make([]byte, 200), 0); n != 100 || !errors.Is(err, ErrShrunk) {
		t.Errorf("ReadAt = %d, %v; want 100 bytes and %v", n, err, ErrShrunk)
	}
	if _, err := f.ReadAt(make([]byte, 10), 8192); !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt behind the file = %v; want %v", err, io.EOF)
	}
}

func TestOpenText(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	empty := filepath.Join(dir, "empty")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.WriteFile(empty, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenText(t.Context(), fifo); err == nil || !strings.Contains(err.Error(), "a FIFO") {
		t.Errorf("OpenText of a FIFO with a name = %v; want a refusal", err)
	}
	if f, err := OpenText(t.Context(), empty); err != nil {
		t.Errorf("OpenText of an empty file failed: %v", err)
	} else if b, err := io.ReadAll(f); len(b) > 0 || err != nil || f.Close() != nil {
		t.Errorf("reading an empty file = %q, %v", b, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	path := fmt.Sprintf("/dev/fd/%d", r.Fd())
	f, err := OpenText(t.Context(), path)
	if err != nil {
		t.Fatalf("OpenText of a pipe failed: %v", err)
	}
	if _, err := w.WriteString("pa:0x1000\n"); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); string(b) != "pa:0x1000\n" || err != nil || f.Close() != nil {
		t.Errorf("reading a pipe = %q, %v; want what was written", b, err)
	}
}

// TestOpenTextEnds: a pipe to which nobody writes doesn't outlast the context.
func TestOpenTextEnds(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	why := errors.New("that is enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	f, err := OpenText(ctx, fmt.Sprintf("/dev/fd/%d", r.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	time.AfterFunc(time.Millisecond, func() { cancel(why) })
	if _, err := io.ReadAll(f); !errors.Is(err, why) {
		t.Errorf("reading a pipe until the context ended = %v; want %v", err, why)
	}
}

// memory is a file in memory that fails on reads it was not made for.
func memoryOf(b []byte) (io.ReaderAt, int64) { return bytes.NewReader(b), int64(len(b)) }
