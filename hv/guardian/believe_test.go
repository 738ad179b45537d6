package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
)

// changed is a state file with one field of another value.
func changed(t *testing.T, r *Run, field string, value any) []byte {
	t.Helper()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		t.Fatal(err)
	}
	at := doc
	if outer, inner, ok := strings.Cut(field, "."); ok {
		at, field = doc[outer].(map[string]any), inner
	}
	at[field] = value
	if b, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestStateFields: each field of a state file is checked before anything follows from
// it, and of what can't be there nothing is believed.
func TestStateFields(t *testing.T) {
	long := strings.Repeat("x", maxText+1)
	for field, values := range map[string][]any{
		"run":         {"", "../../../etc/passwd", 7},
		"uri":         {"", long, "qemu:///system\x1b[2J", "%zz", 7},
		"domain":      {"", long, 7},
		"uuid":        {"", "web01", "../../etc", "01020304-0506-0708-090a-0b0c0d0e0f1", "01020304-0506-0708-090A-0B0C0D0E0F10"},
		"instance":    {-1, 1e30, "3"},
		"domain_host": {long, "\x1b]0;x\x07"},
		"snap":        {nil, 7},
		"snap.pid":    {0, -1, 1 << 30, "1"},
		"snap.host":   {"", long, "a\nb"},
		"snap.boot":   {"", "../..", strings.Repeat("a", 37)},
		"snap.start":  {-1, "x"},
		"guardian":    {map[string]any{"pid": -1}, map[string]any{"host": "x"}},
		"why":         {"destroy", "snapshot;", 7},
		"holding":     {"yes"},
		"files":       {[]any{long}, slices.Repeat([]any{"/x"}, maxFiles+1), "x", []any{7}},
		"began":       {"yesterday", 7},
		"trouble":     {"\x1b[31m", long},
	} {
		for _, value := range values {
			dir := t.TempDir()
			r := aRun(t)
			r.Guardian = r.Snap
			path := r.path(dir)
			if err := os.WriteFile(path, changed(t, r, field, value), 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := load(path); !errors.Is(err, hv.ErrFormat) {
				t.Errorf("load() with %s = %.40v is %+v, %v; want %v", field, value, got, err, hv.ErrFormat)
			} else if strings.ContainsAny(err.Error(), "\x1b\x07\n") {
				t.Errorf("load() with %s = %.40v says %q; want nothing raw", field, value, err)
			}
		}
	}
	// All of them as they are written are believed.
	dir := t.TempDir()
	r := aRun(t)
	r.Guardian, r.Why = r.Snap, hv.ForSnapshot
	r.setTrouble(errors.New("first\nsecond \x1b[31m \xff" + long))
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := load(r.path(dir)); err != nil {
		t.Errorf("load() of what was saved failed: %v", err)
	}
}

// TestStateOwn: what isn't a file of this user's own is no state file, whatever is in
// it.
func TestStateOwn(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"others may write": func(path string) error { return os.Chmod(path, 0o622) },
		"another name": func(path string) error {
			return os.Link(path, filepath.Join(filepath.Dir(filepath.Dir(path)), "other"))
		},
		"symbolic link": func(path string) error {
			to := filepath.Join(filepath.Dir(filepath.Dir(path)), "to")
			return errors.Join(os.Rename(path, to), os.Symlink(to, path))
		},
		"FIFO":   func(path string) error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)) },
		"folder": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
		"another's": func(path string) error {
			if os.Geteuid() != 0 {
				return os.Chmod(path, 0o622) // the nearest that another user can do
			}
			return os.Chown(path, 65534, 65534)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "snap")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			r := aRun(t)
			if err := errors.Join(r.save(dir), spoil(r.path(dir))); err != nil {
				t.Fatal(err)
			}
			if got, err := load(r.path(dir)); !errors.Is(err, hv.ErrFormat) {
				t.Errorf("load() = %+v, %v; want %v", got, err, hv.ErrFormat)
			}
		})
	}
}

// FuzzState: whatever a state file holds, what is read of it can be written and read
// again, and leads to no file but partial ones.
func FuzzState(f *testing.F) {
	r := Run{ID: "abcdefgh234567xy", URI: "qemu:///system", Name: "web01", UUID: "01020304-0506-0708-090a-0b0c0d0e0f10", Snap: Process{Host: "h", Boot: "0a-1", Namespace: 9, PID: 7}}
	b, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		r, err := read(file)
		if err != nil {
			return
		}
		dir := t.TempDir()
		if filepath.Dir(r.path(dir)) != dir || r.save(dir) != nil {
			t.Fatalf("%+v isn't kept in its folder", r)
		}
		if _, err := load(r.path(dir)); err != nil {
			t.Fatalf("what was read can't be read again: %v", err)
		}
	})
}

// TestMarkFields: so is each of a mark.
func TestMarkFields(t *testing.T) {
	good := func() *hv.Marker {
		return &hv.Marker{Run: "abcdefgh234567xy", Why: hv.ForPause, Host: "h", Boot: "0a-1", Namespace: 9, PID: 7}
	}
	if err := checkMarker(good()); err != nil {
		t.Errorf("checkMarker() of a good one = %v", err)
	}
	for name, spoil := range map[string]func(m *hv.Marker){
		"run":          func(m *hv.Marker) { m.Run = "../x" },
		"no reason":    func(m *hv.Marker) { m.Why = "" },
		"reason":       func(m *hv.Marker) { m.Why = "destroy" },
		"no host":      func(m *hv.Marker) { m.Host = "" },
		"host":         func(m *hv.Marker) { m.Host = "\x1b[2J" },
		"long host":    func(m *hv.Marker) { m.Host = strings.Repeat("h", 1<<16) },
		"no boot":      func(m *hv.Marker) { m.Boot = "" },
		"boot":         func(m *hv.Marker) { m.Boot = "/proc" },
		"no namespace": func(m *hv.Marker) { m.Namespace = 0 },
		"no process":   func(m *hv.Marker) { m.PID = 0 },
		"a group":      func(m *hv.Marker) { m.PID = -1 },
		"high number":  func(m *hv.Marker) { m.PID = 1 << 30 },
	} {
		m := good()
		spoil(m)
		_, y := deadRun(t, hv.ForPause)
		y.marker = m
		_, err := RecoverMarked(t.Context(), t.TempDir(), y, m, false)
		if !errors.Is(err, hv.ErrFormat) || !strings.Contains(err.Error(), "snap recover --force") || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: RecoverMarked() = %v; want %v, and how to remove the mark", name, err, hv.ErrFormat)
		}
		if len(y.left) > 0 || y.marker == nil {
			t.Errorf("%s: the domain was told to undo %+v, mark %+v; want nothing done", name, y.left, y.marker)
		}
		// By force it goes, and that is all.
		done, err := RecoverMarked(t.Context(), t.TempDir(), y, m, true)
		if err != nil || y.marker != nil || len(y.left) > 0 || len(done.Did) != 1 {
			t.Errorf("%s: RecoverMarked(force) = %+v, %v, mark %+v, undone %+v; want the mark removed and nothing else", name, done, err, y.marker, y.left)
		}
	}
}

// TestForce: a mark of another host, or of a process that lives, is left alone until
// somebody says that no dump runs; a dump that has the lock is left alone even then.
func TestForce(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := self
	elsewhere.Host, elsewhere.Boot = "a-host-that-is-gone", "0a-1"
	for name, p := range map[string]Process{"another host": elsewhere, "a process that lives": self} {
		r, y := deadRun(t, hv.ForPause)
		y.did = "resumed the guest"
		y.marker = &hv.Marker{Run: r.ID, Why: hv.ForPause, Host: p.Host, Boot: p.Boot, Namespace: p.Namespace, PID: p.PID, Start: p.Start}
		dir := t.TempDir()
		done, err := RecoverMarked(t.Context(), dir, y, y.marker, false)
		if err != nil || !done.Running || !strings.Contains(done.Who, p.Host) || len(y.left) > 0 {
			t.Errorf("%s: RecoverMarked() = %+v, %v; want that it runs, and where", name, done, err)
		}
		begin := (&Guardian{dir: dir, run: *r}).clear(t.Context(), y, y.open, nil)
		if !errors.Is(begin, ErrLocked) || !strings.Contains(begin.Error(), "snap recover --force") {
			t.Errorf("%s: a dump that begins ends with %v; want %v, and what to do", name, begin, ErrLocked)
		}
		lock, err := r.lock(dir)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if done, err := RecoverMarked(ctx, dir, y, y.marker, true); len(y.left) > 0 || err == nil && !done.Running {
			t.Errorf("%s: RecoverMarked(force) of a dump that has the lock = %+v, %v; want it left alone", name, done, err)
		}
		cancel()
		_ = lock.Close()
		done, err = RecoverMarked(t.Context(), dir, y, y.marker, true)
		if err != nil || done.Running || y.marker != nil || len(y.left) != 1 {
			t.Errorf("%s: RecoverMarked(force) = %+v, %v; want it undone", name, done, err)
		}
	}
}

// TestDamagedState: a state file that is garbage keeps no dump from being taken, is
// told of, and goes by force; those that are sound stay.
func TestDamagedState(t *testing.T) {
	dir := t.TempDir()
	r, y := deadRun(t, hv.ForPause)
	y.marker = nil
	for _, garbage := range []string{"", "{", "\x00\x1b[2J", `{"run":"x"}`} {
		if err := os.WriteFile(r.path(dir), []byte(garbage), 0o600); err != nil {
			t.Fatal(err)
		}
		g := &Guardian{dir: dir, run: *r}
		if err := g.clear(t.Context(), y, y.open, nil); err != nil || len(g.recovered) != 1 || strings.Contains(g.recovered[0], "\x1b") {
			t.Errorf("clear() with the state file %q = %v, %q; want no error, and one note", garbage, err, g.recovered)
		}
	}
	sound := aRun(t)
	sound.UUID = "11020304-0506-0708-090a-0b0c0d0e0f10"
	if err := sound.save(dir); err != nil {
		t.Fatal(err)
	}
	gone, err := RemoveDamaged(dir)
	if err != nil || !slices.Equal(gone, []string{r.path(dir)}) {
		t.Errorf("RemoveDamaged() = %q, %v; want the damaged one", gone, err)
	}
	if runs, err := Runs(dir); err != nil || len(runs) != 1 {
		t.Errorf("Runs() = %d, %v; want the sound one", len(runs), err)
	}
}

// TestOldPartial: a partial file that can't be removed keeps no dump from being taken
// elsewhere, and snap recover tries again.
func TestOldPartial(t *testing.T) {
	for _, force := range []bool{false, true} {
		dir, mount := t.TempDir(), filepath.Join(t.TempDir(), "backup")
		old, y := deadRun(t, hv.ForPause)
		y.marker, old.Holding = nil, false
		old.Files = []string{filepath.Join(mount, "web01.dmp.partial-"+old.ID)} // the folder isn't mounted
		if err := old.save(dir); err != nil {
			t.Fatal(err)
		}
		g := &Guardian{dir: dir, run: *aRun(t)}
		g.run.ID = newID()
		if err := g.clear(t.Context(), y, y.open, nil); err != nil || !slices.ContainsFunc(g.recovered, func(s string) bool { return strings.Contains(s, mount) }) {
			t.Fatalf("clear() = %v, %q; want no error, and the file told of", err, g.recovered)
		}
		if err := g.run.save(dir); err != nil {
			t.Fatal(err)
		}
		runs, err := Runs(dir)
		if err != nil || len(runs) != 2 {
			t.Fatalf("Runs() = %+v, %v; want the dump and what is left of the one before", runs, err)
		}
		aside := runs[slices.IndexFunc(runs, func(r *Run) bool { return r.Aside })]
		lock, err := g.run.lock(dir)
		if err != nil {
			t.Fatal(err)
		}
		if done, err := Recover(t.Context(), y.open, dir, aside, false); err != nil || !done.Running {
			t.Errorf("Recover() while the dump runs = %+v, %v; want it left alone", done, err)
		}
		_ = lock.Close()
		if _, err := Recover(t.Context(), y.open, dir, aside, false); err == nil {
			t.Error("Recover() with the folder still not there worked; want an error")
		}
		if !force {
			if err := errors.Join(os.Mkdir(mount, 0o700), os.WriteFile(aside.Files[0], nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		done, err := Recover(t.Context(), y.open, dir, aside, force)
		if err != nil || len(done.Did) != 1 || !strings.Contains(done.Did[0], mount) {
			t.Errorf("Recover(force %v) = %+v, %v; want the file gone, or forgotten", force, done, err)
		}
		if runs, err := Runs(dir); err != nil || len(runs) != 1 || runs[0].Aside {
			t.Errorf("Runs() afterwards = %+v, %v; want the dump alone", runs, err)
		}
	}
}

// TestRemoveFileOnlyOwn: what has the name of a partial file but is none isn't removed.
func TestRemoveFileOnlyOwn(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"symbolic link": func(path string) error { return os.Symlink("/etc/hostname", path) },
		"FIFO":          func(path string) error { return unix.Mkfifo(path, 0o600) },
		"folder":        func(path string) error { return os.Mkdir(path, 0o700) },
		"another's": func(path string) error {
			if os.Geteuid() != 0 {
				return os.Mkdir(path, 0o700)
			}
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, 65534, 65534))
		},
	} {
		r := aRun(t)
		r.Files = []string{filepath.Join(t.TempDir(), "x.partial-"+r.ID)}
		if err := put(r.Files[0]); err != nil {
			t.Fatal(err)
		}
		gone, err := r.removeFiles()
		if _, there := os.Lstat(r.Files[0]); len(gone) > 0 || !errors.Is(err, hv.ErrFormat) || there != nil {
			t.Errorf("%s: removeFiles() = %q, %v, and it is there: %v; want it left, and %v", name, gone, err, there == nil, hv.ErrFormat)
		}
	}
}
