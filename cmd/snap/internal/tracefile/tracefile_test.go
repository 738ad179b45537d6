package tracefile

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/trace"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// run traces a task with a region in it, with more than is held if it is to be much.
func run(t *testing.T, much bool, begin func() (context.Context, *File, error)) error {
	t.Helper()
	ctx, f, err := begin()
	if err != nil {
		t.Fatal(err)
	}
	trace.WithRegion(ctx, "a region of the test", func() {})
	for range 3 * maxHeld >> 20 {
		if much {
			trace.Log(ctx, "much", string(bytes.Repeat([]byte{'x'}, 1<<10)))
			if n, err := f.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
				t.Errorf("Write() = %d, %v; want all taken", n, err)
			}
		}
	}
	return f.End()
}

// TestTrace: the file is the owner's alone, begins as traces do and has task and
// region in it.
func TestTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace")
	err := run(t, false, func() (context.Context, *File, error) { return Start(t.Context(), path, false, "a task of the test") })
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a task of the test", "a region of the test"} {
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("the trace lacks %q", want)
		}
	}
	if !traceStart.Match(b) {
		t.Errorf("the trace begins with %.16q", b)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode is %v (%v); want only its owner to read it", info.Mode(), err)
	}
}

// TestExisting: of what has the name already only a trace is replaced, and that only
// by force.
func TestExisting(t *testing.T) {
	old := []byte("go 1.26 trace\x00\x00\x00 and more")
	file := func(b []byte) func(string) error {
		return func(path string) error { return os.WriteFile(path, b, 0o644) }
	}
	for _, test := range []struct {
		name  string
		make  func(path string) error
		force bool
		want  bool // it is replaced
	}{
		{"a trace", file(old), false, false},
		{"a trace, by force", file(old), true, true},
		{"nothing, by force", file(nil), true, true},
		{"a dump, by force", file([]byte("PAGEDU64")), true, false},
		{"a link to a trace, by force", func(path string) error {
			return errors.Join(file(old)(path+".old"), os.Symlink(path+".old", path))
		}, true, false},
		{"a FIFO, by force", func(path string) error { return unix.Mkfifo(path, 0o600) }, true, false},
		{"a folder, by force", func(path string) error { return os.Mkdir(path, 0o700) }, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "trace")
			if err := test.make(path); err != nil {
				t.Fatal(err)
			}
			before := look(t, path)
			_, f, err := Start(t.Context(), path, test.force, "task")
			if err == nil {
				err = f.End()
			}
			replaced := look(t, path) != before
			if replaced != test.want || (err == nil) != test.want || err != nil && !errors.Is(err, fs.ErrExist) {
				t.Errorf("replaced: %t, error: %v; want it to be replaced: %t", replaced, err, test.want)
			}
		})
	}
}

// look returns what is at path: its mode, and what is in it if that is a file.
func look(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !info.Mode().IsRegular() {
		return info.Mode().String()
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().String() + string(b)
}

// TestNoFile: a folder that isn't there is said by Start, and nothing runs on.
func TestNoFile(t *testing.T) {
	_, _, err := Start(t.Context(), filepath.Join(t.TempDir(), "no", "trace"), false, "task")
	if !errors.Is(err, fs.ErrNotExist) || trace.IsEnabled() {
		t.Errorf("Start() = %v, traced: %t; want fs.ErrNotExist, and no trace", err, trace.IsEnabled())
	}
}

// TestFails: where the file takes nothing, nobody who is traced waits for it, and it is
// gone afterwards.
func TestFails(t *testing.T) {
	t.Run("full", func(t *testing.T) {
		f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = run(t, false, func() (context.Context, *File, error) { return start(t.Context(), f, "none", time.Minute, "task") })
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("End() = %v; want ENOSPC", err)
		}
	})
	t.Run("stalled", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = r.Close(), w.Close() }()
		var stalled *File
		err = run(t, true, func() (ctx context.Context, f *File, err error) {
			ctx, stalled, err = start(t.Context(), w, "none", time.Millisecond, "task")
			return ctx, stalled, err
		})
		if !errors.Is(err, errSlow) || len(stalled.held) > maxHeld {
			t.Errorf("End() = %v, with %d bytes held; want %v, and at most %d", err, len(stalled.held), errSlow, maxHeld)
		}
	})
	t.Run("removed", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "trace")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path) // takes no writes
		if err != nil {
			t.Fatal(err)
		}
		err = run(t, false, func() (context.Context, *File, error) { return start(t.Context(), f, path, time.Minute, "task") })
		_, there := os.Stat(path)
		if err == nil || !errors.Is(there, fs.ErrNotExist) {
			t.Errorf("End() = %v, and then Stat() = %v; want an error and no file", err, there)
		}
	})
}
