package input

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// zipOf is an archive with files of those contents in it.
func zipOf(t testing.TB, method uint16, contents ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, c := range contents {
		w, err := z.CreateHeader(&zip.FileHeader{Name: string(rune('a'+i)) + ".dmp", Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, c); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// memberIn is all of the only file in an archive.
func memberIn(b []byte) (*Member, string, error) {
	m, err := OneMember(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, "", err
	}
	in := m.Open()
	defer in.Close()
	got, err := io.ReadAll(in)
	return m, string(got), err
}

// TestOneMember: the only file in an archive is found and read, whoever wrote it.
func TestOneMember(t *testing.T) {
	text := strings.Repeat("memory of a guest ", 10_000)
	file := filepath.Join(t.TempDir(), "a.dmp")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	python := func(how string) []byte {
		t.Helper()
		out, err := exec.Command("python3", "-c", "import sys, zipfile, io; b = io.BytesIO(); z = zipfile.ZipFile(b, 'w', 8)\n"+how+"\nz.close(); sys.stdout.buffer.write(b.getvalue())", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, b := range map[string][]byte{
		"deflated":          zipOf(t, zip.Deflate, text),
		"stored":            zipOf(t, zip.Store, text),
		"Python's":          python("z.write(sys.argv[1], 'a.dmp')"),
		"Python's, ZIP64":   python("with z.open('a.dmp', 'w', force_zip64=True) as f: f.write(open(sys.argv[1], 'rb').read())"),
		"with a comment":    python("z.write(sys.argv[1], 'a.dmp'); z.comment = b'PK\\5\\6 is how an end begins, and it is longer than 22 bytes'"),
		"nothing in a file": zipOf(t, zip.Deflate, ""),
	} {
		want := text
		if name == "nothing in a file" {
			want = ""
		}
		m, got, err := memberIn(b)
		if err != nil || got != want || m.Name != "a.dmp" || m.Expanded != int64(len(want)) {
			t.Errorf("%s: %+v, %d bytes, %v; want the %d bytes of a.dmp", name, m, len(got), err, len(want))
		}
	}
}

// TestNotOneMember: what is no archive of one file that can be expanded is none.
func TestNotOneMember(t *testing.T) {
	good := zipOf(t, zip.Deflate, strings.Repeat("memory ", 1000))
	le := binary.LittleEndian
	end, dir := len(good)-zipEndSize, bytes.LastIndex(good, []byte("PK\x01\x02"))
	changed := func(change func(b []byte)) []byte {
		b := bytes.Clone(good)
		change(b)
		return b
	}
	for name, tt := range map[string]struct {
		b    []byte
		want string
	}{
		"two files":               {zipOf(t, zip.Deflate, "a", "b"), "2 files"},
		"no file":                 {zipOf(t, zip.Deflate), "0 files"},
		"nothing":                 {nil, "end"},
		"cut":                     {good[:len(good)-1], "its end is missing"},
		"an end alone":            {good[end:], "directory"},
		"one part of several":     {changed(func(b []byte) { b[end+4] = 1 }), "several"},
		"a directory behind it":   {changed(func(b []byte) { le.PutUint32(b[end+16:], uint32(end)) }), "directory"},
		"a longer directory":      {changed(func(b []byte) { le.PutUint32(b[end+12:], uint32(end-dir+1)) }), "directory"},
		"a shorter one":           {changed(func(b []byte) { le.PutUint32(b[end+12:], uint32(end-dir-1)) }), "directory"},
		"no ZIP64 end":            {changed(func(b []byte) { le.PutUint32(b[end+16:], zipIn64) }), "ZIP64"},
		"no ZIP64 field":          {changed(func(b []byte) { le.PutUint32(b[dir+20:], zipIn64) }), "ZIP64"},
		"encrypted":               {changed(func(b []byte) { b[dir+8] |= 1 }), "encrypted"},
		"another method":          {changed(func(b []byte) { b[dir+10] = 12 }), "method 12"},
		"stored in less":          {changed(func(b []byte) { b[dir+10] = 0 }), "bytes in"},
		"a member in its place":   {changed(func(b []byte) { le.PutUint32(b[dir+42:], uint32(dir)) }), "behind the directory"},
		"no member":               {changed(func(b []byte) { b[0] = 'X' }), "no member"},
		"longer than there is":    {changed(func(b []byte) { le.PutUint32(b[dir+20:], uint32(len(b))) }), "run into"},
		"a name that is too long": {changed(func(b []byte) { le.PutUint16(b[dir+28:], 999) }), "damaged"},
	} {
		if m, err := OneMember(bytes.NewReader(tt.b), int64(len(tt.b))); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: OneMember = %+v, %v; want %q", name, m, err, tt.want)
		}
	}
	for name, b := range map[string][]byte{
		"another checksum": changed(func(b []byte) { b[dir+16]++ }),
		"more than it has": changed(func(b []byte) { b[dir+24]++ }),
		"less than it has": changed(func(b []byte) { b[dir+24]-- }),
	} {
		if _, got, err := memberIn(b); err == nil {
			t.Errorf("%s: %d bytes are read without an error", name, len(got))
		}
	}
}

// FuzzOneMember reads arbitrary bytes as an archive: no panic, and no more than it says.
func FuzzOneMember(f *testing.F) {
	f.Add(zipOf(f, zip.Deflate, strings.Repeat("memory ", 100)))
	f.Add(zipOf(f, zip.Store, "memory"))
	f.Add(zipOf(f, zip.Deflate, "a", "b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := OneMember(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		if m.At < zipLocalSize || m.Stored < 0 || m.At+m.Stored > int64(len(b)) {
			t.Fatalf("%+v is not in a file of %d bytes", m, len(b))
		}
		in := m.Open()
		defer in.Close()
		if n, err := io.Copy(io.Discard, io.LimitReader(in, 8<<20)); err == nil && n < 8<<20 && n != m.Expanded {
			t.Fatalf("%d bytes of %+v", n, m)
		}
		ExtraField(m.Extra, zipField)
	})
}
