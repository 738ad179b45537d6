package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"snap/capture"
	"snap/dump"
	"snap/internal/ntlab"
)

// writer is a command that writes a file.
type writer struct {
	name   string
	args   []string // before -o
	made   string   // pattern of the name that it makes in a folder
	begins string   // what it writes if nothing says which container
	slow   bool     // it is tried on few of the destinations that it can write to
}

const (
	zstdBegins  = "\x28\xb5\x2f\xfd"
	gzipBegins  = "\x1f\x8b"
	plainBegins = "PAGEDU64"
)

// writers returns all commands that write a file, with a dump called in.dmp.gz in
// the current folder as the input of those that have one.
func writers(t *testing.T) []writer {
	t.Helper()
	smallDump(t, "in.dmp.gz")
	const stamp = `\d{8}T\d{6}Z`
	return []writer{
		{"dump", []string{"dump", "ws2003sp1-x64"}, `^ws2003sp1-x64-` + stamp + `\.dmp\.zst$`, zstdBegins, true},
		{"convert", []string{"convert", "in.dmp.gz"}, `^in-` + stamp + `\.dmp\.zst$`, zstdBegins, false},
		{"header of a domain", []string{"header", "ws2003sp1-x64"}, `^ws2003sp1-x64-` + stamp + `\.hdr$`, plainBegins, true},
		{"header of a dump", []string{"header", "in.dmp.gz"}, `^in-` + stamp + `\.hdr$`, plainBegins, false},
		{"expand", []string{"expand", "in.dmp.gz"}, `^in\.dmp$`, plainBegins, false},
	}
}

// smallDump makes a dump of a small guest, by snap convert of an ELF core.
func smallDump(t *testing.T, name string, more ...string) {
	t.Helper()
	im, err := ntlab.Build(ntlab.Config{Profile: ntlab.Profiles()[0], Seed: 7, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	core := writeCore(t, "core", im)
	defer os.Remove(core)
	args := append([]string{"convert", core, "-q", "-o", name, "--manifest=false"}, more...)
	if code, _, stderr := inProcess(t, args...); code != exitOK {
		t.Fatalf("snap convert: exit code %d\n%s", code, stderr)
	}
}

// inProcess runs snap on the built-in guests.
func inProcess(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("LIBVIRT_DEFAULT_URI", "lab:///")
	t.Setenv("SNAP_LOG_FORMAT", logConsole)
	t.Setenv("SNAP_MAX_PAUSE", "10m")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // for what should not hang
	defer cancel()
	var out, errs bytes.Buffer
	code = run(ctx, args, &out, &errs)
	return code, out.String(), errs.String()
}

// TestDestinations: what -o means is the same for every command that writes a file.
func TestDestinations(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, dir := range []string{"folder", "web.zip"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"way": "folder", "link": "old", "dangling": "nowhere"} {
		if err := os.Symlink(to, link); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("old", []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo("fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		toStdout = "(standard output)"
		made     = "*" // a name that the command makes
	)
	tests := []struct {
		dest  string
		flags []string
		code  int
		in    string // the folder that the file is in
		file  string // its name, toStdout or made
		say   string // on standard error, if it fails
	}{
		{dest: "-", file: toStdout},
		{dest: "/dev/stdout", file: toStdout},
		{dest: "/dev/fd/1", file: toStdout},
		{dest: "/proc/self/fd/1", file: toStdout},
		{dest: "/dev//stdout", file: toStdout},
		{dest: "./-", in: ".", file: "-"},
		{dest: "folder", in: "folder", file: made},
		{dest: "folder/", in: "folder", file: made},
		{dest: "way", in: "folder", file: made},
		{dest: "web.zip", in: "web.zip", file: made},
		{dest: "folder/new", in: "folder", file: "new"},
		{dest: "new", in: ".", file: "new"},
		{dest: "2026.11.22", in: ".", file: "2026.11.22"},
		{dest: "folder/{time}", in: "folder", file: `^\d{8}T\d{6}Z$`},
		{dest: "{domain}", in: ".", file: "^(ws2003sp1-x64|in)$"},
		{dest: "{input}", in: ".", file: "^(ws2003sp1-x64|in)$"},
		{dest: "old", flags: []string{"--force"}, in: ".", file: "old"},

		{dest: "old", code: exitFailed, say: "next: .*--force"},
		{dest: "none/", code: exitFailed, say: "next: make the folder first: mkdir -p none$"},
		{dest: "none/new", code: exitFailed, say: "next: make the folder first: mkdir -p none$"},
		{dest: "no folder/new", code: exitFailed, say: "next: make the folder first: mkdir -p 'no folder'$"},
		{dest: "old/", code: exitFailed, say: "folder"},
		{dest: "old/new", code: exitFailed, say: "folder"},
		{dest: "fifo", code: exitFailed, say: "it is a FIFO.*\nnext: .*-o - >fifo$"},
		{dest: "/dev/null", code: exitFailed, say: "it is a device.*\nnext: .*-o - >/dev/null$"},
		{dest: "link", code: exitFailed, say: "it is a symbolic link.*\nnext: name what the link leads to"},
		{dest: "dangling", code: exitFailed, say: "it is a symbolic link"},
		{dest: "fifo", flags: []string{"--force"}, code: exitFailed, say: "it is a FIFO"},
		{dest: "link", flags: []string{"--force"}, code: exitFailed, say: "it is a symbolic link"},

		{dest: "", code: exitUsage, say: "-o is empty"},
		{dest: "gs://bucket/new", code: exitUsage, say: "no such kind of place"},
		{dest: "file:///tmp/new", code: exitUsage, say: "no such kind of place"},
		{dest: "{date}", code: exitUsage, say: `{date}.*{time}`},
		{dest: "new.json", code: exitUsage, say: "next: call it what it is: -o new[.]"},
		{dest: "new.7z", code: exitUsage, say: "next: call it what it is: -o new[.]"},
		{dest: "it's new.7z", code: exitUsage, say: `next: call it what it is: -o 'it'\\''s new[.]`},
		{dest: "{domain}.7z", code: exitUsage, say: "next: "},
	}
	for _, w := range writers(t) {
		t.Run(w.name, func(t *testing.T) {
			for i, tt := range tests {
				if w.slow && tt.say == "" && i%5 != 1 {
					continue
				}
				before := listing(t)
				args := append(append(append([]string{}, w.args...), "-q", "-o", tt.dest), tt.flags...)
				code, stdout, stderr := inProcess(t, args...)
				if tt.say != "" {
					if code != tt.code || stdout != "" || !regexp.MustCompile("(?m)"+tt.say).MatchString(stderr) {
						t.Errorf("-o %q: exit code %d, stdout of %d bytes, stderr %q; want %d and %q", tt.dest, code, len(stdout), stderr, tt.code, tt.say)
					}
					if got := added(t, before); len(got) > 0 {
						t.Errorf("-o %q left %q; want nothing", tt.dest, got)
					}
					continue
				}
				if code != tt.code {
					t.Fatalf("-o %q: exit code %d; want %d\n%s", tt.dest, code, tt.code, stderr)
				}
				got := stdout
				if tt.file != toStdout {
					if tt.dest != "old" {
						w.placed(t, tt.dest, tt.in, tt.file, added(t, before))
					}
					got = takeAway(t, before, tt.dest)
				}
				if !strings.HasPrefix(got, w.begins) {
					t.Errorf("-o %q: what is written begins with %.8q; want %q", tt.dest, got, w.begins)
				}
			}
		})
	}
}

// placed fails the test unless one file is new, or that and its manifest.
func (w writer) placed(t *testing.T, dest, in, file string, got []string) {
	t.Helper()
	var files []string
	for _, f := range got {
		if !strings.HasSuffix(f, ".json") {
			files = append(files, f)
		}
	}
	if len(files) != 1 || filepath.Dir(files[0]) != in {
		t.Fatalf("-o %q: new files %q; want one in %s", dest, got, in)
	}
	name := filepath.Base(files[0])
	switch {
	case file == "*":
		file = w.made
	case !strings.HasPrefix(file, "^"):
		file = "^" + regexp.QuoteMeta(file) + "$"
	}
	if !regexp.MustCompile(file).MatchString(name) {
		t.Errorf("-o %q: the file is called %s; want %s", dest, name, file)
	}
}

// listing is what lies in the current folder, and below it.
func listing(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, pattern := range []string{"*", "*/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			all[n] = true
		}
	}
	return all
}

// added lists the files that are there now and weren't before, each once.
func added(t *testing.T, before map[string]bool) []string {
	t.Helper()
	var out []string
	for n := range listing(t) {
		if !before[n] && !strings.HasPrefix(n, "way/") {
			out = append(out, n)
		}
	}
	return out
}

// takeAway returns what is in the dump that is new, or that replaced one, and
// removes it.
func takeAway(t *testing.T, before map[string]bool, dest string) string {
	t.Helper()
	files := added(t, before)
	if dest == "old" {
		files = append(files, "old")
	}
	var content string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(f, ".json") {
			content = string(b[:min(len(b), 8)])
		}
		if f == "old" {
			err = os.WriteFile(f, []byte("old"), 0o600)
		} else {
			err = os.Remove(f)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return content
}

// TestInputIsNotTheOutput: no command replaces what it reads, --force or not, by
// whatever name.
func TestInputIsNotTheOutput(t *testing.T) {
	t.Chdir(t.TempDir())
	ws := writers(t)
	if err := os.Link("in.dmp.gz", "other"); err != nil {
		t.Fatal(err)
	}
	was, err := os.ReadFile("in.dmp.gz")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range ws {
		if w.args[1] != "in.dmp.gz" {
			continue
		}
		for _, dest := range []string{"in.dmp.gz", "./in.dmp.gz", "other"} {
			args := append(append([]string{}, w.args...), "--force", "-o", dest)
			if code, _, stderr := inProcess(t, args...); code != exitUsage {
				t.Errorf("%s -o %s: exit code %d, %s; want %d", w.name, dest, code, stderr, exitUsage)
			}
			if now, err := os.ReadFile(dest); err != nil || !bytes.Equal(now, was) {
				t.Fatalf("%s -o %s changed its input (%v)", w.name, dest, err)
			}
		}
	}
}

// TestNamesChooseContainers: what a dump's name ends in is what it is, and what it
// isn't is refused with the right name, before anything is done.
func TestNamesChooseContainers(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, tt := range []struct {
		name, compress string
		is             dump.Compression // the container, if there is nothing wrong
		right          string           // else the name that is proposed
	}{
		{"a.dmp", "", dump.CompressionNone, ""},
		{"A.DMP", "", dump.CompressionNone, ""},
		{"a.dmp.zst", "", dump.CompressionZstd, ""},
		{"A.Dmp.ZST", "", dump.CompressionZstd, ""},
		{"a.zst", "", dump.CompressionZstd, ""},
		{"a.dmp.gz", "", dump.CompressionGzip, ""},
		{"a.GZ", "", dump.CompressionGzip, ""},
		{"a", "", dump.CompressionZstd, ""},
		{"a", "none", dump.CompressionNone, ""},
		{"a-1.2.3", "gzip", dump.CompressionGzip, ""},
		{"a.raw.dmp", "", dump.CompressionNone, ""},
		{"a.dmp", "none", dump.CompressionNone, ""},
		{"a.dmp.gz", "gzip", dump.CompressionGzip, ""},
		{"a.dmp.zip", "", dump.CompressionZip, ""},
		{"a.ZIP", "zip", dump.CompressionZip, ""},

		{"a.dmp", "zip", "", "a.dmp.zip"},
		{"a.dmp.zst", "zip", "", "a.dmp.zip"},
		{"a.dmp", "zstd", "", "a.dmp.zst"},
		{"A.DMP", "zstd", "", "A.dmp.zst"},
		{"a.dmp", "gzip", "", "a.dmp.gz"},
		{"a.dmp.zst", "none", "", "a.dmp"},
		{"a.DMP.ZST", "none", "", "a.dmp"},
		{"a.zst", "gzip", "", "a.dmp.gz"},
		{"a.gz", "zstd", "", "a.dmp.zst"},
		{"a.GZ", "zstd", "", "a.dmp.zst"},
		{"a.gz", "none", "", "a.dmp"},
		{"a.gz.zst", "", "", "a.dmp.zst"},
		{"a.raw.zst", "", "", "a.dmp.zst"},
		{"a.elf.gz", "", "", "a.dmp.zst"},
		{"a.7z", "", "", "a.dmp.zst"},
		{"a.dmp.zip", "none", "", "a.dmp"},
		{"a.ZIP", "zstd", "", "a.dmp.zst"},
		{"a.dmp.age", "", "", "a.dmp.zst"},
		{"a.dmp.zst.age", "", "", "a.dmp.zst"},
		{"a.raw", "", "", "a.dmp.zst"},
		{"a.raw", "none", "", "a.dmp"},
		{"a.elf", "", "", "a.dmp.zst"},
		{"a.json", "", "", "a.dmp.zst"},
		{"a.dmp.zst.json", "", "", "a.dmp.zst"},
		{"a.mdmp", "", "", "a.dmp.zst"},
		{"a.tar", "", "", "a.dmp.zst"},
		{"a.hdr", "", "", "a.dmp.zst"},
		{"a.", "", "", "a.dmp.zst"},
		{"a.dmp.", "", "", "a.dmp.zst"},
		{"a.dmp ", "", "", "'a.dmp .dmp.zst'"},
		{"web01.example.com", "", "", "web01.example.com.dmp.zst"},
	} {
		a := &app{stdout: new(bytes.Buffer)}
		var f fileFlags
		cmd := &cobra.Command{Use: "test"}
		f.addTo(cmd, a, "")
		args := []string{"-o", tt.name}
		if tt.compress != "" {
			args = append(args, "--compress", tt.compress)
		}
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		var o capture.Options
		to, err := f.target(a, ofDomain("web01"), &o)
		if tt.right != "" {
			code, advice := classify(err)
			if code != exitUsage || advice != "call it what it is: -o "+tt.right {
				t.Errorf("%v: exit code %d, %v, next %q; want %d and the name %s", args, code, err, advice, exitUsage, tt.right)
			}
			if _, err := f.options(t.Context(), a); err == nil {
				t.Errorf("%v: the flags alone are right; want an error before anything is looked for", args)
			}
			continue
		}
		if err != nil || o.Write.Compression != tt.is || to.dest != tt.name {
			t.Errorf("%v: %q to %+v, %v; want %s", args, o.Write.Compression, to, err, tt.is)
		}
	}
}

// TestNamesOfOtherKinds: what isn't a dump's name is refused by the commands that
// write one kind of file only.
func TestNamesOfOtherKinds(t *testing.T) {
	for _, tt := range []struct {
		kind  fileKind
		name  string
		right string // "" if the name will do
	}{
		{dumpFile(dump.CompressionNone), "a.dmp", ""},
		{dumpFile(dump.CompressionNone), "a.DMP", ""},
		{dumpFile(dump.CompressionNone), "a.dmp.zst", "a.dmp"},
		{dumpFile(dump.CompressionNone), "a.gz", "a.dmp"},
		{dumpFile(dump.CompressionNone), "a.raw", "a.dmp"},
		{dumpFile(dump.CompressionNone), "a.img", "a.dmp"},
		{headerFile(), "a.hdr", ""},
		{headerFile(), "a.HDR", ""},
		{headerFile(), "a.bin", ""},
		{headerFile(), "a", ""},
		{headerFile(), "a.dmp", "a.hdr"},
		{headerFile(), "a.dmp.zst", "a.hdr"},
		{headerFile(), "a.zst", "a.hdr"},
		{headerFile(), "a.json", "a.hdr"},
		{headerFile(), "a.elf", "a.hdr"},
	} {
		if got := tt.kind.takes(endingOf(tt.name)); got != (tt.right == "") {
			t.Errorf("%s called %s: taken %v", tt.kind.what, tt.name, got)
		}
		if got := rightName(tt.name, tt.kind); tt.right != "" && got != tt.right {
			t.Errorf("%s called %s should be called %s; want %s", tt.kind.what, tt.name, got, tt.right)
		}
	}
}

func TestInputName(t *testing.T) {
	for path, want := range map[string]string{
		"web01.dmp": "web01", "/a/WEB01.DMP.ZST": "WEB01", "web01.dmp.gz": "web01", "web01.elf": "web01", "web01.elf.gz": "web01",
		"web01-20261122T010000Z.dmp.zst": "web01-20261122T010000Z", "2026.11.22": "2026.11.22", "web01": "web01", "-": "stdin",
	} {
		if got := inputName(path); got != want {
			t.Errorf("inputName(%q) = %q; want %q", path, got, want)
		}
	}
}

// TestFileName: whatever a domain is called, its name is one part of a path, and
// no destination of another kind.
func TestFileName(t *testing.T) {
	for name, want := range map[string]string{
		"web01": "web01", "a/b": "a_b", "..": "_", ".": "_", "-": "_", "--force": "force", "": "_", "../../etc": "_.._etc",
		"a\nb\x00": "a_b_", "{time}": "{time}", ".hidden": "hidden", "日本": "日本",
	} {
		if got := fileName(name); got != want {
			t.Errorf("fileName(%q) = %q; want %q", name, got, want)
		}
	}
}
