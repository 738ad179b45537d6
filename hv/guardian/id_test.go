package guardian

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"snap/hv"
)

// forged are names of runs that lead elsewhere when they become a part of a path,
// or that no run ever has. %s is a path from the folder of state to a file.
var forged = []string{
	"", "x", "../../victim", "x/../../victim", "x/../../../../../../../../../%s", "..", ".", "/%s",
	"abcdefgh234567x/", "ABCDEFGH234567XY", "abcdefgh234567x", "abcdefgh234567xyz", "abcdefgh234567x\x00",
	"abcdefgh234567x\n", "abcdefgh1890abcd", strings.Repeat("a", 1<<16),
}

// TestForgedMark: a mark that somebody made up has nothing done and no file
// removed, by a dump that begins and by Recover alike, and the error says how to
// get rid of it.
func TestForgedMark(t *testing.T) {
	for _, run := range forged {
		dir := filepath.Join(t.TempDir(), "state", "snap")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		victims := []string{filepath.Join(filepath.Dir(dir), "victim"), filepath.Join(filepath.Dir(filepath.Dir(dir)), "victim"), filepath.Join(dir, "victim")}
		for _, v := range victims {
			if err := os.WriteFile(v, []byte("of somebody else"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		run = strings.ReplaceAll(run, "%s", victims[0])
		r, y := deadRun(t, hv.ForJob)
		y.did = "had it let go"
		m := *y.marker
		m.Run, m.Host, m.Boot, m.PID, m.Start = run, r.Snap.Host, r.Snap.Boot, r.Snap.PID, r.Snap.Start
		y.marker = &m
		_, err := RecoverMarked(t.Context(), dir, y, y.marker, false)
		begin := (&Guardian{dir: dir, run: *r}).clear(t.Context(), y, y.open, nil)
		for what, err := range map[string]error{"RecoverMarked": err, "a dump that begins": begin} {
			if !errors.Is(err, hv.ErrFormat) || !strings.Contains(err.Error(), "--remove") {
				t.Errorf("run %.40q: %s ends with %v; want %v and how to remove the mark", run, what, err, hv.ErrFormat)
			}
		}
		if len(y.left) > 0 {
			t.Errorf("run %.40q: the domain was told to undo %+v", run, y.left)
		}
		for _, v := range victims {
			if b, err := os.ReadFile(v); err != nil || string(b) != "of somebody else" {
				t.Errorf("run %.40q: %s holds %q (%v)", run, v, b, err)
			}
		}
	}
}

// TestForgedState: neither does a state file whose run is made up.
func TestForgedState(t *testing.T) {
	for _, run := range forged {
		dir := t.TempDir()
		r := aRun(t)
		r.ID = run
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.path(dir), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if runs, err := Runs(dir); len(runs) > 0 || !errors.Is(err, hv.ErrFormat) {
			t.Errorf("run %.40q: Runs() = %+v, %v; want none and %v", run, runs, err, hv.ErrFormat)
		}
	}
}

// TestNewID: the names of runs are such names, and differ.
func TestNewID(t *testing.T) {
	a, b := newID(), newID()
	if err := errors.Join(checkID(a), checkID(b)); err != nil || a == b {
		t.Errorf("newID() = %q, %q: %v", a, b, err)
	}
}
