package store

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSpaceIn(t *testing.T) {
	const none = math.MaxUint64
	for _, tt := range []struct {
		name  string
		st    unix.Statfs_t
		limit uint64
		root  bool
		want  Space
	}{
		{"user", unix.Statfs_t{Blocks: 100, Bfree: 50, Bavail: 45, Frsize: 4096, Bsize: 1 << 20}, none, false, Space{true, 45 << 12, 45 << 12}},
		{"root has the reserve too", unix.Statfs_t{Blocks: 100, Bfree: 50, Bavail: 45, Frsize: 4096}, none, true, Space{true, 45 << 12, 50 << 12}},
		{"full", unix.Statfs_t{Blocks: 100, Frsize: 4096}, none, true, Space{Known: true}},
		{"no fragments", unix.Statfs_t{Blocks: 100, Bfree: 9, Bavail: 9, Bsize: 512}, none, false, Space{true, 9 * 512, 9 * 512}},
		{"says nothing", unix.Statfs_t{Bsize: 4096}, none, true, Space{}},
		{"no units", unix.Statfs_t{Blocks: 1}, none, true, Space{}},
		{"compresses", unix.Statfs_t{Type: unix.BTRFS_SUPER_MAGIC, Blocks: 9, Bfree: 2, Bavail: 1, Frsize: 4096}, none, false, Space{true, 1 << 12, none}},
		{"overflow", unix.Statfs_t{Blocks: none, Bfree: none, Bavail: none, Frsize: 4096}, none, true, Space{true, none, none}},
		{"ulimit -f", unix.Statfs_t{Blocks: 100, Bfree: 50, Bavail: 45, Frsize: 4096}, 5000, true, Space{true, 5000, 5000}},
		{"ulimit -f that compresses", unix.Statfs_t{Type: magicZFS, Blocks: 9, Bfree: 1, Bavail: 1, Frsize: 4096}, 5000, false, Space{true, 4096, 5000}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := spaceIn(&tt.st, tt.limit, tt.root); got != tt.want {
				t.Errorf("spaceIn() = %+v; want %+v", got, tt.want)
			}
		})
	}
}

// TestSpaceIsWhatDfSays holds a folder's space against coreutils.
func TestSpaceIsWhatDfSays(t *testing.T) {
	dir := t.TempDir()
	out, err := exec.Command("stat", "-f", "-c", "%f %a %S", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(out))
	var free, avail, unit uint64
	for i, p := range []*uint64{&free, &avail, &unit} {
		if *p, err = strconv.ParseUint(f[i], 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Folder(dir, Options{}).Space(t.Context())
	// Others write meanwhile.
	const slack = 1 << 30
	if err != nil || !s.Known || s.Sure+slack < avail*unit || s.Sure > avail*unit+slack || s.Most < s.Sure {
		t.Errorf("Space() = %+v, %v; want %d of %d bytes", s, err, avail*unit, free*unit)
	}
}

// TestSpaceOfRedirected: standard output that is a file has the space of its file
// system, a pipe's isn't known.
func TestSpaceOfRedirected(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for out, want := range map[*os.File]bool{f: true, w: false} {
		p, _, err := Open("-", Options{Stdout: out})
		if err != nil {
			t.Fatal(err)
		}
		if s, err := p.Space(t.Context()); err != nil || s.Known != want {
			t.Errorf("Space() of %s = %+v, %v; want it known: %v", out.Name(), s, err, want)
		}
	}
}

// roomy is a shelf of a certain space.
type roomy struct {
	shelf
	space Space
}

func (r roomy) Space(context.Context) (Space, error) { return r.space, nil }

func TestFit(t *testing.T) {
	size := Size{Least: 10 << 20, Likely: 15 << 20, Most: 30 << 20}
	for _, tt := range []struct {
		name  string
		space Space
		warns string
		fails string
	}{
		{"plenty", Space{true, 30 << 20, 30 << 20}, "", ""},
		{"not known", Space{}, "", ""},
		{"may not", Space{true, 30<<20 - 1, 30 << 20}, "shelf:x may not fit: it takes about 15 MiB, up to 30 MiB, and there are 30 MiB left", ""},
		{"hardly", Space{true, 10 << 20, 10 << 20}, "shelf:x may not fit: it takes about 15 MiB, up to 30 MiB, and there are 10 MiB left", ""},
		{"by the reserve", Space{true, 0, 10 << 20}, "shelf:x may not fit: it takes about 15 MiB, up to 30 MiB, and there are 0 bytes left", ""},
		{"never", Space{true, 5 << 20, 10<<20 - 1}, "", "shelf:x won't fit: it takes about 15 MiB, and there are 10 MiB left"},
		{"full", Space{Known: true}, "", "shelf:x won't fit: it takes about 15 MiB, and there are 0 bytes left"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			warning, err := Fit(t.Context(), roomy{shelf{}, tt.space}, "x", size)
			if warning != tt.warns {
				t.Errorf("Fit() warns of %q; want %q", warning, tt.warns)
			}
			if tt.fails == "" {
				if err != nil {
					t.Errorf("Fit() = %v; want nil", err)
				}
				return
			}
			if err == nil || err.Error() != tt.fails || !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("Fit() = %v; want %s, which is ENOSPC", err, tt.fails)
			}
		})
	}
}

func TestBytesOf(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 bytes", 1023: "1023 bytes", 1024: "1.0 KiB", 10<<20 - 1: "10 MiB", 3 << 29: "1.5 GiB", 1<<30 - 1: "1.0 GiB",
		1023 << 20: "1023 MiB", math.MaxUint64: "16 EiB",
	} {
		if got := bytesOf(n); got != want {
			t.Errorf("bytesOf(%d) = %q; want %q", n, got, want)
		}
	}
}
