package mount

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/internal/lab/labtest"
)

var written = time.Date(2026, 11, 22, 1, 0, 0, 123456789, time.UTC)

// shown mounts content in a new folder, of which nothing is left after the test.
func shown(t *testing.T, f File, o Options) (*Mount, string) {
	t.Helper()
	labtest.NeedsDaemons(t)
	dir := t.TempDir()
	o.Log = log.New(io.Discard, "", 0)
	m, err := New(dir, f, o)
	if err != nil {
		t.Fatalf("New failed: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil && !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
	})
	return m, filepath.Join(dir, f.Name)
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b) // never fails
	return b
}

func TestMount(t *testing.T) {
	want := noise(5<<20 + 77)
	m, path := shown(t, File{Name: "web01.dmp", Size: int64(len(want)), Modified: written, Content: bytes.NewReader(want)}, Options{})
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != int64(len(want)) || info.Mode() != 0o400 || !info.ModTime().Equal(written) {
		t.Errorf("the file has %d bytes, mode %v, of %v; want %d, -r--------, %v", info.Size(), info.Mode(), info.ModTime(), len(want), written)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("reading the file gives %d bytes, %v, or other ones; want %d", len(got), err, len(want))
	}
	names, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(names) != 1 || names[0].Name() != "web01.dmp" {
		t.Errorf("in the folder are %v, %v; want web01.dmp", names, err)
	}
	if _, err := os.OpenFile(path, os.O_WRONLY, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("opening it to write = %v; want %v", err, unix.EROFS)
	}
	if err := os.WriteFile(path+"2", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing another file = %v; want %v", err, unix.EROFS)
	}
	if err := os.Remove(path); !errors.Is(err, unix.EROFS) {
		t.Errorf("removing it = %v; want %v", err, unix.EROFS)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close the file is there: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Errorf("Close again = %v", err)
	}
}

// TestReadsAtOnce: many read at many places at a time, past the kernel's cache.
func TestReadsAtOnce(t *testing.T) {
	want := noise(8 << 20)
	_, path := shown(t, File{Name: "a.dmp", Size: int64(len(want)), Content: bytes.NewReader(want)}, Options{AllowOther: true})
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o444 {
		t.Errorf("the file's mode is %v, %v; want -r--r--r--", info.Mode(), err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			f, err := os.Open(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			r := rand.New(rand.NewPCG(uint64(i), 0))
			for range 100 {
				off, got := r.IntN(len(want)-4096), make([]byte, 1+r.IntN(4096))
				if _, err := f.ReadAt(got, int64(off)); err != nil || !bytes.Equal(got, want[off:off+len(got)]) {
					t.Errorf("reading %d bytes at %d = %v, or other bytes", len(got), off, err)
					return
				}
			}
		})
	}
	all.Wait()
}

// broken is content that can be read only while it is there.
type broken struct {
	io.ReaderAt
	gone atomic.Bool
}

var errGone = errors.New("the server is gone")

func (b *broken) ReadAt(p []byte, off int64) (int, error) {
	if b.gone.Load() {
		return 0, errGone
	}
	return b.ReaderAt.ReadAt(p, off)
}

// TestComesBack: what can't be read is an error of that read alone.
func TestComesBack(t *testing.T) {
	want := noise(1 << 20)
	b := &broken{ReaderAt: bytes.NewReader(want)}
	var failed atomic.Int64
	_, path := shown(t, File{Name: "a.dmp", Size: int64(len(want)), Content: b, Read: func(_ int64, err error) {
		if errors.Is(err, errGone) {
			failed.Add(1)
		} else if err != nil {
			t.Errorf("Read is told of %v", err)
		}
	}}, Options{})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 4096)
	for range 2 {
		b.gone.Store(true)
		if _, err := f.ReadAt(got, 512<<10); !errors.Is(err, unix.EIO) {
			t.Errorf("reading what is gone = %v; want %v", err, unix.EIO)
		}
	}
	if failed.Load() == 0 {
		t.Error("nobody is told of reads that failed")
	}
	b.gone.Store(false)
	if _, err := f.ReadAt(got, 512<<10); err != nil || !bytes.Equal(got, want[512<<10:512<<10+4096]) {
		t.Errorf("reading what is back = %v, or other bytes", err)
	}
}

// TestShort: content that ends before it should is an error, and no zeros.
func TestShort(t *testing.T) {
	_, path := shown(t, File{Name: "a.dmp", Size: 8192, Content: bytes.NewReader(noise(4096))}, Options{})
	if got, err := os.ReadFile(path); !errors.Is(err, unix.EIO) {
		t.Errorf("reading gives %d bytes, %v; want %v", len(got), err, unix.EIO)
	}
}

// TestUnmountedByOthers ends the mount.
func TestUnmountedByOthers(t *testing.T) {
	m, path := shown(t, File{Name: "a.dmp", Size: 1, Content: bytes.NewReader([]byte{1})}, Options{})
	select {
	case <-m.Ended():
		t.Fatal("it has ended before")
	default:
	}
	if err := unix.Unmount(filepath.Dir(path), 0); err != nil {
		t.Fatal(err)
	}
	<-m.Ended()
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// TestBusy: who has the file open doesn't keep it in the folder.
func TestBusy(t *testing.T) {
	m, path := shown(t, File{Name: "a.dmp", Size: 1, Content: bytes.NewReader([]byte{1})}, Options{})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); !errors.Is(err, ErrBusy) {
		t.Errorf("Close = %v; want %v", err, ErrBusy)
	}
	if names, err := os.ReadDir(filepath.Dir(path)); err != nil || len(names) > 0 {
		t.Errorf("in the folder are %v, %v; want nothing", names, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	<-m.Ended()
}

func TestRefused(t *testing.T) {
	_, path := shown(t, File{Name: "a.dmp", Size: 1, Content: bytes.NewReader([]byte{1})}, Options{})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]error{
		filepath.Dir(path): ErrNotEmpty, filepath.Dir(file): ErrNotEmpty, file: ErrNotFolder, filepath.Join(file, "below"): ErrNotFolder,
		filepath.Join(t.TempDir(), "missing"): ErrNoFolder,
	} {
		m, err := New(dir, File{Name: "b.dmp", Content: bytes.NewReader(nil)}, Options{})
		if !errors.Is(err, want) {
			t.Errorf("New at %s = %v; want %v", dir, err, want)
		}
		if m != nil {
			_ = m.Close()
		}
	}
}
