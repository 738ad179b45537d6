// Package storetest is what every place for files has to pass.
package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"

	"snap/store"
)

// Kind is a kind of place under test.
type Kind struct {
	// New returns a place where nothing is, and the name of a file to make in it.
	New func(t *testing.T, o store.Options) (p store.Place, name string)

	// Content returns what others find under a name in the place that New returned
	// last. The error is fs.ErrNotExist where they find nothing.
	Content func(t *testing.T, name string) ([]byte, error)

	// Stored returns what lies under a name in the place that New returned last, where
	// that isn't what Content finds in it, because files are encrypted there: nil
	// elsewhere. Sum is of that, and Sum and Reopen end such a file.
	Stored func(t *testing.T, name string) ([]byte, error)

	// Stream: the place takes one file, others see its bytes as they are
	// written, and they can't be taken back.
	Stream bool

	// Begun is how many bytes of a file are written before the place has any of it: a
	// file of fewer gets there when it is whole.
	Begun int
}

// TestPlace holds a kind of place against the contract of package store.
func TestPlace(t *testing.T, k Kind) {
	t.Run("write", k.write)
	t.Run("empty", k.empty)
	t.Run("hole", k.hole)
	t.Run("scatter", k.scatter)
	t.Run("no sum", k.noSum)
	t.Run("reopen", k.reopen)
	t.Run("abort", k.abort)
	t.Run("ended", k.ended)
	t.Run("names", k.names)
	t.Run("space", k.space)
	if !k.Stream {
		t.Run("taken", k.taken)
		t.Run("taken meanwhile", k.takenMeanwhile)
		t.Run("guardian", k.guardian)
		t.Run("force", k.force)
	}
}

func (k Kind) create(t *testing.T, p store.Place, name string) store.File {
	t.Helper()
	if err := p.Check(t.Context(), name); err != nil {
		t.Fatalf("Check(%q) failed: %v", name, err)
	}
	f, err := p.Create(t.Context(), name)
	if err != nil {
		t.Fatalf("Create(%q) failed: %v", name, err)
	}
	t.Cleanup(func() { _ = f.Abort() })
	return f
}

func write(t *testing.T, f store.File, p []byte) {
	t.Helper()
	if n, err := f.Write(p); n != len(p) || err != nil {
		t.Fatalf("Write of %d bytes = %d, %v", len(p), n, err)
	}
}

func commit(t *testing.T, f store.File) {
	t.Helper()
	if err := f.Commit(t.Context()); err != nil {
		t.Fatalf("Commit failed: %v", err)
	}
}

// holds fails the test unless others find that content.
func (k Kind) holds(t *testing.T, name string, want []byte) {
	t.Helper()
	got, err := k.Content(t, name)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("others find %d bytes, %v; want %d of what was written", len(got), err, len(want))
	}
}

func (k Kind) absent(t *testing.T, name string) {
	t.Helper()
	if got, err := k.Content(t, name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("others find %d bytes, %v; want %v", len(got), err, fs.ErrNotExist)
	}
}

// sums fails the test unless Sum is that of the file, of which want was written.
func (k Kind) sums(t *testing.T, f store.File, name string, want []byte) {
	t.Helper()
	if k.Stored != nil {
		var err error
		if want, err = k.Stored(t, name); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.Sum(); got != hashOf(want) {
		t.Errorf("Sum() of %d bytes = %s; want %s", len(want), got, hashOf(want))
	}
}

func hashOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// some are bytes that differ from each other.
func some(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i%251) + 1
	}
	return b
}

// space is told without anything being made, and what is read back is what Reopen
// says.
func (k Kind) space(t *testing.T) {
	p, name := k.New(t, store.Options{})
	s, err := p.Space(t.Context())
	switch {
	case err != nil:
		t.Fatalf("Space failed: %v", err)
	case s.Known && (s.Most == 0 || s.Sure > s.Most):
		t.Errorf("Space() = %+v; want some, and no more promised than there can be", s)
	case !s.Known && s != store.Space{}:
		t.Errorf("Space() = %+v; want nothing of what isn't known", s)
	}
	f := k.create(t, p, name)
	write(t, f, some(10))
	_, _, err = f.Reopen(t.Context())
	if p.ReadsBack() != (err == nil) || !p.ReadsBack() && !errors.Is(err, store.ErrWriteOnly) {
		t.Errorf("ReadsBack() = %v, and Reopen: %v; want the same of both", p.ReadsBack(), err)
	}
}

func (k Kind) write(t *testing.T) {
	p, name := k.New(t, store.Options{})
	if p.Path(name) == "" {
		t.Error("Path is empty; want how others call the file")
	}
	f := k.create(t, p, name)
	var all []byte
	for _, n := range []int{1, 0, 4096, 1<<20 + 7, k.Begun} {
		write(t, f, some(n))
		all = append(all, some(n)...)
		if k.Stored == nil {
			k.sums(t, f, name, all)
		}
		if !k.Stream {
			k.absent(t, name)
		}
	}
	commit(t, f)
	k.holds(t, name, all)
	k.sums(t, f, name, all)
}

func (k Kind) empty(t *testing.T) {
	p, name := k.New(t, store.Options{})
	f := k.create(t, p, name)
	if k.Stored == nil {
		k.sums(t, f, name, nil)
	}
	commit(t, f)
	k.holds(t, name, nil)
	k.sums(t, f, name, nil)
}

// hole: holes are zeros, wherever they are.
func (k Kind) hole(t *testing.T) {
	for _, tt := range []struct {
		name  string
		parts []int // bytes; of a hole if negative
	}{
		{"amid", []int{100, -200000, 100}},
		{"first", []int{-4096, 1}},
		{"last", []int{1, -100000}},
		{"in a row", []int{-1, -65536, 0, -2, 5}},
		{"only", []int{-300000}},
	} {
		p, name := k.New(t, store.Options{})
		f := k.create(t, p, name)
		h, ok := f.(store.HoleWriter)
		if !ok {
			t.Skip("files here have no holes")
		}
		var all []byte
		for _, n := range tt.parts {
			if n > 0 {
				write(t, f, some(n))
				all = append(all, some(n)...)
				continue
			}
			if err := h.WriteHole(int64(-n)); err != nil {
				t.Fatalf("%s: WriteHole(%d) failed: %v", tt.name, -n, err)
			}
			all = append(all, make([]byte, -n)...)
		}
		if got := f.Sum(); got != hashOf(all) {
			t.Errorf("%s: Sum() = %s; want %s", tt.name, got, hashOf(all))
		}
		if r, size, err := f.Reopen(t.Context()); err == nil {
			got, err := io.ReadAll(io.NewSectionReader(r, 0, size))
			if err != nil || !bytes.Equal(got, all) {
				t.Errorf("%s: Reopen gives %d bytes, %v; want %d with zeros", tt.name, len(got), err, len(all))
			}
		}
		if err := h.WriteHole(-1); err == nil {
			t.Errorf("%s: WriteHole(-1) worked; want an error", tt.name)
		}
		if err := h.WriteHole(1<<63 - 1); err == nil && len(all) > 0 {
			t.Errorf("%s: WriteHole beyond the longest file worked; want an error", tt.name)
		}
		commit(t, f)
		k.holds(t, name, all)
	}
}

// scatter: what is written in any order is where it was written, and zeros are where
// nothing was.
func (k Kind) scatter(t *testing.T) {
	p, name := k.New(t, store.Options{NoSum: true})
	s, ok := k.create(t, p, name).(store.ScatterWriter)
	if !ok {
		t.Skip("files here are written from their start")
	}
	const size = 4 << 20
	w, err := s.Scatter(size)
	if err != nil {
		t.Fatalf("Scatter failed: %v", err)
	}
	want := make([]byte, size)
	var writers sync.WaitGroup
	for _, at := range []int{size - 1000, 2 << 20, 5, 100} {
		piece := some(at%977 + 1)
		copy(want[at:], piece)
		writers.Go(func() {
			if n, err := w.WriteAt(piece, int64(at)); n != len(piece) || err != nil {
				t.Errorf("WriteAt of %d bytes at %d = %d, %v", len(piece), at, n, err)
			}
		})
	}
	writers.Wait()
	for _, at := range []int64{-1, size - 1, size + 1} {
		if _, err := w.WriteAt([]byte("ab"), at); err == nil {
			t.Errorf("WriteAt of 2 bytes at %d of %d worked; want an error", at, size)
		}
	}
	if r, n, err := s.Reopen(t.Context()); err == nil {
		got, err := io.ReadAll(io.NewSectionReader(r, 0, n))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("Reopen gives %d bytes, %v; want %d as they were written", len(got), err, len(want))
		}
	}
	commit(t, s)
	if _, err := w.WriteAt([]byte("late"), 0); err == nil {
		t.Error("WriteAt after Commit worked; want an error")
	}
	k.holds(t, name, want)

	p, name = k.New(t, store.Options{})
	s = k.create(t, p, name).(store.ScatterWriter)
	if _, err := s.Scatter(size); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Scatter of a file whose hash is wanted = %v; want ErrUnsupported", err)
	}
	write(t, s, some(10))
	commit(t, s)
	k.holds(t, name, some(10))
	p, name = k.New(t, store.Options{NoSum: true})
	s = k.create(t, p, name).(store.ScatterWriter)
	write(t, s, some(10))
	if _, err := s.Scatter(size); err == nil {
		t.Error("Scatter of a file with bytes in it worked; want an error")
	}
}

func (k Kind) noSum(t *testing.T) {
	p, name := k.New(t, store.Options{NoSum: true})
	f := k.create(t, p, name)
	write(t, f, some(10))
	if got := f.Sum(); got != "" {
		t.Errorf("Sum() = %q; want none", got)
	}
	commit(t, f)
	k.holds(t, name, some(10))
}

// reopen: what was written so far is read back, and more may follow, but where files are
// encrypted.
func (k Kind) reopen(t *testing.T) {
	p, name := k.New(t, store.Options{})
	f := k.create(t, p, name)
	want := some(100000)
	write(t, f, want)
	r, size, err := f.Reopen(t.Context())
	if errors.Is(err, store.ErrWriteOnly) {
		t.Skip("what was written can't be read back here")
	}
	if err != nil || size != int64(len(want)) {
		t.Fatalf("Reopen = %d bytes, %v; want %d", size, err, len(want))
	}
	got := make([]byte, len(want))
	if _, err := r.ReadAt(got, 0); (err != nil && !errors.Is(err, io.EOF)) || !bytes.Equal(got, want) {
		t.Errorf("what Reopen gives is not what was written: %v", err)
	}
	if n, err := r.ReadAt(got[:2], size-1); n != 1 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt across the end = %d, %v; want 1, EOF", n, err)
	}
	if k.Stored != nil {
		if n, err := f.Write(want); n != 0 || err == nil {
			t.Errorf("Write after Reopen = %d, %v; want an error", n, err)
		}
		if _, size, err := f.Reopen(t.Context()); err != nil || size != int64(len(want)) {
			t.Errorf("Reopen again = %d bytes, %v; want %d", size, err, len(want))
		}
		commit(t, f)
		k.holds(t, name, want)
		return
	}
	write(t, f, want)
	if _, size, err := f.Reopen(t.Context()); err != nil || size != int64(2*len(want)) {
		t.Errorf("Reopen after more = %d bytes, %v; want %d", size, err, 2*len(want))
	}
	commit(t, f)
	k.holds(t, name, append(want, want...))
}

func (k Kind) abort(t *testing.T) {
	p, name := k.New(t, store.Options{})
	f := k.create(t, p, name)
	write(t, f, some(5000+k.Begun))
	for range 2 {
		if err := f.Abort(); err != nil {
			t.Errorf("Abort failed: %v", err)
		}
	}
	if k.Stream {
		return
	}
	k.absent(t, name)
	f = k.create(t, p, name)
	write(t, f, some(3))
	commit(t, f)
	k.holds(t, name, some(3))
}

// ended: after Commit and after Abort a file does nothing any more.
func (k Kind) ended(t *testing.T) {
	for what, end := range map[string]func(store.File) error{
		"Commit": func(f store.File) error { return f.Commit(t.Context()) },
		"Abort":  func(f store.File) error { return f.Abort() },
	} {
		p, name := k.New(t, store.Options{})
		f := k.create(t, p, name)
		write(t, f, some(10))
		if err := end(f); err != nil {
			t.Fatalf("%s failed: %v", what, err)
		}
		if n, err := f.Write(some(1)); n != 0 || err == nil {
			t.Errorf("Write after %s = %d, %v; want an error", what, n, err)
		}
		if err := f.Commit(t.Context()); !errors.Is(err, os.ErrClosed) {
			t.Errorf("Commit after %s = %v; want %v", what, err, os.ErrClosed)
		}
		if err := f.Abort(); err != nil {
			t.Errorf("Abort after %s = %v; want nil", what, err)
		}
		if what == "Commit" {
			k.holds(t, name, some(10))
		}
	}
}

// names: what is no name of a file there is refused, by Check too.
func (k Kind) names(t *testing.T) {
	p, _ := k.New(t, store.Options{Force: true})
	for _, name := range []string{"", ".", "..", "a/b", "/a", "../a"} {
		if err := p.Check(t.Context(), name); err == nil {
			t.Errorf("Check(%q) = nil; want an error", name)
		}
		if f, err := p.Create(t.Context(), name); err == nil {
			_ = f.Abort()
			t.Errorf("Create(%q) worked; want an error", name)
		}
	}
}

// put makes a whole file.
func (k Kind) put(t *testing.T, p store.Place, name string, content []byte) {
	t.Helper()
	f, err := p.Create(t.Context(), name)
	if err != nil {
		t.Fatalf("Create(%q) failed: %v", name, err)
	}
	write(t, f, content)
	commit(t, f)
}

// taken: a name that something has is not given again.
func (k Kind) taken(t *testing.T) {
	p, name := k.New(t, store.Options{})
	k.put(t, p, name, some(7))
	if err := p.Check(t.Context(), name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Check of a name that is taken = %v; want %v", err, fs.ErrExist)
	}
	if _, err := p.Create(t.Context(), name); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of a name that is taken = %v; want %v", err, fs.ErrExist)
	}
	if err := p.Check(t.Context(), name+".json"); err != nil {
		t.Errorf("Check of another name = %v; want nil", err)
	}
	k.holds(t, name, some(7))
}

// takenMeanwhile: of two files for one name, the one that is whole first has it.
func (k Kind) takenMeanwhile(t *testing.T) {
	p, name := k.New(t, store.Options{})
	f := k.create(t, p, name)
	write(t, f, some(9+k.Begun))
	k.put(t, p, name, some(7))
	if err := f.Commit(t.Context()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Commit to a name that was taken meanwhile = %v; want %v", err, fs.ErrExist)
	}
	if err := f.Abort(); err != nil {
		t.Errorf("Abort after a Commit that failed = %v; want nil", err)
	}
	k.holds(t, name, some(7))
}

// force: a file replaces another one when it is whole, and not before.
func (k Kind) force(t *testing.T) {
	p, name := k.New(t, store.Options{Force: true})
	k.put(t, p, name, some(7))
	f := k.create(t, p, name)
	write(t, f, some(9))
	k.holds(t, name, some(7))
	if err := f.Abort(); err != nil {
		t.Fatalf("Abort failed: %v", err)
	}
	k.holds(t, name, some(7))
	k.put(t, p, name, some(9))
	k.holds(t, name, some(9))
}

// Guardian is a store.Guardian for tests, which writes down what it is told.
type Guardian struct {
	Expected []string
	Err      error // what Expect returns
}

// Token implements store.Guardian.
func (k *Guardian) Token() string { return "token-of-30-bytes-used-by-none" }

// Expect implements store.Guardian.
func (k *Guardian) Expect(paths ...string) error {
	k.Expected = append(k.Expected, paths...)
	return k.Err
}

// guardian: who removes what was begun knows of it before it is there, and if he
// doesn't, nothing is begun.
func (k Kind) guardian(t *testing.T) {
	var told Guardian
	p, name := k.New(t, store.Options{Guardian: &told})
	k.put(t, p, name, some(7+k.Begun))
	if len(told.Expected) != 1 || !strings.HasSuffix(told.Expected[0], told.Token()) {
		t.Errorf("the guardian was told of %q; want one path that ends in its token", told.Expected)
	}
	k.holds(t, name, some(7+k.Begun))
	told.Err = errors.New("guardian is dead")
	f, err := p.Create(context.WithoutCancel(t.Context()), name+".json")
	if err == nil && k.Begun > 0 {
		_, err = f.Write(some(7 + k.Begun))
		if abortErr := f.Abort(); abortErr != nil {
			t.Errorf("Abort failed: %v", abortErr)
		}
	}
	if !errors.Is(err, told.Err) {
		t.Errorf("a file with a guardian that fails: %v, %v; want its error", f, err)
	}
	k.absent(t, name+".json")
}
