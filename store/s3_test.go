package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/internal/s3server"
	"snap/store"
	"snap/store/storetest"
)

// begun is how many bytes a file of a bucket has when its first part is sent.
const begun = 16 << 20

func TestS3(t *testing.T) {
	s := s3server.Start(t)
	s.Credentials(t)
	n, bucket := 0, ""
	storetest.TestPlace(t, storetest.Kind{
		New: func(t *testing.T, o store.Options) (store.Place, string) {
			n++
			bucket = fmt.Sprintf("bucket-%d", n)
			s.Bucket(t, bucket, false)
			t.Cleanup(func() {
				if left := s.Uploads(t, bucket); len(left) > 0 {
					t.Errorf("uploads are left behind: %q", left)
				}
			})
			return opened(t, "s3://"+bucket+"/dumps of/web01/a.dmp", o)
		},
		Content: func(_ *testing.T, name string) ([]byte, error) { return s.Content(bucket, "dumps of/web01/"+name) },
		Begun:   begun,
	})
}

// TestS3Names: a destination that ends in "/", or is a bucket alone, leaves the name to
// the caller.
func TestS3Names(t *testing.T) {
	s3server.Environment(t, "https://s3.example.com", "key", "secret")
	for _, tt := range []struct{ dest, name, path string }{
		{"s3://bucket", "", "s3://bucket/x"},
		{"s3://bucket/", "", "s3://bucket/x"},
		{"s3://bucket/a.dmp", "a.dmp", "s3://bucket/x"},
		{"S3://bucket/a.dmp", "a.dmp", "s3://bucket/x"},
		{"s3://bucket/a/b/", "", "s3://bucket/a/b/x"},
		{"s3://bucket/a/b?c=d", "b?c=d", "s3://bucket/a/x"},
	} {
		p, name, err := store.Open(tt.dest, store.Options{})
		if err != nil || name != tt.name || p.Path("x") != tt.path {
			t.Errorf("Open(%q) = %q, %v; want %q and x at %s", tt.dest, name, err, tt.name, tt.path)
		}
	}
	for _, dest := range []string{"s3://", "s3:///a", "s3://b/a", "s3://Bad_Bucket/a", "s3://bucket/a//b", "s3://bucket/../a", "s3://bucket/./a", "s3://bucket/a\x1b[2J", "s3://bucket/" + strings.Repeat("a", 1025)} {
		if _, _, err := store.Open(dest, store.Options{}); !errors.Is(err, store.ErrName) {
			t.Errorf("Open(%.40q) = %v; want %v", dest, err, store.ErrName)
		}
	}
}

func TestS3Endpoints(t *testing.T) {
	s3server.Environment(t, "", "key", "secret")
	for endpoint, ok := range map[string]bool{
		"": true, "https://s3.example.com": true, "http://127.0.0.1:7070/": true,
		"s3.example.com": false, "ftp://s3.example.com": false, "https://": false, "https://s3.example.com/path": false,
		"https://user:password@s3.example.com": false, "https://s3.example.com?x=y": false, "://": false,
	} {
		_, _, err := store.Open("s3://bucket/a", store.Options{S3: store.S3{Endpoint: endpoint}})
		if ok != (err == nil) || !ok && !errors.Is(err, store.ErrEndpoint) {
			t.Errorf("endpoint %q: %v; want it taken: %v", endpoint, err, ok)
		}
		if err != nil && strings.Contains(err.Error(), "password") {
			t.Errorf("endpoint %q: the error tells the password: %v", endpoint, err)
		}
	}
}

// upload writes n bytes to a new file and returns the first error of that and of Commit.
func upload(ctx context.Context, p store.Place, name string, n int) error {
	f, err := p.Create(ctx, name)
	if err != nil {
		return err
	}
	if s, ok := f.(store.Sized); ok {
		s.Expect(int64(n))
	}
	piece := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for n > 0 && err == nil {
		var w int
		w, err = f.Write(piece[:min(n, len(piece))])
		n -= w
	}
	if err != nil {
		return errors.Join(err, f.Abort())
	}
	return f.Commit(ctx)
}

// TestS3Faults: whatever goes wrong, it is said what, and nothing is left: no object, no
// upload, and no word of the secret.
func TestS3Faults(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	var parts atomic.Int64
	third := func(r *http.Request) bool { return s3server.IsPart(r) && parts.Add(1) == 3 }
	for _, tt := range []struct {
		name   string
		fault  s3server.Fault
		secret string
		dest   string
		want   error // nil: it must work all the same
	}{
		{name: "cut once", fault: func(_ http.ResponseWriter, r *http.Request) bool {
			return third(r) && s3server.Cut(r, 100_000)
		}},
		{name: "cut always", want: store.ErrServer, fault: func(_ http.ResponseWriter, r *http.Request) bool {
			return s3server.IsPart(r) && parts.Add(1) >= 3 && s3server.Cut(r, 100_000)
		}},
		{name: "busy once", fault: func(w http.ResponseWriter, r *http.Request) bool {
			return third(r) && s3server.Answer(w, r, http.StatusServiceUnavailable, "SlowDown")
		}},
		{name: "busy always", want: store.ErrServer, fault: func(w http.ResponseWriter, r *http.Request) bool {
			return s3server.IsPart(r) && s3server.Answer(w, r, http.StatusServiceUnavailable, "SlowDown")
		}},
		{name: "expired meanwhile", want: store.ErrCredentials, fault: func(w http.ResponseWriter, r *http.Request) bool {
			return s3server.IsPart(r) && parts.Add(1) >= 3 && s3server.Answer(w, r, http.StatusBadRequest, "ExpiredToken")
		}},
		{name: "denied meanwhile", want: fs.ErrPermission, fault: func(w http.ResponseWriter, r *http.Request) bool {
			return third(r) && s3server.Answer(w, r, http.StatusForbidden, "AccessDenied")
		}},
		{name: "clock", want: store.ErrClock, fault: func(w http.ResponseWriter, r *http.Request) bool {
			return r.Method == http.MethodGet && s3server.Answer(w, r, http.StatusForbidden, "RequestTimeTooSkewed")
		}},
		{name: "not completed", want: store.ErrServer, fault: func(w http.ResponseWriter, r *http.Request) bool {
			return s3server.IsComplete(r) && s3server.Answer(w, r, http.StatusBadRequest, "InvalidPart")
		}},
		{name: "other bytes", want: store.ErrChecksum, fault: func(w http.ResponseWriter, r *http.Request) bool {
			if !third(r) {
				return false
			}
			w.Header().Set("ETag", `"x"`)
			w.Header().Set("X-Amz-Checksum-Sha256", "AAAA")
			return true
		}},
		{name: "wrong secret", secret: "another", want: store.ErrCredentials},
		{name: "no bucket", dest: "s3://missing/a.dmp", want: store.ErrNoBucket},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parts.Store(0)
			proxy := s.Proxy(t)
			if tt.secret == "" {
				tt.secret = s3server.Secret
			}
			if tt.dest == "" {
				tt.dest = "s3://dumps/a.dmp"
			}
			s3server.Environment(t, proxy.Endpoint, s3server.Access, tt.secret)
			p, name := opened(t, tt.dest, store.Options{Force: true})
			proxy.Fail(tt.fault)
			err := upload(t.Context(), p, name, 5*begun+7)
			proxy.Fail(nil)
			var want []string
			if tt.want == nil {
				want = []string{"a.dmp"}
			}
			if (err == nil) != (tt.want == nil) || !errors.Is(err, tt.want) {
				t.Errorf("upload = %v; want %v", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), tt.secret) {
				t.Errorf("the error tells the secret: %v", err)
			}
			if diff := cmp.Diff(want, s.Objects(t, "dumps")); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			if left := s.Uploads(t, "dumps"); len(left) > 0 {
				t.Errorf("uploads are left behind: %q", left)
			}
			if err == nil {
				s.Remove(t, "dumps", "a.dmp")
			}
		})
	}
}
