package labtest

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// recorder is a test whose end is noted. As a real one, it doesn't go on after it.
type recorder struct {
	testing.TB
	end string
}

func (r *recorder) Helper()      {}
func (r *recorder) Skip(...any)  { r.end = "skipped"; panic(r) }
func (r *recorder) Fatal(...any) { r.end = "failed"; panic(r) }

func TestNeedsDaemons(t *testing.T) {
	was := flag.Lookup("test.short").Value.String()
	t.Cleanup(func() { _ = flag.Set("test.short", was) })
	for _, tt := range []struct{ short, ci, want string }{
		{"false", "", ""},
		{"false", "true", ""},
		{"true", "", "skipped"},
		{"true", "true", "failed"},
	} {
		t.Setenv("CI", tt.ci)
		if err := flag.Set("test.short", tt.short); err != nil {
			t.Fatal(err)
		}
		r := &recorder{TB: t}
		func() {
			defer func() { _ = recover() }()
			NeedsDaemons(r)
		}()
		if r.end != tt.want {
			t.Errorf("with -short=%s and CI=%q the test is %q; want %q", tt.short, tt.ci, r.end, tt.want)
		}
	}
}

// TestCIRunsAll holds what CI runs to running every test.
func TestCIRunsAll(t *testing.T) {
	const root = "../../../"
	for _, tt := range []struct{ file, runs string }{
		{".ci/run", `(?m)^make test$`},
		{"Makefile", `(?m)^test:.*\n\tscripts/test\.sh$`},
		{"scripts/test.sh", `(?m)^go test .* -skip "\$many" "\$\{others\[@\]\}"`},
		{"scripts/test.sh", `(?m)^go test .* -run "\$many" \./capture`},
		{"scripts/test.sh", `(?m)^go test .* "\$\{daemons\[@\]\}"`},
	} {
		b, err := os.ReadFile(root + tt.file)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(tt.runs).Match(b) {
			t.Errorf("%s has no line like %s; want all tests to be run", tt.file, tt.runs)
		}
		for line := range strings.Lines(string(b)) {
			test := strings.Contains(line, "go test") || strings.Contains(line, "scripts/test.sh") || strings.Contains(line, "make test")
			line = strings.NewReplacer(`-skip "$many"`, "", `-run "$many"`, "").Replace(line) // what one leaves out, the other runs
			if test && regexp.MustCompile(`-(short|skip|run)\b`).MatchString(line) {
				t.Errorf("%s leaves out tests: %s", tt.file, strings.TrimSpace(line))
			}
		}
	}
}

// TestLeftOutIsRun: the tests that one run leaves out are those of package capture that
// another one runs.
func TestLeftOutIsRun(t *testing.T) {
	const root = "../../../"
	script, err := os.ReadFile(root + "scripts/test.sh")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range regexp.MustCompile(`(?m)^many\+?='\|?([A-Za-z|]+)'$`).FindAllStringSubmatch(string(script), -1) {
		names = append(names, strings.Split(m[1], "|")...)
	}
	if len(names) == 0 {
		t.Fatal("scripts/test.sh leaves no test out; want this test to go, too")
	}
	found := map[string][]string{} // folders, by the name of a test
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func Test(\w+)\(`).FindAllStringSubmatch(string(b), -1) {
			found[m[1]] = append(found[m[1]], strings.TrimPrefix(filepath.Dir(path), root))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if got := found[name]; !slices.Equal(got, []string{"capture"}) {
			t.Errorf("Test%s is in %q; want it in capture, and nowhere else", name, got)
		}
	}
}
