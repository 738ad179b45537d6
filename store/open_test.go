package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("folder", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dest     string
		name     string
		path     string // of a file "x" there
		say      string // of the error
		notThere bool
	}{
		{dest: "-", name: "-", path: "-"},
		{dest: "", path: dir + "/x"},
		{dest: ".", path: dir + "/x"},
		{dest: "a.dmp", name: "a.dmp", path: dir + "/x"},
		{dest: "./-", name: "-", path: dir + "/x"},
		{dest: "file", name: "file", path: dir + "/x"},
		{dest: "folder", path: dir + "/folder/x"},
		{dest: "folder/", path: dir + "/folder/x"},
		{dest: "folder/a", name: "a", path: dir + "/folder/x"},
		{dest: dir + "/folder/a", name: "a", path: dir + "/folder/x"},
		{dest: "/", path: "/x"},
		{dest: "none/a", say: "open none: ", notThere: true},
		{dest: "none/", say: "open none: ", notThere: true},
		{dest: "file/a", say: "open file: not a folder"},
		{dest: "file/", say: "open file: not a folder"},
	} {
		p, name, err := Open(tt.dest, Options{})
		if tt.say != "" {
			if err == nil || !strings.HasPrefix(err.Error(), tt.say) || errors.Is(err, fs.ErrNotExist) != tt.notThere {
				t.Errorf("Open(%q) = %v; want an error that begins with %q", tt.dest, err, tt.say)
			}
			continue
		}
		if err != nil || name != tt.name || p.Path("x") != tt.path {
			t.Errorf("Open(%q) = %q, %v; want %q and x at %s", tt.dest, name, err, tt.name, tt.path)
		}
	}
}

func TestForms(t *testing.T) {
	if diff := cmp.Diff([]string{"- for standard output", "s3://BUCKET/KEY", "s3://BUCKET/PREFIX/", "a file", "a folder"}, Forms()); diff != "" {
		t.Errorf("Forms() (-want +got):\n%s", diff)
	}
}

// shelf is a toy: a place in memory. It is all that a new kind of place needs.
type shelf map[string][]byte

func (s shelf) kind() kind {
	return kind{
		forms: []string{"shelf:NAME"},
		takes: func(dest string) bool { return strings.HasPrefix(dest, "shelf:") },
		open: func(dest string, o Options) (Place, string, error) {
			return s, strings.TrimPrefix(dest, "shelf:"), nil
		},
	}
}

func (s shelf) Path(name string) string { return "shelf:" + name }

func (s shelf) Check(_ context.Context, name string) error {
	if _, ok := s[name]; ok {
		return fmt.Errorf("create %s: %w", s.Path(name), fs.ErrExist)
	}
	return nil
}

func (s shelf) Space(context.Context) (Space, error) { return Space{}, nil }

func (s shelf) ReadsBack() bool { return true }

func (s shelf) Create(ctx context.Context, name string) (File, error) {
	if err := s.Check(ctx, name); err != nil {
		return nil, err
	}
	return &parcel{shelf: s, name: name, sum: newSum(Options{})}, nil
}

type parcel struct {
	bytes.Buffer
	sum
	shelf shelf
	name  string
}

func (p *parcel) Write(b []byte) (int, error) {
	p.add(b)
	return p.Buffer.Write(b)
}

func (p *parcel) Reopen(context.Context) (io.ReaderAt, int64, error) {
	return bytes.NewReader(p.Bytes()), int64(p.Len()), nil
}

func (p *parcel) Commit(ctx context.Context) error {
	if err := p.shelf.Check(ctx, p.name); err != nil {
		return err
	}
	p.shelf[p.name] = bytes.Clone(p.Bytes())
	return nil
}

func (p *parcel) Abort() error { return nil }

// TestAddPlace: a new kind of place is one more value in the list, and others
// are found as before.
func TestAddPlace(t *testing.T) {
	s := shelf{}
	all := append([]kind{s.kind()}, kinds()...)
	p, name, err := open("shelf:a", Options{}, all)
	if err != nil || name != "a" {
		t.Fatalf("open(shelf:a) = %q, %v; want a", name, err)
	}
	f, err := p.Create(t.Context(), name)
	if err != nil {
		t.Fatalf("Create failed: %v", err)
	}
	if _, err := io.WriteString(f, "dump"); err != nil {
		t.Fatal(err)
	}
	if err := f.Commit(t.Context()); err != nil || string(s["a"]) != "dump" {
		t.Errorf("Commit = %v with %q on the shelf; want the dump there", err, s["a"])
	}
	if got := forms(all); got[0] != "shelf:NAME" || len(got) != len(Forms())+1 {
		t.Errorf("forms = %q; want the new one among them", got)
	}
	dest := filepath.Join(t.TempDir(), "a.dmp")
	if p, name, err := open(dest, Options{}, all); err != nil || p.Path(name) != dest {
		t.Errorf("open(%s) = %v, %v; want that file", dest, p, err)
	}
}
