package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/store"
)

// Shelf is a kind of archive under test.
type Shelf struct {
	// New returns an archive where nothing is.
	New func(t *testing.T) store.Archive

	// Put puts a file there as others do. The name may have a "/" in it.
	Put func(t *testing.T, name string, content []byte)
}

// TestArchive holds a kind of archive against the contract of package store.
func TestArchive(t *testing.T, s Shelf) {
	t.Run("list", s.list)
	t.Run("read", s.read)
	t.Run("remove", s.remove)
	t.Run("names", s.names)
	t.Run("ended", s.ended)
}

func namesIn(t *testing.T, a store.Archive) []string {
	t.Helper()
	var names []string
	if err := a.List(t.Context(), func(e store.Entry) error { names = append(names, e.Name); return nil }); err != nil {
		t.Fatalf("List failed: %v", err)
	}
	return names
}

func (s Shelf) list(t *testing.T) {
	a := s.New(t)
	if got := namesIn(t, a); len(got) > 0 {
		t.Errorf("List of nothing = %q", got)
	}
	for _, name := range []string{"b.dmp", "a.dmp", "a.dmp.json", "below/c.dmp", "A.dmp", "a b.dmp"} {
		s.Put(t, name, []byte(name))
	}
	want := []string{"A.dmp", "a b.dmp", "a.dmp", "a.dmp.json", "b.dmp"}
	if diff := cmp.Diff(want, namesIn(t, a)); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	err := a.List(t.Context(), func(e store.Entry) error {
		if e.Size != int64(len(e.Name)) || e.Modified.IsZero() {
			t.Errorf("%s: %d bytes of %v; want %d and a time", e.Name, e.Size, e.Modified, len(e.Name))
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	enough, n := errors.New("enough"), 0
	if err := a.List(t.Context(), func(store.Entry) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		t.Errorf("List = %v after %d files; want the first error", err, n)
	}
}

func (s Shelf) read(t *testing.T) {
	a := s.New(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	s.Put(t, "a.dmp", want)
	r, err := a.Open(t.Context(), "a.dmp")
	if err != nil {
		t.Fatalf("Open failed: %v", err)
	}
	defer r.Close()
	if r.Size() != int64(len(want)) {
		t.Errorf("Size = %d; want %d", r.Size(), len(want))
	}
	for _, part := range []struct{ off, n int }{{0, len(want)}, {5, 11}, {len(want) - 3, 3}, {4095, 4098}} {
		got := make([]byte, part.n)
		if n, err := r.ReadAt(got, int64(part.off)); n != part.n || err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(got, want[part.off:part.off+part.n]) {
			t.Errorf("ReadAt of %d bytes at %d = %d, %v, or other bytes", part.n, part.off, n, err)
		}
	}
	if n, err := r.ReadAt(make([]byte, 8), int64(len(want)-4)); n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt past the end = %d, %v; want 4, %v", n, err, io.EOF)
	}
}

func (s Shelf) remove(t *testing.T) {
	a := s.New(t)
	s.Put(t, "a.dmp", []byte("a"))
	s.Put(t, "b.dmp", []byte("b"))
	if err := a.Remove(t.Context(), "a.dmp"); err != nil {
		t.Fatalf("Remove failed: %v", err)
	}
	if diff := cmp.Diff([]string{"b.dmp"}, namesIn(t, a)); diff != "" {
		t.Errorf("after Remove (-want +got):\n%s", diff)
	}
	if err := a.Remove(t.Context(), "a.dmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Remove again = %v; want %v", err, fs.ErrNotExist)
	}
	if _, err := a.Open(t.Context(), "a.dmp"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open after Remove = %v; want %v", err, fs.ErrNotExist)
	}
}

// names: no name leads out of the archive, or below it.
func (s Shelf) names(t *testing.T) {
	a := s.New(t)
	s.Put(t, "below/c.dmp", []byte("c"))
	for _, name := range []string{"", ".", "..", "below/c.dmp", "../a", "/a"} {
		if _, err := a.Open(t.Context(), name); !errors.Is(err, store.ErrName) {
			t.Errorf("Open(%q) = %v; want %v", name, err, store.ErrName)
		}
		if err := a.Remove(t.Context(), name); !errors.Is(err, store.ErrName) {
			t.Errorf("Remove(%q) = %v; want %v", name, err, store.ErrName)
		}
	}
}

func (s Shelf) ended(t *testing.T) {
	a := s.New(t)
	s.Put(t, "a.dmp", []byte("a"))
	ctx, cancel := context.WithCancel(t.Context())
	r, err := a.Open(ctx, "a.dmp")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel()
	if err := a.List(ctx, func(store.Entry) error { return nil }); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("List with an ended context = %v", err)
	}
}
