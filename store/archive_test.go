package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"snap/store"
	"snap/store/storetest"
)

func TestFolderArchive(t *testing.T) {
	var dir string
	storetest.TestArchive(t, storetest.Shelf{
		New: func(t *testing.T) store.Archive {
			dir = t.TempDir()
			a, err := store.OpenArchive(t.Context(), dir, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return a
		},
		Put: func(t *testing.T, name string, content []byte) {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// TestFolderArchiveLinks: a symbolic link is no file of the folder, whatever it leads
// to, and what it leads to is neither read nor removed through it.
func TestFolderArchiveLinks(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(elsewhere, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, "a.dmp")); err != nil {
		t.Fatal(err)
	}
	a, err := store.OpenArchive(t.Context(), dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.List(t.Context(), func(e store.Entry) error { t.Errorf("List shows %s", e.Name); return nil }); err != nil {
		t.Error(err)
	}
	if r, err := a.Open(t.Context(), "a.dmp"); err == nil {
		_ = r.Close()
		t.Error("Open of a symbolic link succeeded")
	}
	if err := a.Remove(t.Context(), "a.dmp"); err == nil {
		t.Error("Remove of a symbolic link succeeded")
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Error(err)
	}
}

// TestOpenArchiveRefuses: what is no folder has no files to look for.
func TestOpenArchiveRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dest := range []string{"-", file, file + "/below", filepath.Join(t.TempDir(), "missing")} {
		if _, err := store.OpenArchive(t.Context(), dest, store.Options{}); err == nil {
			t.Errorf("OpenArchive(%s) succeeded", dest)
		}
	}
}
