package store

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNameless: a file that nobody would remove has no name before it is whole, so that
// nothing is left of it when this process is killed; then it has its own, and replaces
// what it may replace.
func TestNameless(t *testing.T) {
	for _, tt := range []struct {
		old, force bool
		fails      bool
	}{{false, false, false}, {false, true, false}, {true, true, false}, {true, false, true}} {
		dir := t.TempDir()
		f, err := newFolder(dir, Options{Force: tt.force}).Create(t.Context(), "a.dmp")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, "whole"); err != nil {
			t.Fatal(err)
		}
		if got := names(t, dir); len(got) > 0 {
			t.Errorf("the folder holds %q meanwhile; want nothing", got)
		}
		if tt.old { // somebody takes the name meanwhile
			if err := os.WriteFile(filepath.Join(dir, "a.dmp"), []byte("old"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err = f.Commit(t.Context())
		want := "whole"
		if tt.fails {
			want = "old"
		}
		b, rerr := os.ReadFile(filepath.Join(dir, "a.dmp"))
		if (err != nil) != tt.fails || rerr != nil || string(b) != want || !slices.Equal(names(t, dir), []string{"a.dmp"}) {
			t.Errorf("%+v: Commit() = %v, the file holds %q (%v), the folder %q; want %q and no other file", tt, err, b, rerr, names(t, dir), want)
		}
	}
}

// TestStale: what a killed process left, where files can't be without a name, goes with
// the next one: only what is of that kind, old, and locked by nobody.
func TestStale(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, old bool) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if old {
			at := time.Now().Add(-2 * staleAfter)
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	put("a.dmp.partial-ABCDEFGH23", true)
	put("b.dmp.partial-ABCDEFGH23", false)          // young
	put("c.dmp.partial-abcdefgh234567xy", true)     // a guardian's
	put("d.dmp.partial-ABCDEFGH234", true)          // of no such name
	put("e.dmp", true)                              // a dump
	locked := put("f.dmp.partial-ABCDEFGH23", true) // being written
	if err := os.Symlink("e.dmp", filepath.Join(dir, "g.partial-ABCDEFGH23")); err != nil {
		t.Fatal(err)
	}
	l, err := os.Open(locked)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := unix.Flock(int(l.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	f, err := newFolder(dir, Options{}).Create(context.Background(), "new.dmp")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Abort(); err != nil {
		t.Fatal(err)
	}
	want := []string{"b.dmp.partial-ABCDEFGH23", "c.dmp.partial-abcdefgh234567xy", "d.dmp.partial-ABCDEFGH234", "e.dmp", "f.dmp.partial-ABCDEFGH23", "g.partial-ABCDEFGH23"}
	got := names(t, dir)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the folder holds %q; want %q", got, want)
	}
}
