// Package s3server runs a real S3 server for tests: versitygw on a folder of its own, at
// a loopback address. scripts/tools.sh installs it.
package s3server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Access and Secret are those of the server's owner. A test can look for the secret where
// none must be.
const (
	Access = "snap-test-root"
	Secret = "snap-test-secret-which-nobody-may-see"
)

// readyFor is how long a server may take to answer.
const readyFor = time.Minute

// Server is a server that runs until the test ends.
type Server struct {
	Endpoint string // its URL

	dir    string
	port   string
	cmd    *exec.Cmd
	client *minio.Core
}

// Start starts a server without buckets. With -short, tests that call it are left out.
func Start(t testing.TB) *Server {
	t.Helper()
	if testing.Short() {
		t.Skip("needs an S3 server: make test runs it, make check and go test -short don't")
	}
	s := &Server{dir: t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.port = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.Endpoint = "http://" + s.port
	for _, d := range []string{"data", "meta", "users", "versions"} {
		if err := os.Mkdir(filepath.Join(s.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.client = clientFor(t, s.port, Access, Secret)
	s.Resume(t)
	t.Cleanup(s.Kill)
	return s
}

func clientFor(t testing.TB, addr, access, secret string) *minio.Core {
	t.Helper()
	c, err := minio.NewCore(addr, &minio.Options{
		Creds: credentials.NewStaticV4(access, secret, ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath, MaxRetries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// program finds the server's program.
func program(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			path := filepath.Join(dir, "bin", "tools", "versitygw")
			if _, err := os.Stat(path); err != nil {
				t.Fatalf("%v: make test installs it (scripts/test.sh)", err)
			}
			return path
		}
		dir = filepath.Dir(dir)
	}
	t.Fatalf("no go.mod above the test: %v", err)
	return ""
}

// Resume starts the server, again with what it has.
func (s *Server) Resume(t testing.TB) {
	t.Helper()
	s.cmd = exec.Command(program(t), "--port", s.port, "--region", "us-east-1", "--quiet", "--iam-dir", s.in("users"), "--iam-cache-disable",
		"posix", "--sidecar", s.in("meta"), "--versioning-dir", s.in("versions"), s.in("data"))
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+Access, "ROOT_SECRET_KEY="+Secret)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said strings.Builder
	s.cmd.Stdout, s.cmd.Stderr = &said, &said
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(readyFor); ; time.Sleep(20 * time.Millisecond) {
		_, err := s.client.ListBuckets(context.Background())
		if err == nil {
			return
		}
		if time.Now().After(until) {
			s.Kill()
			t.Fatalf("versitygw doesn't answer: %v\n%s", err, said.String())
		}
	}
}

func (s *Server) in(name string) string { return filepath.Join(s.dir, name) }

// Kill ends the server at once, if it runs.
func (s *Server) Kill() {
	if s.cmd.Process != nil {
		_ = s.cmd.Process.Kill() // it may have ended
		_ = s.cmd.Wait()
	}
}

// Bucket makes a bucket; lock is whether its objects can be kept from being removed.
func (s *Server) Bucket(t testing.TB, name string, lock bool) {
	t.Helper()
	if err := s.client.MakeBucket(context.Background(), name, minio.MakeBucketOptions{Region: "us-east-1", ObjectLocking: lock}); err != nil {
		t.Fatalf("make bucket %s: %v", name, err)
	}
}

// Put puts an object into a bucket.
func (s *Server) Put(t testing.TB, bucket, key string, content []byte) {
	t.Helper()
	_, err := s.client.Client.PutObject(context.Background(), bucket, key, strings.NewReader(string(content)), int64(len(content)), minio.PutObjectOptions{})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// Content returns what an object has. The error is fs.ErrNotExist if there is none.
func (s *Server) Content(bucket, key string) ([]byte, error) {
	o, _, _, err := s.client.GetObject(context.Background(), bucket, key, minio.GetObjectOptions{})
	if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(o)
	return b, errors.Join(err, o.Close())
}

// Remove removes an object.
func (s *Server) Remove(t testing.TB, bucket, key string) {
	t.Helper()
	if err := s.client.RemoveObject(context.Background(), bucket, key, minio.RemoveObjectOptions{}); err != nil {
		t.Fatalf("remove %s: %v", key, err)
	}
}

// Stat returns what the server says of an object.
func (s *Server) Stat(t testing.TB, bucket, key string) minio.ObjectInfo {
	t.Helper()
	info, err := s.client.StatObject(context.Background(), bucket, key, minio.StatObjectOptions{})
	if err != nil {
		t.Fatalf("stat %s: %v", key, err)
	}
	return info
}

// ETag returns the tag of an object as the server writes it.
func (s *Server) ETag(t testing.TB, bucket, key string) string {
	t.Helper()
	return `"` + s.Stat(t, bucket, key).ETag + `"`
}

// Objects returns the keys in a bucket.
func (s *Server) Objects(t testing.TB, bucket string) []string {
	t.Helper()
	var keys []string
	for o := range s.client.Client.ListObjects(context.Background(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		keys = append(keys, o.Key)
	}
	slices.Sort(keys)
	return keys
}

// Uploads returns the keys of the bucket's unfinished uploads.
func (s *Server) Uploads(t testing.TB, bucket string) []string {
	t.Helper()
	r, err := s.client.ListMultipartUploads(context.Background(), bucket, "", "", "", "", 1000)
	if err != nil {
		t.Fatalf("list uploads: %v", err)
	}
	var keys []string
	for _, u := range r.Uploads {
		keys = append(keys, u.Key)
	}
	return keys
}

// User adds a user of the server who may do in a bucket what actions say, such as
// s3:PutObject, and nothing else. The user's secret is its name and "-secret".
func (s *Server) User(t testing.TB, name, bucket string, actions ...string) {
	t.Helper()
	out, err := exec.CommandContext(context.Background(), program(t), "admin", "--access", Access, "--secret", Secret, "--endpoint-url", s.Endpoint,
		"create-user", "--access", name, "--secret", name+"-secret", "--role", "user").CombinedOutput()
	if err != nil {
		t.Fatalf("create-user: %v\n%s", err, out)
	}
	policy := fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":[%q]},"Action":["%s"],"Resource":["arn:aws:s3:::%s/*"]}]}`,
		name, strings.Join(actions, `","`), bucket)
	if err := s.client.SetBucketPolicy(context.Background(), bucket, policy); err != nil {
		t.Fatalf("set the policy of %s: %v", bucket, err)
	}
}

// Credentials has the test's process use the credentials of the server's owner, and the
// server.
func (s *Server) Credentials(t *testing.T) {
	t.Helper()
	Environment(t, s.Endpoint, Access, Secret)
}

// Environment has the test's process use a server with credentials, and no others that
// this host may have.
func Environment(t *testing.T, endpoint, access, secret string) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_S3": endpoint, "AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret,
		"AWS_ENDPOINT_URL": "", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"CREDENTIALS_DIRECTORY": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "",
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(t.TempDir(), "none"), "AWS_CONFIG_FILE": filepath.Join(t.TempDir(), "none"),
	} {
		t.Setenv(name, value)
	}
}
