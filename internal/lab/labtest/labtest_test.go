package labtest

import (
	"flag"
	"os"
	"regexp"
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
		{"scripts/test.sh", `(?m)^go test .* "\$\{others\[@\]\}"`},
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
			if test && regexp.MustCompile(`-(short|skip|run)\b`).MatchString(line) {
				t.Errorf("%s leaves out tests: %s", tt.file, strings.TrimSpace(line))
			}
		}
	}
}
