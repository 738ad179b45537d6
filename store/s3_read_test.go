package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"snap/internal/s3server"
	"snap/store"
	"snap/store/storetest"
)

func TestS3Archive(t *testing.T) {
	s := s3server.Start(t)
	s.Credentials(t)
	n, bucket := 0, ""
	storetest.TestArchive(t, storetest.Shelf{
		New: func(t *testing.T) store.Archive {
			n++
			bucket = fmt.Sprintf("archive-%d", n)
			s.Bucket(t, bucket, false)
			s.Put(t, bucket, "beside.dmp", []byte("not behind the prefix"))
			a, err := store.OpenArchive(t.Context(), "s3://"+bucket+"/dumps/of", store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			return a
		},
		Put: func(t *testing.T, name string, content []byte) { s.Put(t, bucket, "dumps/of/"+name, content) },
	})
}

// TestS3ArchivePages: a listing of more than a page is whole, and takes a request for each
// page.
func TestS3ArchivePages(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "many", false)
	const n = 2500
	for i := range n {
		s.Put(t, "many", fmt.Sprintf("dumps/%05d.dmp.json", i), []byte("{}"))
	}
	proxy := s.Proxy(t)
	s3server.Environment(t, proxy.Endpoint, s3server.Access, s3server.Secret)
	a, err := store.OpenArchive(t.Context(), "s3://many/dumps/", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	err = a.List(t.Context(), func(e store.Entry) error {
		if want := fmt.Sprintf("%05d.dmp.json", found); e.Name != want {
			t.Fatalf("object %d is %q; want %q", found, e.Name, want)
		}
		found++
		return nil
	})
	if err != nil || found != n {
		t.Errorf("List = %v with %d objects; want %d", err, found, n)
	}
	if got := proxy.Requests(); got > 3 {
		t.Errorf("List of %d objects took %d requests; want one for each 1000", n, got)
	}
}

// readable is an object of bytes that differ, behind a proxy.
func readable(t *testing.T, s *s3server.Server, size int) (*s3server.Proxy, []byte) {
	t.Helper()
	content := make([]byte, size)
	random := rand.NewChaCha8([32]byte{})
	if _, err := random.Read(content); err != nil {
		t.Fatal(err)
	}
	s.Put(t, "dumps", "a.dmp", content)
	proxy := s.Proxy(t)
	s3server.Environment(t, proxy.Endpoint, s3server.Access, s3server.Secret)
	return proxy, content
}

// isRead reports whether a request reads an object.
func isRead(r *http.Request) bool { return r.Method == http.MethodGet && r.Header.Get("Range") != "" }

// TestS3Read: an object is read at any offset, by many at a time, with few requests.
func TestS3Read(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	const size = 11<<20 + 5
	proxy, want := readable(t, s, size)
	r, err := store.OpenObject(t.Context(), "s3://dumps/a.dmp", store.Options{})
	if err != nil {
		t.Fatalf("OpenObject failed: %v", err)
	}
	defer r.Close()
	if r.Size() != size {
		t.Fatalf("Size = %d; want %d", r.Size(), size)
	}
	var readers sync.WaitGroup
	for i := range 8 {
		readers.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for range 200 {
				off := random.IntN(size)
				got := make([]byte, min(random.IntN(3<<20), size-off))
				if n, err := r.ReadAt(got, int64(off)); n != len(got) || err != nil || !bytes.Equal(got, want[off:off+n]) {
					t.Errorf("ReadAt of %d bytes at %d = %d, %v, or other bytes", len(got), off, n, err)
				}
			}
		})
	}
	readers.Wait()
	if got := proxy.Requests(); got > 6 {
		t.Errorf("%d bytes took %d requests; want one for each 2 MiB", size, got)
	}
	all, err := io.ReadAll(io.NewSectionReader(r, 0, size))
	if err != nil || !bytes.Equal(all, want) {
		t.Errorf("reading all of it gives %d bytes, %v; want %d", len(all), err, size)
	}
	if n, err := r.ReadAt(make([]byte, 1), -1); n != 0 || err == nil {
		t.Errorf("ReadAt of -1 = %d, %v; want an error", n, err)
	}
}

// TestS3ReadFaults: an answer that breaks off is asked for again, an object that becomes
// another one gives no byte of it, and a reader goes on when the server is back.
func TestS3ReadFaults(t *testing.T) {
	s := s3server.Start(t)
	s.Bucket(t, "dumps", false)
	const size = 9 << 20
	proxy, want := readable(t, s, size)
	open := func() store.Reader {
		r, err := store.OpenObject(t.Context(), "s3://dumps/a.dmp", store.Options{})
		if err != nil {
			t.Fatalf("OpenObject failed: %v", err)
		}
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	at := func(r store.Reader, off int64) error {
		got := make([]byte, 100)
		n, err := r.ReadAt(got, off)
		if err == nil && !bytes.Equal(got, want[off:off+100]) {
			t.Errorf("ReadAt at %d gives other bytes", off)
		}
		if err != nil && n > 0 {
			t.Errorf("ReadAt at %d = %d, %v", off, n, err)
		}
		return err
	}

	r := open()
	var reads atomic.Int64
	proxy.Fail(func(w http.ResponseWriter, req *http.Request) bool {
		if !isRead(req) || reads.Add(1) > 2 {
			return false
		}
		w.Header().Set("ETag", s.ETag(t, "dumps", "a.dmp"))
		w.Header().Set("Content-Range", "bytes 4194304-6291455/9437184")
		w.Header().Set("Content-Length", "2097152")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(want[4<<20 : 4<<20+1000])
		panic(http.ErrAbortHandler)
	})
	if err := at(r, 4<<20); err != nil {
		t.Errorf("ReadAt of an answer that breaks off twice: %v", err)
	}
	if reads.Load() < 3 {
		t.Errorf("there were %d requests; want one more than broke off", reads.Load())
	}

	r = open()
	proxy.Fail(func(w http.ResponseWriter, req *http.Request) bool {
		return isRead(req) && s3server.Answer(w, req, http.StatusForbidden, "AccessDenied")
	})
	if err := at(r, 6<<20); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("ReadAt where it isn't allowed any more = %v; want %v", err, fs.ErrPermission)
	}
	proxy.Fail(nil)
	if err := at(r, 6<<20); err != nil {
		t.Errorf("ReadAt when the server is back: %v", err)
	}

	r = open()
	s.Put(t, "dumps", "a.dmp", append([]byte("another"), want...))
	if err := at(r, 6<<20); !errors.Is(err, store.ErrReplaced) {
		t.Errorf("ReadAt of an object that was replaced = %v; want %v", err, store.ErrReplaced)
	}

	ctx, cancel := context.WithCancel(t.Context())
	r, err := store.OpenObject(ctx, "s3://dumps/a.dmp", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	block := make(chan struct{})
	defer close(block)
	proxy.Fail(func(_ http.ResponseWriter, req *http.Request) bool {
		if isRead(req) {
			select {
			case <-block:
			case <-req.Context().Done():
			}
		}
		return false
	})
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := r.ReadAt(make([]byte, 1), 6<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadAt whose context ends = %v; want %v", err, context.Canceled)
	}
}

// TestOpenObjectRefuses: what isn't there, and what is no object, can't be opened.
func TestOpenObjectRefuses(t *testing.T) {
	s := s3server.Start(t)
	s.Credentials(t)
	s.Bucket(t, "dumps", false)
	for url, want := range map[string]error{
		"s3://dumps/missing": fs.ErrNotExist,
		"s3://missing/a.dmp": store.ErrNoBucket,
		"s3://dumps":         store.ErrName,
		"s3://dumps/../a":    store.ErrName,
	} {
		if r, err := store.OpenObject(t.Context(), url, store.Options{}); !errors.Is(err, want) {
			t.Errorf("OpenObject(%s) = %v, %v; want %v", url, r, err, want)
		}
	}
	s.Put(t, "dumps", "empty", nil)
	r, err := store.OpenObject(t.Context(), "s3://dumps/empty", store.Options{})
	if err != nil || r.Size() != 0 {
		t.Fatalf("OpenObject of nothing = %v, %v; want 0 bytes", r, err)
	}
	if n, err := r.ReadAt(make([]byte, 1), 0); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt of nothing = %d, %v; want %v", n, err, io.EOF)
	}
}
