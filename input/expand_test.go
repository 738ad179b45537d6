package input

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// memoryImage is 3 MiB with content at both ends and zeros in between.
func memoryImage() []byte {
	b := make([]byte, 3<<20+123)
	rnd := rand.NewChaCha8([32]byte{3})
	_, _ = rnd.Read(b[:1<<18+10])
	_, _ = rnd.Read(b[5<<19:])
	return b
}

// compress has a tool compress content, and returns the file.
func compress(t *testing.T, content []byte, tool string, args ...string) string {
	t.Helper()
	cmd := exec.Command(tool, append(args, "-c")...)
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v", tool, args, err)
	}
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openFile(t *testing.T, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// TestExpand: what the tools themselves compressed comes out as it was, with holes
// where it is zero, and leaves nothing behind that has a name.
func TestExpand(t *testing.T) {
	want := memoryImage()
	for _, tool := range [][]string{
		{"gzip"}, {"gzip", "-9"}, {"zstd", "-q"}, {"zstd", "-q", "-19", "--long=27"}, {"xz", "-1"}, {"xz", "-1", "-T2", "--block-size=1MiB"},
	} {
		path := compress(t, want, tool[0], tool[1:]...)
		for _, s := range []Scratch{{Dir: t.TempDir()}, {Memory: 64 << 20}} {
			f, err := Expand(t.Context(), openFile(t, path), s)
			if err != nil {
				t.Errorf("Expand of %v failed: %v", tool, err)
				continue
			}
			got := make([]byte, len(want))
			if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) || f.Size() != int64(len(want)) {
				t.Errorf("%v: %d bytes, %v; want the %d that were compressed", tool, f.Size(), err, len(want))
			}
			name, ok := f.Expanded()
			if !ok || name != tool[0] || f.Name() != path {
				t.Errorf("%v: Expanded, Name = %q, %q; want %s of %s", tool, name, f.Name(), tool[0], path)
			}
			if hole, _, err := f.NextData(1<<20, f.Size()); s.Dir != "" && (err != nil || hole < 2<<20) {
				t.Errorf("%v: data follows at %#x, %v; want a hole", tool, hole, err)
			}
			if s.Dir != "" {
				if left, err := os.ReadDir(s.Dir); err != nil || len(left) > 0 {
					t.Errorf("%v: %v is left in the folder (%v)", tool, left, err)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestExpandMany: members, frames and streams that follow each other are one file.
func TestExpandMany(t *testing.T) {
	for _, tool := range [][]string{{"gzip"}, {"zstd", "-q"}, {"xz"}} {
		var all []byte
		for _, part := range []string{"first ", "second"} {
			b, err := os.ReadFile(compress(t, []byte(part), tool[0], tool[1:]...))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, b...)
		}
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, all, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Expand(t.Context(), openFile(t, path), Scratch{Memory: 1 << 20})
		if err != nil {
			t.Errorf("%v: %v", tool, err)
			continue
		}
		if b, err := io.ReadAll(io.NewSectionReader(f, 0, f.Size())); string(b) != "first second" || err != nil {
			t.Errorf("%v: %q, %v; want both parts", tool, b, err)
		}
		_ = f.Close()
	}
}

func TestExpandNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("not compressed"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := openFile(t, path)
	if x, err := Expand(t.Context(), f, Scratch{}); x != f || err != nil {
		t.Errorf("Expand of what isn't compressed = %p, %v; want the file itself", x, err)
	}
}

func TestExpandRefuses(t *testing.T) {
	image := memoryImage()
	damage := func(path string, change func([]byte) []byte) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, change(b), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cut := func(b []byte) []byte { return b[:len(b)/2] }
	flip := func(b []byte) []byte { b[len(b)/2] ^= 0x55; return b }
	for _, tool := range []string{"gzip", "zstd", "xz"} {
		for name, path := range map[string]string{
			"cut":     damage(compress(t, image, tool), cut),
			"flipped": damage(compress(t, image, tool), flip),
			"headed":  damage(compress(t, image, tool), func(b []byte) []byte { return b[:9] }),
		} {
			if _, err := Expand(t.Context(), openFile(t, path), Scratch{Memory: 64 << 20}); !errors.Is(err, ErrCompression) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s %s: Expand = %v; want %v of %s", tool, name, err, ErrCompression, path)
			}
		}
		inner, err := os.ReadFile(compress(t, image, tool))
		if err != nil {
			t.Fatal(err)
		}
		_, err = Expand(t.Context(), openFile(t, compress(t, inner, "gzip")), Scratch{Memory: 64 << 20})
		if r, ok := errors.AsType[*Refusal](err); !ok || !strings.Contains(r.What, tool+" inside") {
			t.Errorf("%s inside of gzip: Expand = %v; want a refusal", tool, err)
		}
		if _, err := Expand(t.Context(), openFile(t, compress(t, nil, tool)), Scratch{Memory: 64 << 20}); err == nil || !strings.Contains(err.Error(), "empty inside") {
			t.Errorf("%s of nothing: Expand = %v; want a refusal", tool, err)
		}
	}
}

// TestExpandRoom: what doesn't fit the memory that it may take is given up before it
// has taken more, and zeros take none.
func TestExpandRoom(t *testing.T) {
	path := compress(t, memoryImage(), "gzip")
	_, err := Expand(t.Context(), openFile(t, path), Scratch{Memory: 1 << 18})
	if e, ok := errors.AsType[*NoRoomError](err); !ok || !errors.Is(err, unix.ENOSPC) || e.Command == "" {
		t.Errorf("Expand into too little memory = %v; want %v", err, unix.ENOSPC)
	}
	path = compress(t, make([]byte, 64<<20), "gzip")
	f, err := Expand(t.Context(), openFile(t, path), Scratch{Memory: 1 << 20})
	if err != nil {
		t.Fatalf("Expand of zeros failed: %v", err)
	}
	if f.Size() != 64<<20 {
		t.Errorf("Size() = %d; want %d", f.Size(), 64<<20)
	}
	_ = f.Close()
}

// TestXzDictionary: an xz file that demands more memory than xz -9 ever does is
// refused by any of its blocks, whose words the library would take.
func TestXzDictionary(t *testing.T) {
	image := memoryImage()
	good, err := os.ReadFile(compress(t, image, "xz", "--block-size=1MiB", "--check=none"))
	if err != nil {
		t.Fatal(err)
	}
	if err := checkXz(bytes.NewReader(good), int64(len(good))); err != nil {
		t.Fatalf("checkXz of what xz wrote = %v", err)
	}
	// The blocks' headers have LZMA2, one byte of properties, and the size of a
	// dictionary, 8 MiB by default.
	mark := []byte{0x21, 1, 0x16}
	n := bytes.Count(good, mark)
	if n < 3 {
		t.Fatalf("%d headers of blocks found; want 3", n)
	}
	at := bytes.LastIndex(good, mark)
	bad := bytes.Clone(good)
	bad[at+2] = 40 // 4 GiB - 1
	if err := checkXz(bytes.NewReader(bad), int64(len(bad))); err == nil || !strings.Contains(err.Error(), "dictionary") {
		t.Errorf("checkXz of a dictionary of 4 GiB in the last block = %v", err)
	}
}

// FuzzExpand: no bytes make it panic, expand without bound, or fail without a class.
func FuzzExpand(f *testing.F) {
	for _, s := range []string{
		"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\xcf\x07\x00\x47\xdd\xdc\x79\x02\x00\x00\x00",
		"\x28\xb5\x2f\xfd\x04\x58\x11\x00\x00\x6f\x6f\x33\x23\x58\xff",
		"\xfd7zXZ\x00\x00\x04\xe6\xd6\xb4\x46\x00\x00\x00\x00\x1c\xdf\x44\x21\x1f\xb6\xf3\x7d\x01\x00\x00\x00\x00\x04YZ",
		"plain",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := Open(path)
		if err != nil {
			return
		}
		out, err := Expand(t.Context(), in, Scratch{Memory: 1 << 20})
		_, refused := errors.AsType[*Refusal](err)
		if err != nil {
			if !refused && !errors.Is(err, ErrCompression) && !errors.Is(err, unix.ENOSPC) {
				t.Errorf("Expand = %v; want a classed error", err)
			}
			_ = in.Close()
			return
		}
		_ = out.Close()
	})
}
