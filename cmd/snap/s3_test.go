package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"snap/internal/s3server"
)

// TestS3Scripts runs the scenarios of testdata/s3 with a real S3 server.
func TestS3Scripts(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	s.Bucket(t, "locked", true)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/s3",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			// fetch BUCKET KEY FILE
			"fetch": func(ts *testscript.TestScript, _ bool, args []string) {
				b, err := s.Content(args[0], args[1])
				ts.Check(err)
				ts.Check(os.WriteFile(ts.MkAbs(args[2]), b, 0o600))
			},
			// objects BUCKET
			"objects": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(ts.Exec("printf", "%s", strings.Join(s.Objects(t, args[0]), "\n")))
			},
		},
		Setup: func(env *testscript.Env) error {
			env.Setenv("LIBVIRT_DEFAULT_URI", "lab:///")
			env.Setenv("SNAP_MAX_PAUSE", os.Getenv("SNAP_MAX_PAUSE"))
			env.Setenv("AWS_ENDPOINT_URL_S3", s.Endpoint)
			env.Setenv("AWS_ACCESS_KEY_ID", s3server.Access)
			env.Setenv("AWS_SECRET_ACCESS_KEY", s3server.Secret)
			env.Setenv("SECRET", s3server.Secret)
			right := "[default]\naws_access_key_id=" + s3server.Access + "\naws_secret_access_key=" + s3server.Secret + "\n"
			return os.WriteFile(filepath.Join(env.WorkDir, "right"), []byte(right), 0o600)
		},
	})
}

// TestKeepLocalDump: a dump whose upload fails is kept whole, and the error says where.
func TestKeepLocalDump(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	proxy := s.Proxy(t)
	s3server.Environment(t, proxy.Endpoint, s3server.Access, s3server.Secret)
	proxy.Fail(func(w http.ResponseWriter, r *http.Request) bool {
		return s3server.IsPart(r) && s3server.Answer(w, r, http.StatusForbidden, "AccessDenied")
	})
	kept := filepath.Join(t.TempDir(), "a.dmp")
	var stdout, stderr bytes.Buffer
	args := []string{"dump", "-c", "lab:///", "win10-22h2", "-o", "s3://dumps/a.dmp", "--keep-local", filepath.Dir(kept)}
	if code := run(t.Context(), args, &stdout, &stderr); code != exitUpload || !strings.Contains(stderr.String(), kept) {
		t.Errorf("exit code %d; want %d and where the dump is kept:\n%s", code, exitUpload, &stderr)
	}
	if code := run(t.Context(), []string{"verify", kept}, &stdout, &stderr); code != exitOK {
		t.Errorf("verify of what was kept: exit code %d\n%s%s", code, &stdout, &stderr)
	}
	proxy.Fail(nil)
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
	if code := run(t.Context(), args, &stdout, &stderr); code != exitOK {
		t.Errorf("exit code %d of an upload that works; want %d:\n%s", code, exitOK, &stderr)
	}
	if left, err := os.ReadDir(filepath.Dir(kept)); err != nil || len(left) > 0 {
		t.Errorf("%d files are left, %v; want none", len(left), err)
	}
}

// TestS3Fails: when the server fails in the middle of a dump, the exit code and the next
// step say so, nothing that looks like a dump is there, and no word tells the secret.
func TestS3Fails(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	var parts atomic.Int64
	for _, tt := range []struct {
		name  string
		fault s3server.Fault
		code  int
		say   string
		left  []string // uploads
	}{
		{"busy", func(w http.ResponseWriter, r *http.Request) bool {
			return s3server.IsPart(r) && parts.Add(1) > 2 && s3server.Answer(w, r, http.StatusServiceUnavailable, "SlowDown")
		}, exitUpload, "SlowDown", nil},
		{"expired", func(w http.ResponseWriter, r *http.Request) bool {
			return s3server.IsPart(r) && parts.Add(1) > 2 && s3server.Answer(w, r, http.StatusForbidden, "ExpiredToken")
		}, exitUpload, "still valid", nil},
		{"cut", func(_ http.ResponseWriter, r *http.Request) bool {
			return s3server.IsPart(r) && parts.Add(1) > 2 && s3server.Cut(r, 1000)
		}, exitUpload, "see whether the server answers", nil},
		{"killed", func(_ http.ResponseWriter, r *http.Request) bool {
			if s3server.IsPart(r) && parts.Add(1) == 3 {
				s.Kill()
			}
			return false
		}, exitUpload, "left behind", []string{"a.dmp"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			parts.Store(0)
			proxy := s.Proxy(t)
			s3server.Environment(t, proxy.Endpoint, s3server.Access, s3server.Secret)
			proxy.Fail(tt.fault)
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), []string{"dump", "-c", "lab:///", "win10-22h2", "-o", "s3://dumps/a.dmp"}, &stdout, &stderr)
			if tt.name == "killed" {
				s.Resume(t)
			}
			if said := stderr.String(); code != tt.code || !strings.Contains(said, tt.say) {
				t.Errorf("exit code %d; want %d and %q:\n%s", code, tt.code, tt.say, said)
			}
			if strings.Contains(stdout.String()+stderr.String(), s3server.Secret) {
				t.Errorf("the secret was told: %s%s", &stdout, &stderr)
			}
			if diff := cmp.Diff([]string(nil), s.Objects(t, "dumps")); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.left, s.Uploads(t, "dumps")); diff != "" {
				t.Errorf("uploads (-want +got):\n%s", diff)
			}
		})
	}
}

// TestS3Slow: a slow server takes longer and nothing else; one that doesn't answer any
// more is waited for as long as --timeout says, and keeps nothing.
func TestS3Slow(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	over := make(chan struct{}) // closed when snap has given up
	for _, tt := range []struct {
		name  string
		fault s3server.Fault
		code  int
		say   string
		want  []string // objects
	}{
		{"slow", func(_ http.ResponseWriter, r *http.Request) bool {
			if s3server.IsPart(r) {
				time.Sleep(300 * time.Millisecond)
			}
			return false
		}, exitOK, "", []string{"slow.dmp", "slow.dmp.json"}},
		{"silent", func(_ http.ResponseWriter, r *http.Request) bool {
			if s3server.IsPart(r) {
				<-over
			}
			return s3server.IsPart(r)
		}, exitFailed, "--timeout is over", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy := s.Proxy(t)
			s3server.Environment(t, proxy.Endpoint, s3server.Access, s3server.Secret)
			proxy.Fail(tt.fault)
			var stdout, stderr bytes.Buffer
			args := []string{"dump", "-c", "lab:///", "win10-22h2", "-o", "s3://dumps/" + tt.name + ".dmp"}
			if tt.code != exitOK {
				args = append(args, "--timeout", "8s")
			}
			code := run(t.Context(), args, &stdout, &stderr)
			if tt.code != exitOK {
				close(over)
			}
			if said := stderr.String(); code != tt.code || !strings.Contains(said, tt.say) {
				t.Errorf("exit code %d; want %d and %q:\n%s", code, tt.code, tt.say, said)
			}
			var got []string
			for _, name := range s.Objects(t, "dumps") {
				if strings.HasPrefix(name, tt.name) {
					got = append(got, name)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			if left := s.Uploads(t, "dumps"); len(left) > 0 {
				t.Errorf("uploads are left: %q", left)
			}
		})
	}
}
