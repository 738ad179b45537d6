package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"snap/manifest"
	"snap/store"
)

var began = time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC)

// shelf is a folder with what tests put there.
type shelf struct {
	t   *testing.T
	dir string
}

func newShelf(t *testing.T) shelf { return shelf{t, t.TempDir()} }

func (s shelf) put(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// dump puts a dump of n bytes there, with a manifest that change may alter.
func (s shelf) dump(name string, n int, change func(*manifest.Manifest)) {
	s.t.Helper()
	m := &manifest.Manifest{
		Snap: "1.0", Domain: "web01", UUID: "5F5A3C1E-0000-4000-8000-000000000001", Host: "host", Started: began,
		Output: "/elsewhere/" + name, Mode: "pause", Bytes: manifest.Bytes{Written: uint64(n), Dump: 4096},
		Verify: &manifest.Verify{OK: true, ReadBack: uint64(n)},
		Header: manifest.Header{Fields: map[string]manifest.Field{"BugCheckCode": {Value: "0x7e"}}},
	}
	m.SetMoment(manifest.OnePointInTime, "")
	if change != nil {
		change(m)
	}
	doc, err := m.JSON()
	if err != nil {
		s.t.Fatal(err)
	}
	s.put(name, strings.Repeat("x", n))
	s.put(name+".json", string(doc))
}

func (s shelf) archive() store.Archive {
	s.t.Helper()
	a, err := store.OpenArchive(s.t.Context(), s.dir, store.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (s shelf) read() []Entry {
	s.t.Helper()
	entries, err := Read(s.t.Context(), s.archive())
	if err != nil {
		s.t.Fatal(err)
	}
	return entries
}

// names are those of the files that are there.
func (s shelf) names() []string {
	s.t.Helper()
	var names []string
	if err := s.archive().List(s.t.Context(), func(e store.Entry) error { names = append(names, e.Name); return nil }); err != nil {
		s.t.Fatal(err)
	}
	return names
}

// TestRead is of every state that a file can have.
func TestRead(t *testing.T) {
	s := newShelf(t)
	s.dump("b.dmp.zst", 7, nil)
	s.dump("a.dmp.gz", 7, func(m *manifest.Manifest) { m.Started = began.Add(time.Hour) })
	s.dump("named by hand", 7, func(m *manifest.Manifest) { m.Domain = "alpha" })
	s.dump("cut.dmp", 7, nil)
	s.put("cut.dmp", "x")
	s.dump("gone.dmp.zst", 7, nil)
	s.put("alone.dmp.zst.age", "x")
	s.put("forged.DMP", "x")
	s.put("forged.DMP.json", `{"domain":"web01"}`)
	s.put("notes.txt", "x")
	s.put("other.json", `[1]`)
	s.put(".dmp", "x")
	if err := os.Remove(filepath.Join(s.dir, "gone.dmp.zst")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range s.read() {
		domain := "-"
		if e.Account != nil {
			domain = e.Account.Domain
		}
		got = append(got, fmt.Sprintf("%s | %s | %s | %s", e.Name, e.State, domain, e.Why))
	}
	none := `what would be its manifest is none: read a manifest: not a manifest: `
	want := []string{
		"named by hand | dump | alpha | ",
		"b.dmp.zst | dump | web01 | ",
		"cut.dmp | damaged | web01 | it has 1 bytes; its manifest says 7",
		"gone.dmp.zst.json | no dump | web01 | its dump isn't there",
		"a.dmp.gz | dump | web01 | ",
		".dmp | foreign | - | neither its name nor a manifest says that it is a dump",
		"alone.dmp.zst.age | no manifest | - | nothing lies beside it",
		"forged.DMP | no manifest | - | " + none + `"snap", the version that wrote it, is missing`,
		"forged.DMP.json | foreign | - | " + none + `"snap", the version that wrote it, is missing`,
		"notes.txt | foreign | - | neither its name nor a manifest says that it is a dump",
		"other.json | foreign | - | " + none + "json: cannot unmarshal array into Go value of type manifest.Manifest",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Read (-want +got):\n%s", diff)
	}
}

// TestAccount: what a manifest says is kept, as far as texts are no longer than they
// may be.
func TestAccount(t *testing.T) {
	s := newShelf(t)
	s.dump("a.dmp", 7, func(m *manifest.Manifest) {
		m.Host = strings.Repeat("é", 1000)
		m.ExitCode = manifest.ExitDegraded
		m.KeptUntil = began.Add(time.Hour)
		m.EncryptedTo = slices.Repeat([]string{strings.Repeat("k", 400)}, 101)
	})
	entries := s.read()
	if len(entries) != 1 {
		t.Fatalf("%d entries; want 1", len(entries))
	}
	want := &Account{
		Snap: "1.0", Domain: "web01", UUID: "5f5a3c1e-0000-4000-8000-000000000001", Host: strings.Repeat("é", 150), Started: began,
		Output: "/elsewhere/a.dmp", Mode: "pause", Moment: manifest.OnePointInTime, Written: 7, Expanded: 4096,
		EncryptedTo: slices.Repeat([]string{strings.Repeat("k", 300)}, 100), Verified: true, How: manifest.VerifiedReadBack, KeptUntil: began.Add(time.Hour), Degraded: true, BugCheck: 0x7e,
	}
	if diff := cmp.Diff(want, entries[0].Account); diff != "" {
		t.Errorf("the account (-want +got):\n%s", diff)
	}
	if got := entries[0].When(); !got.Equal(began) {
		t.Errorf("When() = %v; want %v", got, began)
	}
	if got := (&Entry{Entry: store.Entry{Modified: began}, Account: &Account{}}).When(); !got.Equal(began) {
		t.Errorf("When() of an account without a time = %v; want the file's, %v", got, began)
	}
}

// TestHow is of what manifests of several versions say.
func TestHow(t *testing.T) {
	for _, tt := range []struct {
		verify *manifest.Verify
		ok     bool
		how    manifest.Verified
	}{
		{nil, false, ""},
		{&manifest.Verify{OK: false, How: manifest.VerifiedReadBack, ReadBack: 7}, false, ""},
		{&manifest.Verify{OK: true}, true, ""},
		{&manifest.Verify{OK: true, ReadBack: 6}, true, ""},
		{&manifest.Verify{OK: true, ReadBack: 7}, true, manifest.VerifiedReadBack},
		{&manifest.Verify{OK: true, How: manifest.VerifiedInFlight}, true, manifest.VerifiedInFlight},
		{&manifest.Verify{OK: true, How: "by magic", ReadBack: 7}, true, ""},
	} {
		s := newShelf(t)
		s.dump("a.dmp", 7, func(m *manifest.Manifest) { m.Verify = tt.verify })
		if a := s.read()[0].Account; a.Verified != tt.ok || a.How != tt.how {
			t.Errorf("of %+v the account is %t, %q; want %t, %q", tt.verify, a.Verified, a.How, tt.ok, tt.how)
		}
	}
}

// TestTooLarge: what is too large for a manifest isn't read.
func TestTooLarge(t *testing.T) {
	s := newShelf(t)
	s.put("a.dmp", "x")
	path := filepath.Join(s.dir, "a.dmp.json")
	s.put("a.dmp.json", "{")
	if err := os.Truncate(path, manifest.MaxSize+1); err != nil {
		t.Fatal(err)
	}
	entries := s.read()
	if len(entries) != 2 || entries[0].State != NoManifest || !strings.Contains(entries[0].Why, "too large") {
		t.Errorf("Read = %+v; want a dump without a manifest, since that is too large", entries)
	}
}

// watched counts what an archive is asked for.
type watched struct {
	store.Archive
	open, most atomic.Int64
	fails      string // the name of a file that can't be opened
	ends       func() // called with the first file that is opened
}

func (w *watched) Open(ctx context.Context, name string) (store.Reader, error) {
	if w.ends != nil {
		w.ends()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if name == w.fails {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrPermission)
	}
	n := w.open.Add(1)
	for m := w.most.Load(); n > m && !w.most.CompareAndSwap(m, n); m = w.most.Load() {
	}
	r, err := w.Archive.Open(ctx, name)
	return closing{r, w}, err
}

type closing struct {
	store.Reader
	w *watched
}

func (c closing) Close() error { c.w.open.Add(-1); return c.Reader.Close() }

// TestReadTogether: many manifests are read, and of no more than so many at a time.
func TestReadTogether(t *testing.T) {
	s := newShelf(t)
	const n = 300
	for i := range n {
		s.dump(fmt.Sprintf("%03d.dmp", i), 1, nil)
	}
	w := &watched{Archive: s.archive(), fails: "007.dmp.json"}
	entries, err := Read(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	dumps := 0
	for _, e := range entries {
		if e.State == Dump {
			dumps++
		} else if e.Name != "007.dmp" && e.Name != "007.dmp.json" || !strings.Contains(e.Why, "can't be read: open 007.dmp.json: permission denied") {
			t.Errorf("%s is %q: %s", e.Name, e.State, e.Why)
		}
	}
	if dumps != n-1 || w.open.Load() != 0 || w.most.Load() > readTogether {
		t.Errorf("%d dumps of %d, %d files left open, %d at a time", dumps, n-1, w.open.Load(), w.most.Load())
	}
}

// TestReadEnds with its context.
func TestReadEnds(t *testing.T) {
	s := newShelf(t)
	for i := range 100 {
		s.dump(fmt.Sprintf("%03d.dmp", i), 1, nil)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := Read(ctx, &watched{Archive: s.archive(), ends: cancel}); !errors.Is(err, context.Canceled) {
		t.Errorf("Read = %v; want %v", err, context.Canceled)
	}
}

// endless is an archive with more files than there may be.
type endless struct{ store.Archive }

func (endless) Path(string) string { return "s3://bucket/" }

func (endless) List(_ context.Context, each func(store.Entry) error) error {
	for {
		if err := each(store.Entry{Name: "a"}); err != nil {
			return err
		}
	}
}

func TestTooMany(t *testing.T) {
	if _, err := Read(t.Context(), endless{}); !errors.Is(err, ErrTooMany) {
		t.Errorf("Read = %v; want %v", err, ErrTooMany)
	}
}

// keeping is an archive that keeps a file.
type keeping struct {
	store.Archive
	name string
}

func (k keeping) Remove(ctx context.Context, name string) error {
	if name == k.name {
		return fmt.Errorf("remove %s: %w", name, store.ErrKept)
	}
	return k.Archive.Remove(ctx, name)
}

func TestRemove(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(s shelf)                     // what happens before
		around func(store.Archive) store.Archive // what keeps files
		gone   bool
		err    error
		left   []string
	}{
		{"both", nil, nil, true, nil, []string{"b.dmp", "b.dmp.json"}},
		{
			"the dump has grown", func(s shelf) { s.put("a.dmp", "12345678") }, nil,
			false, ErrChanged,
			[]string{"a.dmp", "a.dmp.json", "b.dmp", "b.dmp.json"},
		},
		{
			"the manifest is another one",
			func(s shelf) { s.dump("a.dmp", 7, func(m *manifest.Manifest) { m.Domain = "other" }) }, nil,
			false, ErrChanged,
			[]string{"a.dmp", "a.dmp.json", "b.dmp", "b.dmp.json"},
		},
		{
			"the manifest is gone",
			func(s shelf) { _ = os.Remove(filepath.Join(s.dir, "a.dmp.json")) }, nil,
			false, ErrChanged,
			[]string{"a.dmp", "b.dmp", "b.dmp.json"},
		},
		{
			"the dump is gone",
			func(s shelf) { _ = os.Remove(filepath.Join(s.dir, "a.dmp")) }, nil,
			false, fs.ErrNotExist,
			[]string{"a.dmp.json", "b.dmp", "b.dmp.json"},
		},
		{
			"the dump is kept", nil, func(a store.Archive) store.Archive { return keeping{a, "a.dmp"} },
			false, store.ErrKept,
			[]string{"a.dmp", "a.dmp.json", "b.dmp", "b.dmp.json"},
		},
		{
			"the manifest is kept", nil, func(a store.Archive) store.Archive { return keeping{a, "a.dmp.json"} },
			true, store.ErrKept,
			[]string{"a.dmp.json", "b.dmp", "b.dmp.json"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newShelf(t)
			s.dump("a.dmp", 7, nil)
			s.dump("b.dmp", 7, nil)
			entries := s.read()
			if tt.change != nil {
				tt.change(s)
			}
			a := s.archive()
			if tt.around != nil {
				a = tt.around(a)
			}
			i := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == "a.dmp" })
			gone, err := Remove(t.Context(), a, &entries[i])
			if gone != tt.gone || !errors.Is(err, tt.err) {
				t.Errorf("Remove = %t, %v; want %t, %v", gone, err, tt.gone, tt.err)
			}
			if diff := cmp.Diff(tt.left, s.names()); diff != "" {
				t.Errorf("what is left (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRemoveNothingElse: only what is a dump with its manifest is removed.
func TestRemoveNothingElse(t *testing.T) {
	s := newShelf(t)
	s.dump("cut.dmp", 7, nil)
	s.put("cut.dmp", "x")
	s.put("alone.dmp", "x")
	s.put("notes", "x")
	want := s.names()
	for _, e := range s.read() {
		if gone, err := Remove(t.Context(), s.archive(), &e); gone || !errors.Is(err, ErrChanged) {
			t.Errorf("Remove of %s = %t, %v; want %v", e.Name, gone, err, ErrChanged)
		}
	}
	if diff := cmp.Diff(want, s.names()); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
}

func TestNamedAsDump(t *testing.T) {
	for name, want := range map[string]bool{
		"a.dmp": true, "a.dmp.zst": true, "A.DMP": true, "a.dmp.zip.age": true, "a b.dmp.gz": true,
		"": false, ".dmp": false, "dmp": false, "a.dmpx": false, "a.dmp.json": false, "a.zst": false, "admp": false,
	} {
		if got := NamedAsDump(name); got != want {
			t.Errorf("NamedAsDump(%q) = %t; want %t", name, got, want)
		}
	}
}
