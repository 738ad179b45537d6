package store_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"snap/store"
	"snap/store/storetest"
)

func TestFolder(t *testing.T) {
	var dir string
	storetest.TestPlace(t, storetest.Kind{
		New: func(t *testing.T, o store.Options) (store.Place, string) {
			dir = t.TempDir()
			return opened(t, filepath.Join(dir, "a.dmp"), o)
		},
		Content: func(_ *testing.T, name string) ([]byte, error) { return os.ReadFile(filepath.Join(dir, name)) },
	})
}

// TestStdout is standard output as a pipe or a terminal.
func TestStdout(t *testing.T) {
	var out *bytes.Buffer
	storetest.TestPlace(t, storetest.Kind{
		New: func(t *testing.T, o store.Options) (store.Place, string) {
			out = new(bytes.Buffer)
			o.Stdout = out
			return opened(t, "-", o)
		},
		Content: func(*testing.T, string) ([]byte, error) { return out.Bytes(), nil },
		Stream:  true,
	})
}

// TestRedirectedStdout is standard output that goes to a file.
func TestRedirectedStdout(t *testing.T) {
	for name, tt := range map[string]struct {
		flags  int
		before string // in the file, ahead of where standard output is
	}{
		"new":      {0, ""},
		"behind":   {0, "before"},
		"appended": {os.O_APPEND, "before"},
	} {
		t.Run(name, func(t *testing.T) {
			var path string
			storetest.TestPlace(t, storetest.Kind{
				New: func(t *testing.T, o store.Options) (store.Place, string) {
					f := redirect(t, tt.flags, tt.before)
					path, o.Stdout = f.Name(), f
					return opened(t, "-", o)
				},
				Content: func(t *testing.T, _ string) ([]byte, error) {
					b, err := os.ReadFile(path)
					got, ok := bytes.CutPrefix(b, []byte(tt.before))
					if !ok {
						t.Errorf("the file begins with %q; want %q as before", b[:min(len(b), 10)], tt.before)
					}
					return got, err
				},
				Stream: true,
			})
		})
	}
}

// redirect returns a file that holds some bytes and is to be written behind them.
func redirect(t *testing.T, flags int, before string) *os.File {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "out"), os.O_RDWR|os.O_CREATE|flags, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := io.WriteString(f, before); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRedirectedGoesOn: what others write to standard output lands behind the
// file, whether that is whole or not.
func TestRedirectedGoesOn(t *testing.T) {
	for _, whole := range []bool{true, false} {
		out := redirect(t, 0, "before ")
		p, name := opened(t, "-", store.Options{Stdout: out})
		f, err := p.Create(t.Context(), name)
		if err != nil {
			t.Fatalf("Create failed: %v", err)
		}
		if _, err := io.WriteString(f, "dump"); err != nil {
			t.Fatal(err)
		}
		if err := f.(store.HoleWriter).WriteHole(2); err != nil {
			t.Fatal(err)
		}
		if whole {
			err = f.Commit(t.Context())
		} else {
			err = f.Abort()
		}
		if err != nil {
			t.Fatalf("whole %v: the end failed: %v", whole, err)
		}
		if _, err := io.WriteString(out, " after"); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(out.Name()); err != nil || string(b) != "before dump\x00\x00 after" {
			t.Errorf("whole %v: the file holds %q, %v; want all that was written in order", whole, b, err)
		}
	}
}

// TestOverwritten: where bytes lie ahead of the place in a file, zeros are written
// over them.
func TestOverwritten(t *testing.T) {
	out := redirect(t, 0, "xxxxxxxx")
	if _, err := out.Seek(2, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	p, name := opened(t, "-", store.Options{Stdout: out})
	f, err := p.Create(t.Context(), name)
	if err != nil {
		t.Fatalf("Create failed: %v", err)
	}
	if _, ok := f.(store.HoleWriter); ok {
		t.Error("a file that holds bytes already can have holes; want it to have none")
	}
}

func opened(t *testing.T, dest string, o store.Options) (store.Place, string) {
	t.Helper()
	p, name, err := store.Open(dest, o)
	if err != nil {
		t.Fatalf("Open(%q) failed: %v", dest, err)
	}
	return p, name
}
