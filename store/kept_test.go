package store_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"snap/internal/s3server"
	"snap/store"
)

// TestKeepLocal: a copy is there only if the upload fails, and then it is all of the file.
func TestKeepLocal(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	const size = 3*begun + 7
	for _, tt := range []struct {
		name  string
		fault s3server.Fault
		kept  bool
	}{
		{name: "well"},
		{name: "parts", kept: true, fault: func(w http.ResponseWriter, r *http.Request) bool {
			return s3server.IsPart(r) && s3server.Answer(w, r, http.StatusForbidden, "AccessDenied")
		}},
		{name: "completion", kept: true, fault: func(w http.ResponseWriter, r *http.Request) bool {
			return s3server.IsComplete(r) && s3server.Answer(w, r, http.StatusForbidden, "AccessDenied")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy := s.Proxy(t)
			s3server.Environment(t, proxy.Endpoint, s3server.Access, s3server.Secret)
			dir := t.TempDir()
			p, _ := opened(t, "s3://dumps/", store.Options{})
			p = store.KeepLocal(p, store.Folder(dir, store.Options{}), nil)
			proxy.Fail(tt.fault)
			err := upload(t.Context(), p, tt.name, size)
			kept, ok := errors.AsType[*store.KeptError](err)
			if ok != tt.kept || !ok && err != nil {
				t.Fatalf("upload = %v; want that a copy is kept: %v", err, tt.kept)
			}
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.kept {
				if len(left) > 0 || s.Stat(t, "dumps", tt.name).Size != size {
					t.Errorf("%d files are left, and the object has %d bytes", len(left), s.Stat(t, "dumps", tt.name).Size)
				}
				return
			}
			if kept.Path != filepath.Join(dir, tt.name) || !errors.Is(kept, fs.ErrPermission) || !strings.Contains(kept.Error(), kept.Path) {
				t.Errorf("the error is %v, of %s", kept, kept.Path)
			}
			b, err := os.ReadFile(kept.Path)
			if err != nil || len(b) != size || string(b[size-7:]) != "0123456" {
				t.Errorf("the copy has %d bytes, %v; want %d", len(b), err, size)
			}
			if got := s.Uploads(t, "dumps"); len(got) > 0 {
				t.Errorf("uploads are left behind: %q", got)
			}
		})
	}
}

// TestKeepLocalEnds: an interrupted file leaves no copy, and a copy that can't be written
// doesn't keep the file from its place.
func TestKeepLocalEnds(t *testing.T) {
	there, here := t.TempDir(), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	p := store.KeepLocal(store.Folder(there, store.Options{}), store.Folder(here, store.Options{}), nil)
	f, err := p.Create(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "dump"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := errors.Join(f.Abort(), f.Abort()); err != nil {
		t.Errorf("Abort failed: %v", err)
	}
	for _, dir := range []string{there, here} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%d files are left, %v; want none", len(left), err)
		}
	}

	var notes []string
	p = store.KeepLocal(store.Folder(there, store.Options{}), full{store.Folder(here, store.Options{})}, func(text string) { notes = append(notes, text) })
	if f, err = p.Create(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(f, "dump"); err != nil {
		t.Errorf("Write without a copy failed: %v", err)
	}
	if err := f.Commit(t.Context()); err != nil || len(notes) != 1 || !strings.Contains(notes[0], errFull.Error()) {
		t.Errorf("Commit = %v, with notes %q; want that the copy is given up", err, notes)
	}
	if b, err := os.ReadFile(filepath.Join(there, "a")); err != nil || string(b) != "dump" {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

var errFull = errors.New("no space left")

// full is a place in which no file can be written.
type full struct{ store.Place }

func (p full) Create(ctx context.Context, name string) (store.File, error) {
	f, err := p.Place.Create(ctx, name)
	return fullFile{f}, err
}

type fullFile struct{ store.File }

func (fullFile) Write([]byte) (int, error) { return 0, errFull }
