package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"snap/internal/lab"
	"snap/internal/lab/labtest"
	"snap/internal/ntlab"
)

// verdict is what snap check --json says.
type verdict struct {
	Would    *bool
	ExitCode *int `json:"exit_code"`
	Why      string
	Next     string
	Also     []string
	Output   string
	Modes    []struct{ Mode string }
}

// TestCheckIsDump walks situations through snap check and snap dump: the same flags
// end with the same code, check says so in words and in JSON, and leaves nothing.
func TestCheckIsDump(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, tt := range []struct {
		name   string
		domain string
		args   string // DIR is the destination's folder
		before string // a file that is there
		code   int
		also   int  // what else is in the way
		modes  bool // what each mode takes is said all the same
	}{
		{"sound", "win10-22h2", "-o DIR", "", exitOK, 0, true},
		{"a name", "win10-22h2", "-o DIR/a.dmp.zst", "", exitOK, 0, true},
		{"all of dump's flags", "win10-22h2", "-o DIR/a.dmp.gz --compress gzip --level best --nice 5 --ionice normal --timeout 1h --max-changed 3% --manifest=false --cpus 1 --memory 64M --spool 1G", "", exitOK, 0, true},
		{"standard output", "win10-22h2", "-o -", "", exitOK, 0, true},
		{"a summary beside it", "win10-22h2", "-o - --summary DIR/a.json", "", exitOK, 0, true},
		{"a summary whose name is taken", "win10-22h2", "-o DIR/a.dmp.zst --summary DIR/b.json", "b.json", exitFailed, 0, true},
		{"a summary in the dump's place", "win10-22h2", "-o DIR/a.dmp.zst --summary DIR/a.dmp.zst", "", exitUsage, 0, false},
		{"wrong usage", "win10-22h2", "-o DIR --max-pause 0", "", exitUsage, 0, false},
		{"no folder", "win10-22h2", "-o DIR/none/a.dmp.zst", "", exitFailed, 0, true},
		{"a file for a folder", "win10-22h2", "-o " + file + "/a.dmp.zst", "", exitFailed, 0, true},
		{"taken", "win10-22h2", "-o DIR/a.dmp.zst", "a.dmp.zst", exitFailed, 0, true},
		{"taken, and forced", "win10-22h2", "-o DIR/a.dmp.zst --force", "a.dmp.zst", exitOK, 0, true},
		{"the manifest's name is taken", "win10-22h2", "-o DIR/a.dmp.zst", "a.dmp.zst.json", exitFailed, 0, true},
		{"that without a manifest", "win10-22h2", "-o DIR/a.dmp.zst --manifest=false", "a.dmp.zst.json", exitOK, 0, true},
		{"a device", "win10-22h2", "-o /dev/null", "", exitFailed, 0, true},
		{"a pause too long", "win10-22h2", "-o DIR --max-pause 1ns", "", exitTooLong, 0, true},
		{"that in mode pause", "win10-22h2", "-o DIR --max-pause 1ns --mode pause", "", exitTooLong, 0, true},
		{"that in mode live", "win10-22h2", "-o DIR --max-pause 1ns --mode live", "", exitOK, 0, true},
		{"a mode that can't be taken", "win10-22h2", "-o DIR --mode snapshot", "", exitUnsupported, 0, true},
		{"another source", "win10-22h2", "-o DIR --source peek", "", exitOK, 0, true},
		{"a name that lies", "win10-22h2", "-o DIR/a.dmp.gz --compress zstd", "", exitUsage, 0, false},
		{"too many runs", "win10-22h2-hostile", "-o DIR --format full", "", exitFailed, 0, false},
		{"too many pages to leave out", "win10-22h2-greedy", "-o DIR", "", exitFailed, 0, false},
		{"those allowed", "win10-22h2-greedy", "-o DIR --max-excluded 60%", "", exitOK, 0, true},
		{"an exclusion in vain", "win10-22h2", "-o DIR --exclude pa:0xfe0000000+1", "", exitFailed, 0, false},
		{"no Windows", "not-windows", "-o DIR", "", exitNotWindows, 0, false},
		{"no domain", "nobody", "-o DIR", "", exitNoDomain, 0, false},
		{"no domain, no folder", "nobody", "-o DIR/none/a.dmp.zst", "", exitNoDomain, 0, false},
		{"no folder, and too long", "win10-22h2", "-o DIR/none/a.dmp.zst --max-pause 1ns", "", exitFailed, 1, true},
		{"no folder, and no Windows", "not-windows", "-o DIR/none/a.dmp.zst", "", exitFailed, 1, false},
		{"no time", "win10-22h2", "-o DIR --timeout 1ns", "", exitFailed, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.before != "" {
				if err := os.WriteFile(filepath.Join(dir, tt.before), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := append([]string{tt.domain, "-c", "lab:///", "--log-format", "console"}, strings.Fields(strings.ReplaceAll(tt.args, "DIR", dir))...)
			if !strings.Contains(tt.args, "--max-pause") {
				args = append(args, "--max-pause", "5m")
			}
			before := dirNames(t, dir)
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), append([]string{"check"}, args...), &stdout, &stderr)
			if code != tt.code {
				t.Errorf("snap check ends with %d; want %d\n%s%s", code, tt.code, stdout.String(), stderr.String())
			}
			if would := strings.Contains(stdout.String(), "would work."); would != (code == exitOK) {
				t.Errorf("snap check ends with %d and says %q", code, stdout.String())
			}
			if code != exitOK && !strings.Contains(stderr.String(), "\nnext: ") && !strings.Contains(stderr.String(), `"next":`) {
				t.Errorf("stderr is %q; want the next step", stderr.String())
			}
			if got := strings.Contains(stdout.String(), "pause (copy first)"); got != tt.modes {
				t.Errorf("what each mode takes is said: %v; want %v\n%s", got, tt.modes, stdout.String())
			}
			if tt.code != exitUsage && (!seen[tt.code] || tt.also > 0) {
				seen[tt.code] = true
				checkJSON(t, append([]string{"check", "--json"}, args...), tt.code, tt.also)
			}
			if got := dirNames(t, dir); got != before {
				t.Errorf("snap check left %q of %q", got, before)
			}
			stdout.Reset()
			stderr.Reset()
			if code := run(t.Context(), append([]string{"dump"}, args...), &stdout, &stderr); code != tt.code {
				t.Errorf("snap dump ends with %d; want %d\n%s", code, tt.code, stderr.String())
			}
		})
	}
}

// checkJSON holds the document of snap check against its exit code.
func checkJSON(t *testing.T, args []string, code, also int) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	for i, a := range args {
		if a == "-" { // standard output is the document's
			args[i] = filepath.Join(t.TempDir(), "a.dmp.zst")
			code = exitOK
		}
	}
	got := run(t.Context(), args, &stdout, &stderr)
	var v verdict
	if err := json.Unmarshal(stdout.Bytes(), &v); err != nil {
		t.Fatalf("snap check --json printed %q: %v", stdout.String(), err)
	}
	would := code == exitOK || code == exitDegraded
	switch {
	case v.Would == nil || v.ExitCode == nil:
		t.Errorf("the document has no verdict: %s", stdout.String())
	case got != code || *v.ExitCode != code || *v.Would != would:
		t.Errorf("snap check --json ends with %d and says %v, %d; want %v, %d", got, *v.Would, *v.ExitCode, would, code)
	case (v.Why == "") != (code == exitOK) || code != exitOK && v.Next == "":
		t.Errorf("the reason is %q, the next step %q; want both unless all is well", v.Why, v.Next)
	case len(v.Also) != also:
		t.Errorf("also in the way: %q; want %d", v.Also, also)
	}
}

func dirNames(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// TestCheckDefaultDestination: without -o, what dump would choose is looked at: the
// current folder.
func TestCheckDefaultDestination(t *testing.T) {
	labtest.NeedsDaemons(t) // it mounts
	dir := t.TempDir()
	mountSmall(t, dir, "size=16k")
	t.Chdir(dir)
	for _, command := range []string{"check", "dump"} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), []string{command, "-c", "lab:///", "win10-22h2"}, &stdout, &stderr); code != exitNoSpace {
			t.Errorf("snap %s ends with %d; want %d\n%s%s", command, code, exitNoSpace, stdout.String(), stderr.String())
		}
	}
}

// mountSmall mounts a file system of its own on dir.
func mountSmall(t *testing.T, dir, options string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount a small file system (root is needed): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// TestCheckIsDumpOfDomains is TestCheckIsDump for what only real domains, daemons
// and file systems can be in the way of. The guest runs on, undisturbed.
func TestCheckIsDumpOfDomains(t *testing.T) {
	t.Parallel()
	g := upHeldWith(t, lab.Spec{Name: "check", MemoryMiB: 128, CPUs: 1, FillMiB: 64, Seed: 14})
	off, err := lab.Off(t.Context(), lab.Spec{Name: unique("check-off"), MemoryMiB: 128})
	endsWithTest(t, off, err)
	small, frozen := t.TempDir(), t.TempDir()
	mountSmall(t, small, "size=4m")
	mountSmall(t, frozen, "size=4m,ro")
	for _, tt := range []struct {
		name   string
		domain string
		folder string
		flags  []string
		code   int
	}{
		{"sound", g.Name, t.TempDir(), nil, exitOK},
		{"off", off.Name, t.TempDir(), nil, exitNoDomain},
		{"off, and no folder", off.Name, "/nowhere", nil, exitNoDomain},
		{"no space", g.Name, small, nil, exitNoSpace},
		{"no space for the plain dump", g.Name, small, []string{"--compress", "none"}, exitNoSpace},
		{"read-only", g.Name, frozen, nil, exitDenied},
		{"too long by peek", g.Name, t.TempDir(), []string{"--source", "peek", "--max-pause", "1ms"}, exitTooLong},
		{"live by peek", g.Name, t.TempDir(), []string{"--source", "peek", "--mode", "live", "--max-changed", "100%"}, exitOK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{tt.domain, "--log-format", "console", "-o", tt.folder + "/"}, tt.flags...)
			before := ""
			if tt.folder != "/nowhere" {
				before = dirNames(t, tt.folder)
			}
			runSnap(t, g.Connection, "check", args...).want(t, tt.code)
			if tt.folder != "/nowhere" {
				if got := dirNames(t, tt.folder); got != before {
					t.Errorf("snap check left %q", got)
				}
			}
			runSnap(t, g.Connection, "dump", args...).want(t, tt.code)
			mustRun(t, g.Guest)
		})
	}
	t.Run("a dump is running", func(t *testing.T) {
		r := g.start(t, "--spool", "off")
		g.untilHeld(t, r)
		out := filepath.Join(t.TempDir(), "b.dmp.zst")
		for _, command := range []string{"check", "dump", "check"} {
			got := runSnap(t, g.Connection, command, g.Name, "-o", out, "--log-format", "console").want(t, exitLocked)
			if !strings.Contains(got.stderr, "\nnext: wait for it to end") {
				t.Errorf("snap %s says %q; want the next step", command, got.stderr)
			}
		}
		r.wait(t).want(t, exitOK)
		mustRun(t, g.Guest)
	})
}

// TestNoRoomForFiles: convert and expand ask for space too, before they write.
func TestNoRoomForFiles(t *testing.T) {
	labtest.NeedsDaemons(t) // it mounts
	im, err := ntlab.Build(ntlab.Config{Memory: 96 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Fill(48<<20, ntlab.Mix{Random: 1}); err != nil {
		t.Fatal(err)
	}
	dir, small := t.TempDir(), t.TempDir()
	mountSmall(t, small, "size=8m")
	core := writeCore(t, filepath.Join(dir, "guest.elf"), im)
	packed := filepath.Join(dir, "guest.dmp.zst")
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"convert", core, "-q", "-o", packed}, &stdout, &stderr); code != exitOK {
		t.Fatalf("snap convert ends with %d\n%s", code, stderr.String())
	}
	for _, args := range [][]string{
		{"convert", core, "-o", small + "/"},
		{"convert", packed, "-o", filepath.Join(small, "a.dmp.gz")},
		{"convert", packed, "-o", filepath.Join(small, "a.dmp")},
		{"expand", packed, "-o", small + "/"},
	} {
		stderr.Reset()
		code := run(t.Context(), append(args, "--log-format", "console"), &stdout, &stderr)
		if code != exitNoSpace || !strings.Contains(stderr.String(), "won't fit: it takes about ") || !strings.Contains(stderr.String(), "\nnext: make room for at least another ") {
			t.Errorf("snap %q ends with %d, %q; want %d, what it takes and the next step", args, code, stderr.String(), exitNoSpace)
		}
		if got := dirNames(t, small); got != "" {
			t.Errorf("snap %q left %q", args, got)
		}
	}
}
