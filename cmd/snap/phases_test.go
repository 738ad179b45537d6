package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"

	"snap/hv"
)

// dumpPhases are those of a dump in mode pause, as a terminal and a log show them.
var dumpPhases = []string{
	"looking at win10-22h2", "estimating", "getting memory", "PAUSED win10-22h2", "RUNNING again after ",
	"compressing win10-22h2", "verifying win10-22h2",
}

// snapCommand is snap with the guests of lab:///.
func snapCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), bin, args...)
	cmd.Env = append(os.Environ(), "LIBVIRT_DEFAULT_URI=lab:///", "SNAP_MAX_PAUSE=5m")
	return cmd
}

// escapes are what moves a terminal's cursor about.
var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

// onTerminal runs cmd on a terminal of 80 columns and returns the lines that it
// drew, also those that it drew over later.
func onTerminal(t *testing.T, cmd *exec.Cmd) []string {
	t.Helper()
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	if _, err := io.Copy(&out, f); err != nil && !errors.Is(err, unix.EIO) { // EIO: the other end is closed
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out.String())
	}
	var lines []string
	s := bufio.NewScanner(&out)
	for s.Scan() {
		line := strings.TrimRight(escapes.ReplaceAllString(s.Text(), ""), "\r ")
		// What is copied from a terminal stays whole, and so do records of the log.
		if n := len([]rune(line)); n > 80 && !strings.Contains(line, t.Name()) && !strings.Contains(line, " DBG ") {
			t.Errorf("line %q takes %d cells; want 80 at most", line, n)
		}
		lines = append(lines, line)
	}
	return lines
}

// inOrder demands that a line begins with each of want, the first time in that order.
func inOrder(t *testing.T, lines, want []string) {
	t.Helper()
	at := -1
	for _, text := range want {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, text) })
		if i < 0 || i < at {
			t.Fatalf("line %q is at %d, after one at %d, in:\n%s", text, i, at, strings.Join(lines, "\n"))
		}
		at = i
	}
}

// TestPhasesOnATerminal: each phase has a line, and lines fit the terminal, whatever
// the command.
func TestPhasesOnATerminal(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "w.dmp.zst")
	lines := onTerminal(t, snapCommand(t, "dump", "win10-22h2", "-o", file))
	inOrder(t, lines, dumpPhases)
	for _, want := range []string{`^compressing win10-22h2 +\[=+\] +255 MiB in `, `^PAUSED win10-22h2 +\d+`} {
		if !slices.ContainsFunc(lines, regexp.MustCompile(want).MatchString) {
			t.Errorf("no line is like %s in:\n%s", want, strings.Join(lines, "\n"))
		}
	}
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"convert", file, "-o", filepath.Join(dir, "w.dmp.gz")}, []string{"converting w", "verifying w"}},
		{[]string{"expand", file, "-o", filepath.Join(dir, "w.dmp")}, []string{"expanding w.dmp.zst"}},
		{[]string{"check", "win10-22h2", "-v", "-o", dir}, nil},
		{[]string{"verify", file}, []string{"verifying w.dmp.zst"}},
	} {
		inOrder(t, onTerminal(t, snapCommand(t, tt.args...)), tt.want)
	}
}

// TestPhasesInALog: each phase has a line at once, and with -v one with what it
// took; -q has none.
func TestPhasesInALog(t *testing.T) {
	for _, tt := range []struct {
		flag string
		want []string
	}{
		{"--log-format=console", dumpPhases},
		{"-v", dumpPhases},
		{"-v", []string{"Windows found", "source chosen", "mode estimated", "compressing win10-22h2: ended", "verifying win10-22h2: ended"}},
		{"-q", nil},
	} {
		cmd := snapCommand(t, "dump", "win10-22h2", "-o", filepath.Join(t.TempDir(), "w.dmp.zst"), "--log-format=console", tt.flag)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var lines []string
		for line := range strings.Lines(string(out)) {
			if _, text, ok := strings.Cut(strings.TrimSpace(line), " INF "); ok {
				lines = append(lines, text)
			} else if _, text, ok := strings.Cut(strings.TrimSpace(line), " DBG "); ok {
				lines = append(lines, text)
			}
		}
		inOrder(t, lines, tt.want)
		if tt.flag == "-q" && len(out) > 0 {
			t.Errorf("snap dump -q says %q; want nothing", out)
		}
	}
}

// TestPhasesAsRecords: each phase is a record with the fields that programs read.
func TestPhasesAsRecords(t *testing.T) {
	cmd := snapCommand(t, "dump", "win10-22h2", "-o", filepath.Join(t.TempDir(), "w.dmp.zst"), "--json")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if !json.Valid(stdout) {
		t.Errorf("standard output is %q; want the summary and nothing else", stdout)
	}
	var phases []string
	for line := range strings.Lines(stderr.String()) {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("standard error has %q: %v", line, err)
		}
		phase, ok := r["phase"].(string)
		if !ok {
			continue
		}
		want := []string{"event", "message", "time", "held", "percent", "eta_s"}
		if phase == "running" {
			want = []string{"event", "message", "time", "stood_ms"}
		}
		for _, f := range want {
			if _, ok := r[f]; !ok {
				t.Errorf("record %s has no %s", line, f)
			}
		}
		if held := r["held"]; phase != "running" && held != (phase == "paused") {
			t.Errorf("record %s; want held while it is paused", line)
		}
		phases = append(phases, phase)
	}
	want := []string{"looking", "estimating", "getting memory", "paused", "running", "compressing", "verifying"}
	if got := slices.Compact(phases); !slices.Equal(got, want) {
		t.Errorf("phases %q; want %q", got, want)
	}
}

// TestListFitsATerminal: no line of snap list is wider than the terminal, and what is
// no terminal gets one line for each domain.
func TestListFitsATerminal(t *testing.T) {
	entries := []listEntry{
		{Name: "not-windows", State: hv.StateRunning, Memory: 256 << 20, CPUs: 4, Guest: "looks like Linux"},
		{
			Name: "production-database-server-with-a-name", State: hv.StatePaused, Memory: 1536 << 30, CPUs: 288,
			Guest: "Windows Server 10.0.20348", Source: "direct", Modes: []string{"pause", "snapshot", "live"},
		},
	}
	for _, tt := range []struct{ columns, widest int }{{80, 80}, {120, 120}, {0, 1000}} {
		var out bytes.Buffer
		if err := listTable(entries, tt.columns).Write(&out, ""); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := len([]rune(strings.TrimSpace(line))); n > tt.widest {
				t.Errorf("%d columns: line %q takes %d", tt.columns, line, n)
			}
		}
		if got := strings.Count(out.String(), "\n"); tt.columns == 0 && got != 1+len(entries) {
			t.Errorf("%d lines; want one for each domain:\n%s", got, out.String())
		}
	}
}
