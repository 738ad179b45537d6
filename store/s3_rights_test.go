package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"snap/internal/s3server"
	"snap/store"
	"snap/store/storetest"
)

// TestS3WriteOnly: who may write, and nothing else, can put a dump there, is told that it
// can't be asked what is there, and replaces nothing.
func TestS3WriteOnly(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	s.User(t, "writer", "dumps", "s3:PutObject", "s3:AbortMultipartUpload")
	s3server.Environment(t, s.Endpoint, "writer", "writer-secret")
	var notes []string
	p, name := opened(t, "s3://dumps/a.dmp", store.Options{Note: func(text string) { notes = append(notes, text) }})
	for _, n := range []int{100, 2*begun + 7} {
		if err := upload(t.Context(), p, name, n); err != nil {
			t.Fatalf("upload of %d bytes: %v", n, err)
		}
		if got := s.Stat(t, "dumps", "a.dmp").Size; got != int64(n) {
			t.Errorf("the object has %d bytes; want %d", got, n)
		}
		if len(notes) == 0 || !strings.Contains(notes[0], "s3://dumps/a.dmp") {
			t.Errorf("notes are %q; want that nobody can ask whether the object is there", notes)
		}
		for _, again := range []int{50, begun + 50} {
			if err := upload(t.Context(), p, name, again); !errors.Is(err, fs.ErrExist) {
				t.Errorf("upload of %d bytes to a key that is taken = %v; want %v", again, err, fs.ErrExist)
			}
		}
		if got := s.Stat(t, "dumps", "a.dmp").Size; got != int64(n) {
			t.Errorf("the object has %d bytes after others were refused; want %d", got, n)
		}
		if left := s.Uploads(t, "dumps"); len(left) > 0 {
			t.Errorf("uploads are left behind: %q", left)
		}
		s.Remove(t, "dumps", "a.dmp")
	}
	if _, err := store.OpenObject(t.Context(), "s3://dumps/a.dmp", store.Options{}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("OpenObject = %v; want %v", err, fs.ErrPermission)
	}
}

// TestS3Retention: the bucket keeps what it was asked to keep, and a bucket that can't says
// so before anything of the guest's memory is there.
func TestS3Retention(t *testing.T) {
	s := s3server.Start(t)
	s.Credentials(t)
	s.Bucket(t, "locked", true)
	s.Bucket(t, "open", false)
	for _, tt := range []struct {
		governance bool
		size       int
		mode       string
	}{{false, 100, "COMPLIANCE"}, {true, 100, "GOVERNANCE"}, {false, begun + 7, "COMPLIANCE"}} {
		o := store.Options{Force: true, S3: store.S3{Retain: 30 * 24 * time.Hour, Governance: tt.governance}}
		p, _ := opened(t, "s3://locked/", o)
		name := tt.mode + "-" + time.Now().Format("150405.000000")
		before := time.Now()
		if err := upload(t.Context(), p, name, tt.size); err != nil {
			t.Fatalf("upload of %d bytes, %s: %v", tt.size, tt.mode, err)
		}
		info := s.Stat(t, "locked", name)
		until, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
		if got := info.Metadata.Get("X-Amz-Object-Lock-Mode"); got != tt.mode || err != nil {
			t.Errorf("%d bytes are kept in mode %q, %v; want %s", tt.size, got, err, tt.mode)
		}
		if d := until.Sub(before.Add(o.S3.Retain)); d < -time.Second || d > time.Hour {
			t.Errorf("%d bytes are kept until %v; want 30 days", tt.size, until)
		}
		a, err := store.OpenArchive(t.Context(), "s3://locked/", store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Remove(t.Context(), name); !errors.Is(err, store.ErrKept) {
			t.Errorf("Remove of what is kept = %v; want %v", err, store.ErrKept)
		}
		if got := s.Stat(t, "locked", name).Size; got != int64(tt.size) {
			t.Errorf("%d bytes are left of %d", got, tt.size)
		}
	}
	for _, n := range []int{100, begun + 7} {
		p, name := opened(t, "s3://open/a.dmp", store.Options{S3: store.S3{Retain: time.Hour}})
		if err := upload(t.Context(), p, name, n); !errors.Is(err, store.ErrNoRetention) {
			t.Errorf("upload of %d bytes to a bucket without object lock = %v; want %v", n, err, store.ErrNoRetention)
		}
		if diff := cmp.Diff([]string(nil), s.Objects(t, "open")); diff != "" {
			t.Errorf("objects (-want +got):\n%s", diff)
		}
	}
}

// TestRemoveUnfinished: an upload whose snap was killed is aborted by what the guardian was
// told; nothing else is touched by such a text.
func TestRemoveUnfinished(t *testing.T) {
	s := s3server.Start(t)
	s.Credentials(t)
	s.Bucket(t, "dumps", false)
	var told storetest.Guardian
	p, name := opened(t, "s3://dumps/what of?it.dmp", store.Options{Guardian: &told})
	f, err := p.Create(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort() //nolint:errcheck // it is gone by then
	if _, err := f.Write(make([]byte, begun+1)); err != nil {
		t.Fatal(err)
	}
	if len(told.Expected) != 1 || len(s.Uploads(t, "dumps")) != 1 {
		t.Fatalf("the guardian was told of %q, and there are %q", told.Expected, s.Uploads(t, "dumps"))
	}
	text := told.Expected[0]
	for name, tt := range map[string]struct {
		text, token string
		want        error
	}{
		"another token":  {text, "another", store.ErrName},
		"another server": {strings.Replace(text, "127.0.0.1", "127.0.0.2", 1), told.Token(), store.ErrEndpoint},
		"another bucket": {strings.Replace(text, "s3://dumps/", "s3://missing/", 1), told.Token(), store.ErrNoBucket},
		"another key":    {strings.Replace(text, "what of", "what", 1), told.Token(), fs.ErrNotExist},
		"no upload":      {"s3://dumps/a.dmp", told.Token(), store.ErrName},
		"a path":         {"/etc/passwd", told.Token(), store.ErrName},
	} {
		if err := store.RemoveUnfinished(t.Context(), tt.text, tt.token, store.Options{}); !errors.Is(err, tt.want) {
			t.Errorf("%s: RemoveUnfinished = %v; want %v", name, err, tt.want)
		}
	}
	if left := s.Uploads(t, "dumps"); len(left) != 1 {
		t.Fatalf("uploads are %q; want the one that was begun", left)
	}
	if err := store.RemoveUnfinished(t.Context(), text, told.Token(), store.Options{}); err != nil {
		t.Errorf("RemoveUnfinished failed: %v", err)
	}
	if left := s.Uploads(t, "dumps"); len(left) > 0 {
		t.Errorf("uploads are left behind: %q", left)
	}
	if err := store.RemoveUnfinished(t.Context(), text, told.Token(), store.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("RemoveUnfinished again = %v; want %v", err, fs.ErrNotExist)
	}
}

// TestS3LostAnswers: what the server did though its answer was lost counts as done, and is
// done once.
func TestS3LostAnswers(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	for _, n := range []int{100, 2*begun + 7} {
		proxy := s.Proxy(t)
		s3server.Environment(t, proxy.Endpoint, s3server.Access, s3server.Secret)
		p, name := opened(t, "s3://dumps/a.dmp", store.Options{})
		proxy.Fail(proxy.LoseAnswers())
		if err := upload(t.Context(), p, name, n); err != nil {
			t.Errorf("upload of %d bytes whose last answer is lost: %v", n, err)
		}
		if got := s.Stat(t, "dumps", "a.dmp").Size; got != int64(n) {
			t.Errorf("the object has %d bytes; want %d", got, n)
		}
		s.Remove(t, "dumps", "a.dmp")
	}
}

// TestS3Credentials: where credentials are looked for, in that order, and that no error
// tells what is in a file of them.
func TestS3Credentials(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := "[default]\naws_access_key_id = " + s3server.Access + "\naws_secret_access_key = " + s3server.Secret + "\n"
	right, profiles := file("right", good), file("profiles", strings.Replace(good, "default", "backup", 1))
	wrong := file("wrong", strings.Replace(good, s3server.Secret, "another", 1))
	broken, systemd := file("broken", "[default]\n"+s3server.Secret+"\n"), filepath.Dir(file("s3", good))
	for _, tt := range []struct {
		name string
		env  map[string]string
		file string
		want error
	}{
		{"none", nil, "", store.ErrNoCredentials},
		{"environment", map[string]string{"AWS_ACCESS_KEY_ID": s3server.Access, "AWS_SECRET_ACCESS_KEY": s3server.Secret}, "", nil},
		{"file first", map[string]string{"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}, right, nil},
		{"wrong file", map[string]string{"AWS_ACCESS_KEY_ID": s3server.Access, "AWS_SECRET_ACCESS_KEY": s3server.Secret}, wrong, store.ErrCredentials},
		{"missing file", nil, filepath.Join(dir, "missing"), store.ErrNoCredentials},
		{"broken file", nil, broken, store.ErrNoCredentials},
		{"systemd", map[string]string{"CREDENTIALS_DIRECTORY": systemd, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}, "", nil},
		{"profile", map[string]string{"AWS_SHARED_CREDENTIALS_FILE": profiles, "AWS_PROFILE": "backup"}, "", nil},
		{"missing profile", map[string]string{"AWS_SHARED_CREDENTIALS_FILE": profiles}, "", store.ErrNoCredentials},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s3server.Environment(t, s.Endpoint, "", "")
			for name, value := range tt.env {
				t.Setenv(name, value)
			}
			p, name, err := store.Open("s3://dumps/"+strings.ReplaceAll(tt.name, " ", "-"), store.Options{S3: store.S3{Credentials: tt.file}})
			if err == nil {
				err = upload(t.Context(), p, name, 100)
			}
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Errorf("upload = %v; want %v", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), s3server.Secret) {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
}
