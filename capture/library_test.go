package capture_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"snap/dump"
)

// goBlock is the first program in a document.
var goBlock = regexp.MustCompile("(?s)```go\n(.*?)```")

// TestLibraryFromOutside builds the program of docs/library.md in a module of its
// own, outside of this one, as the document says, and has it take a dump.
func TestLibraryFromOutside(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root, "docs/library.md"))
	if err != nil {
		t.Fatal(err)
	}
	program := goBlock.FindSubmatch(doc)
	if program == nil {
		t.Fatal("docs/library.md has no program")
	}
	if n := strings.Count(string(program[1]), "\n"); n > 40 {
		t.Errorf("the program has %d lines; want one of about 30", n)
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"main.go": string(program[1]),
		"go.mod":  "module example.org/taker\n\ngo 1.26\n\nrequire snap v0.0.0\n\nreplace snap => " + root + "\n",
		"go.sum":  string(sums),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "-o", "taker", ".")
	// What it needs is what this module needs, which is there already.
	build.Dir, build.Env = dir, append(os.Environ(), "GOPROXY=off", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out := filepath.Join(dir, "out.dmp.zst")
	run := exec.CommandContext(t.Context(), filepath.Join(dir, "taker"), out)
	text, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("the program failed: %v\n%s", err, text)
	}
	if got := strings.Fields(string(text)); len(got) != 4 || got[0] != "Windows" || got[2] != out || len(got[3]) != 64 {
		t.Errorf("the program printed %q; want the guest, the file and its hash", text)
	}
	f, err := dump.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Complete(); err != nil {
		t.Error(err)
	}
}
