package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/internal/s3server"
)

// TestKilledUpload kills snap in the middle of an upload: its guardian aborts that, and if
// the guardian is killed too, snap recover does. What stands in the state file is no
// secret.
func TestKilledUpload(t *testing.T) {
	g := upHeld(t, "upload")
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	proxy := s.Proxy(t)
	s3server.Environment(t, proxy.Endpoint, s3server.Access, s3server.Secret)
	for _, both := range []bool{false, true} {
		proxy.Fail(func(_ http.ResponseWriter, r *http.Request) bool {
			if s3server.IsPart(r) {
				<-r.Context().Done() // it never arrives
				panic(http.ErrAbortHandler)
			}
			return false
		})
		r := g.start(t, "-o", "s3://dumps/out.dmp")
		g.untilKnown(t, r)
		r.until(t, "its guardian knew of the upload", func() bool {
			run, _ := g.runFile(t)
			return len(run.Files) > 0
		})
		run, _ := g.runFile(t)
		if text := strings.Join(run.Files, " "); !strings.HasPrefix(text, "s3://dumps/out.dmp?") || strings.Contains(text, s3server.Secret) {
			t.Errorf("the state file has %q", text)
		}
		if got := s.Uploads(t, "dumps"); len(got) != 1 {
			t.Fatalf("uploads are %q; want the one that was begun", got)
		}
		if both {
			if err := unix.Kill(run.Guardian.PID, unix.SIGKILL); err != nil {
				t.Fatalf("kill the guardian: %v", err)
			}
		}
		r.kill()
		proxy.Fail(nil)
		if both {
			did := runSnap(t, g.Connection, "recover", g.Name).want(t, exitOK)
			if !strings.Contains(did.stdout, "s3://dumps/out.dmp") {
				t.Errorf("snap recover says %q; want that it aborted the upload", did.stdout)
			}
		}
		g.undone(t, hv.StateRunning, time.Now())
		if got := s.Uploads(t, "dumps"); len(got) > 0 {
			t.Errorf("both killed %v: uploads are left behind: %q", both, got)
		}
		if got := s.Objects(t, "dumps"); len(got) > 0 {
			t.Errorf("both killed %v: objects are left behind: %q", both, got)
		}
	}
}
