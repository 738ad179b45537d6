package store

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cached returns how many bytes of the file at path are in the host's page cache, and
// 0 of a file without any.
func cached(t testing.TB, path string) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() == 0 {
		return 0
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }() // nothing was written to it
	page := os.Getpagesize()
	in := make([]byte, (len(b)+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		t.Fatalf("mincore(%s): %v", path, errno)
	}
	var n int64
	for _, p := range in {
		n += int64(p & 1) // the lowest bit (mincore(2))
	}
	return n * int64(page)
}

// onDisk returns a folder that isn't in the host's memory.
func onDisk(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		if testing.Short() {
			t.Skipf("%s is in memory, or nobody knows where", dir)
		}
		t.Fatalf("%s is in memory, or nobody knows where; set TMPDIR to a folder on a disk", dir)
	}
	return dir
}

// TestPageCache: what is written, and read back, leaves the host's cache; while
// somebody is held still, that takes all.
func TestPageCache(t *testing.T) {
	const size = (behindPieces + 4) * behindPiece
	part := make([]byte, 1<<20)
	if _, err := rand.Read(part); err != nil {
		t.Fatal(err)
	}
	for _, held := range []bool{true, false} {
		path := filepath.Join(onDisk(t), "a.dmp")
		p, err := begin(t, path, false)
		if err != nil {
			t.Fatal(err)
		}
		p.Held(held)
		for range size / len(part) {
			if _, err := p.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		temp := p.f.Name()
		switch n := cached(t, temp); {
		case held && n < size:
			t.Errorf("while somebody is held, %d of %d bytes are in the cache; want all", n, size)
		case !held && n > (behindPieces+2)*behindPiece:
			t.Errorf("%d of %d bytes are in the cache after they were written; want %d at most", n, size, (behindPieces+2)*behindPiece)
		}
		r, n, err := p.Reopen(t.Context())
		if err != nil || n != size {
			t.Fatalf("Reopen() = %d, %v; want %d bytes", n, err, size)
		}
		if n := cached(t, temp); n != 0 {
			t.Errorf("held %v: %d bytes are in the cache before they are read back; want none", held, n)
		}
		if _, err := io.Copy(io.Discard, io.NewSectionReader(r, 0, n)); err != nil {
			t.Fatal(err)
		}
		if n := cached(t, temp); n == 0 || n > keptRead*3/2+1<<20 {
			t.Errorf("held %v: %d bytes are in the cache after they were read back; want %d at most", held, n, keptRead*3/2+1<<20)
		}
		if err := p.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := cached(t, path); n != 0 {
			t.Errorf("held %v: %d bytes of the file are in the cache; want none", held, n)
		}
	}
}

// TestWriteBehindFails: an error of the disk's is one of the write, and a file that
// has no disk is left alone.
func TestWriteBehindFails(t *testing.T) {
	f, err := os.OpenFile("/dev/null", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b writeBehind
	if err := b.wrote(f, behindPiece, behindPiece); err != nil || !b.off {
		t.Errorf("wrote() of a device = %v, off %v; want it to be left alone", err, b.off)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b = writeBehind{}
	if err := b.wrote(f, behindPiece, behindPiece); !errors.Is(err, unix.EBADF) {
		t.Errorf("wrote() of a file that can't be written = %v; want %v", err, unix.EBADF)
	}
}

// BenchmarkWrite writes a file and reads it back before it gets its name, as of old,
// by the host's cache, and past it.
func BenchmarkWrite(b *testing.B) {
	const size = 256 << 20
	part := make([]byte, 4<<20)
	if _, err := rand.Read(part); err != nil {
		b.Fatal(err)
	}
	for _, held := range []bool{true, false} {
		name := map[bool]string{true: "held", false: "paced"}[held]
		b.Run(name, func(b *testing.B) {
			path := filepath.Join(onDisk(b), "a.dmp")
			b.SetBytes(size)
			var most int64
			var began unix.Rusage
			if err := unix.Getrusage(unix.RUSAGE_SELF, &began); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				f, err := newFolder(filepath.Dir(path), Options{Force: true, NoSum: true, Guardian: someGuardian{}}).Create(b.Context(), "a.dmp")
				if err != nil {
					b.Fatal(err)
				}
				p := f.(*pending)
				p.Held(held)
				for range size / len(part) {
					if _, err := p.Write(part); err != nil {
						b.Fatal(err)
					}
				}
				most = max(most, cached(b, p.f.Name()))
				r, n, err := p.Reopen(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, io.NewSectionReader(r, 0, n)); err != nil {
					b.Fatal(err)
				}
				if err := p.Commit(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			var ended unix.Rusage
			if err := unix.Getrusage(unix.RUSAGE_SELF, &ended); err != nil {
				b.Fatal(err)
			}
			cpu := ended.Utime.Nano() + ended.Stime.Nano() - began.Utime.Nano() - began.Stime.Nano()
			b.ReportMetric(float64(cpu)/1e6/float64(b.N), "cpu-ms/op")
			b.ReportMetric(float64(most>>20), "cached-MiB")
		})
	}
}
