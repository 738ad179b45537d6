package dump

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"snap/phys"
)

// unpackers expand an archive into a folder.
var unpackers = []struct {
	name string
	args []string
}{
	{"unzip", []string{"-q", "ARCHIVE", "-d", "FOLDER"}},
	{"python3", []string{"-c", "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extractall(sys.argv[2])", "ARCHIVE", "FOLDER"}},
	{"7z", []string{"x", "-bd", "-y", "ARCHIVE", "-oFOLDER"}},
}

// unpacked is the only file that a tool finds in an archive.
func unpacked(t *testing.T, stored []byte, name string, args []string) (string, []byte) {
	t.Helper()
	dir := t.TempDir()
	archive, out := filepath.Join(dir, "a.zip"), filepath.Join(dir, "out")
	if err := os.WriteFile(archive, stored, 0o600); err != nil {
		t.Fatal(err)
	}
	r := strings.NewReplacer("ARCHIVE", archive, "FOLDER", out)
	own := make([]string, len(args))
	for i, a := range args {
		own[i] = r.Replace(a)
	}
	if said, err := exec.Command(name, own...).CombinedOutput(); err != nil || bytes.Contains(bytes.ToLower(said), []byte("warning")) {
		t.Fatalf("%s of %d bytes: %v\n%s", name, len(stored), err, said)
	}
	files, err := os.ReadDir(out)
	if err != nil || len(files) != 1 {
		t.Fatalf("%s makes %v, %v; want one file", name, files, err)
	}
	b, err := os.ReadFile(filepath.Join(out, files[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	return files[0].Name(), b
}

// TestOthersUnzip: unzip, Python and 7-Zip take the archive without a word against it,
// and find the dump in it.
func TestOthersUnzip(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		options    Options
	}{
		{"", "memory.dmp", Options{}},
		{"web01-20261122T010000Z.dmp.zip", "web01-20261122T010000Z.dmp", Options{FrameSize: phys.PageSize}},
		{"Büro.zip", "Büro.dmp", Options{FrameSize: 3 * phys.PageSize, Level: LevelBest}},
		{"a/b.dmp", "a_b.dmp", Options{FrameSize: 1 << 16, Level: LevelDefault}},
	} {
		p, m := sparsePlan(t)
		want := expected(p, m)
		tt.options.Compression, tt.options.Name = CompressionZip, tt.name
		stored, _ := written(t, p, m, tt.options)
		for _, u := range unpackers {
			name, got := unpacked(t, stored, u.name, u.args)
			sameBytes(t, u.name+" of "+tt.name, got, want)
			if name != tt.want {
				t.Errorf("%s finds %q in %q; want %q", u.name, name, tt.name, tt.want)
			}
		}
		sameBytes(t, "expanded", expandedBytes(t, opened(t, stored)), want)
	}
}

// TestZipIn64: what is written for dumps above 4 GiB is an archive to all of them, and
// to the reader.
func TestZipIn64(t *testing.T) {
	p, m := sparsePlan(t)
	want := expected(p, m)
	c := zipContainer()
	c.tail = func(o Options, size, header uint64) tail {
		z := newZipTail(o, size, header)
		z.in64 = true
		return z
	}
	var out bytes.Buffer
	if _, err := writeIn(t.Context(), &out, m, p, Options{FrameSize: 1 << 16}, []container{c}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes()[18:26], bytes.Repeat([]byte{0xff}, 8)) {
		t.Errorf("sizes ahead of the member are % x; want ZIP64", out.Bytes()[18:26])
	}
	for _, u := range unpackers {
		_, got := unpacked(t, out.Bytes(), u.name, u.args)
		sameBytes(t, u.name, got, want)
	}
	f := opened(t, out.Bytes())
	if !f.Container().RandomAccess {
		t.Error("there is no random access")
	}
	sameBytes(t, "expanded", expandedBytes(t, f), want)
}

// TestLargeZip: a dump of more than 4 GiB is what Python's reader takes for that, to the
// last byte, and the directory behind 4 GiB is found by snap's own.
func TestLargeZip(t *testing.T) {
	if testing.Short() {
		t.Skip("5 GiB are expanded")
	}
	runs := []phys.Run{{Base: 0, Pages: 5 << 18}}
	p := &Plan{Header: testHeader(runs), Runs: runs, Populated: phys.Runs{{Base: 5<<18 - 2, Pages: 2}}}
	m := &fakeMemory{ram: runs}
	path := filepath.Join(t.TempDir(), "a.zip")
	w, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := Write(t.Context(), w, m, p, Options{Compression: CompressionZip}); err != nil {
		t.Fatal(err)
	}
	said := throughTool(t, nil, "python3", "-c", "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); print(z.testzip(), z.infolist()[0].file_size)", path)
	if got, want := string(said), fmt.Sprintf("None %d\n", 5<<30+0x2000); got != want {
		t.Errorf("Python says %q; want %q", got, want)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, phys.PageSize)
	if err := f.ReadPhys(t.Context(), page, (5<<18-1)<<phys.PageShift); err != nil || !bytes.Equal(page, fakePage(5<<18-1)) {
		t.Errorf("the last page is another one, %v", err)
	}
}

// TestZipEnd: a directory behind 4 GiB has the ZIP64 end of APPNOTE.TXT 4.3.14, which Go's
// reader finds by its locator.
func TestZipEnd(t *testing.T) {
	const at = 5 << 32
	z := newZipTail(Options{FrameSize: 1 << 20}, 1<<40, 0x2000)
	z.stored = at - uint64(len(z.begin())) - 24 - 5
	z.expanded = z.stored
	var tail []byte
	if err := z.end(func(b []byte) error { tail = append(tail, b...); return nil }); err != nil {
		t.Fatal(err)
	}
	size := int64(z.stored) - 5 + int64(len(z.begin())) + int64(len(tail))
	r, err := zip.NewReader(tailReader{tail, size}, size)
	if err != nil || len(r.File) != 1 {
		t.Fatalf("zip.NewReader = %+v, %v; want one file", r, err)
	}
	if f := r.File[0]; f.UncompressedSize64 != z.expanded || f.CompressedSize64 != z.stored || f.Name != "memory.dmp" || f.Mode() != 0o600 {
		t.Errorf("it is %q of %d bytes in %d with mode %v; want memory.dmp of %d in %d", f.Name, f.UncompressedSize64, f.CompressedSize64, f.Mode(), z.expanded, z.stored)
	}
}

// tailReader is a file of zeros but for its end.
type tailReader struct {
	tail []byte
	size int64
}

func (r tailReader) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for ; n < len(p) && off+int64(n) < r.size; n++ {
		p[n] = 0
		if i := off + int64(n) - (r.size - int64(len(r.tail))); i >= 0 {
			p[n] = r.tail[i]
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// TestSameZip: the same dump is the same file.
func TestSameZip(t *testing.T) {
	p, m := sparsePlan(t)
	first, _ := written(t, p, m, Options{Compression: CompressionZip, Workers: 1})
	second, _ := written(t, p, m, Options{Compression: CompressionZip, Workers: 3})
	sameBytes(t, "once more", second, first)
}

// TestOthersZip: archives that others made are read: one that isn't compressed at any
// offset, others from their start.
func TestOthersZip(t *testing.T) {
	p, m := smallPlan(t)
	want := expected(p, m)
	dir := t.TempDir()
	path := filepath.Join(dir, "MEMORY.DMP")
	if err := os.WriteFile(path, want, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		tool   []string
		random bool
	}{
		{"Python, deflated", []string{"python3", "-c", "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w', 8).write(sys.argv[2], 'MEMORY.DMP')"}, false},
		{"Python, stored", []string{"python3", "-c", "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w', 0).write(sys.argv[2], 'MEMORY.DMP')"}, true},
		{"7-Zip", []string{"7z", "a", "-bd", "-tzip"}, false},
		{"Python, as a stream", []string{"python3", "-c", `import sys, zipfile
class stream:
    def __init__(self, f): self.f = f
    def write(self, b): return self.f.write(b)
    def flush(self): self.f.flush()
z = zipfile.ZipFile(stream(open(sys.argv[1], 'wb')), 'w', 8)
z.write(sys.argv[2], 'MEMORY.DMP')
z.close()`}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			archive := filepath.Join(t.TempDir(), "a.zip")
			throughTool(t, nil, tt.tool[0], append(tt.tool[1:], archive, path)...)
			stored, err := os.ReadFile(archive)
			if err != nil {
				t.Fatal(err)
			}
			f := opened(t, stored)
			sameBytes(t, "expanded", expandedBytes(t, f), want)
			if c := f.Container(); c.RandomAccess != tt.random || c.Compression != CompressionZip {
				t.Errorf("Container() = %+v; want random access: %v", c, tt.random)
			}
			got := make([]byte, 100)
			if _, err := f.ReadAt(got, 0x5000); tt.random && (err != nil || !bytes.Equal(got, want[0x5000:0x5064])) || !tt.random && !errors.Is(err, ErrSequential) {
				t.Errorf("ReadAt = %v", err)
			}
			if err := exercise(flipped(stored, len(stored)/2)); !errors.Is(err, ErrFormat) {
				t.Errorf("with a bit flipped: %v; want ErrFormat", err)
			}
		})
	}
}

// TestDeflateFrames: what is made of a frame is expanded by itself, and holds nothing
// that isn't of it.
func TestDeflateFrames(t *testing.T) {
	enc, err := newDeflateEncoder(Options{Level: LevelFastest})
	if err != nil {
		t.Fatal(err)
	}
	var d deflateExpander
	page := fakePage(7)
	good, err := enc.encode(nil, page)
	if err != nil {
		t.Fatal(err)
	}
	good = bytes.Clone(good)
	if got, err := d.decode(nil, good, len(page)); err != nil || !bytes.Equal(got, page) {
		t.Fatalf("a frame expands to something else, %v", err)
	}
	// A stream that refers to what would stand ahead of it.
	var out bytes.Buffer
	z, err := flate.NewWriterDict(&out, 9, page)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(page); err != nil {
		t.Fatal(err)
	}
	if err := z.Flush(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		b []byte
		n int
	}{
		"more than it should":      {good, len(page) - 1},
		"less than it should":      {good, len(page) + 1},
		"cut short":                {good[:len(good)-1], len(page)},
		"more behind it":           {append(bytes.Clone(good), good...), len(page)},
		"an end of its own":        {append(bytes.Clone(good), deflateEnd...), len(page)},
		"another frame's contents": {out.Bytes(), len(page)},
	} {
		if _, err := d.decode(nil, tt.b, tt.n); err == nil {
			t.Errorf("%s: it is taken", name)
		}
	}
	if got, err := d.decode(nil, append(bytes.Clone(good), good...), 2*len(page)); err != nil || !bytes.Equal(got, append(bytes.Clone(page), page...)) {
		t.Errorf("two frames expand to something else, %v", err)
	}
}

// TestJoinedChecksums holds checksums that are made of others against hash/crc32.
func TestJoinedChecksums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOf(rapid.Byte()).Draw(t, "first"), rapid.SliceOf(rapid.Byte()).Draw(t, "second")
		if got, want := crcJoin(crc32.ChecksumIEEE(a), crc32.ChecksumIEEE(b), uint64(len(b))), crc32.ChecksumIEEE(append(bytes.Clone(a), b...)); got != want {
			t.Errorf("joined: %#x; want %#x", got, want)
		}
		n := rapid.IntRange(0, 1<<20).Draw(t, "zeros")
		if got, want := crcOfZeros(uint64(n)), crc32.ChecksumIEEE(make([]byte, n)); got != want {
			t.Errorf("%d zeros: %#x; want %#x", n, got, want)
		}
	})
}

// TestMemberName: names that Windows can't have aren't given to it.
func TestMemberName(t *testing.T) {
	for name, want := range map[string]string{
		"":                       "memory.dmp",
		"-":                      "memory.dmp",
		"web01.dmp.zip":          "web01.dmp",
		"web01.DMP.ZIP":          "web01.dmp",
		"web01.dmp.zip.age":      "web01.dmp",
		"web01":                  "web01.dmp",
		"web01.zip":              "web01.dmp",
		"web01.bak":              "web01.bak.dmp",
		"../../etc/passwd":       "_.._etc_passwd.dmp",
		`C:\x.dmp`:               "C__x.dmp",
		"a\x00\nb\xff?*":         "a__b___.dmp",
		"con.dmp.zip":            "_con.dmp",
		"COM1.x.zip":             "_COM1.x.dmp",
		"console.zip":            "console.dmp",
		". ":                     "memory.dmp",
		strings.Repeat("ü", 300): strings.Repeat("ü", 98) + ".dmp",
	} {
		if got := memberName(name); got != want {
			t.Errorf("memberName(%q) = %q; want %q", name, got, want)
		}
	}
}

// TestZipSumIsOfAll: a checksum that isn't the dump's is found by whoever reads all of it.
func TestZipSumIsOfAll(t *testing.T) {
	p, m := sparsePlan(t)
	stored, _ := written(t, p, m, Options{Compression: CompressionZip, FrameSize: 1 << 16})
	at := bytes.LastIndex(stored, []byte("PK\x01\x02")) + 16
	bad := flipped(stored, at)
	f := opened(t, bad)
	if err := f.CheckFrames(context.Background(), nil); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("CheckFrames = %v; want the checksum", err)
	}
	if _, err := Expand(t.Context(), f, io.Discard, nil); !errors.Is(err, ErrFormat) {
		t.Errorf("Expand = %v; want ErrFormat", err)
	}
}
