package guardian

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"snap/hv"
)

// aRun is a dump of this process's.
func aRun(t *testing.T) *Run {
	t.Helper()
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	return &Run{
		ID: "abcdefgh234567xy", URI: "qemu:///system", Name: "web01", UUID: "01020304-0506-0708-090a-0b0c0d0e0f10", Instance: 3, Host: "host",
		Snap: self, Began: time.Date(2026, 11, 22, 1, 0, 0, 0, time.UTC), Holding: true, Files: []string{"/backup/x.partial-abcdefgh234567xy"},
	}
}

// TestState: what was saved is what Runs finds, and only its owner can read it.
func TestState(t *testing.T) {
	dir := t.TempDir()
	want := aRun(t)
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	runs, err := Runs(dir)
	if err != nil || len(runs) != 1 {
		t.Fatalf("Runs() = %d runs, %v; want 1", len(runs), err)
	}
	if d := cmp.Diff(want, runs[0]); d != "" {
		t.Errorf("the run that was saved differs from the one that is read: %s", d)
	}
	info, err := os.Stat(want.path(dir))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state file has mode %v (%v); want 0600", info.Mode(), err)
	}
	if err := errors.Join(want.forget(dir), want.forget(dir)); err != nil {
		t.Errorf("forget(), twice, failed: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v was left behind", left)
	}
}

// TestStateHostile: state files that aren't ours are refused, and don't hide those
// that are.
func TestStateHostile(t *testing.T) {
	dir := t.TempDir()
	good := aRun(t)
	if err := good.save(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good.path(dir))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty.json":      "",
		"cut.json":        string(text[:len(text)/2]),
		"other-name.json": string(text),
		"no-run.json":     "{}",
		"long.json":       strings.Repeat(" ", maxState+1),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := load(filepath.Join(dir, name)); err == nil {
			t.Errorf("load(%s) = %+v; want an error", name, r)
		}
	}
	if err := os.Symlink(good.path(dir), filepath.Join(dir, "link.json")); err != nil {
		t.Fatal(err)
	}
	runs, err := Runs(dir)
	if len(runs) != 1 || runs[0].ID != good.ID || !errors.Is(err, hv.ErrFormat) {
		t.Errorf("Runs() = %d runs, %v; want the good one, and an error for the others", len(runs), err)
	}
}

// TestRemoveFiles: only partial files of the run itself are removed.
func TestRemoveFiles(t *testing.T) {
	dir := t.TempDir()
	r := aRun(t)
	mine, missing := filepath.Join(dir, "x.partial-abcdefgh234567xy"), filepath.Join(dir, "y.partial-abcdefgh234567xy")
	others := []string{filepath.Join(dir, "x"), filepath.Join(dir, "x.partial-abcdefgh234567xyd"), filepath.Join(dir, "x.partial-zabcdefgh234567xy")}
	for _, f := range append([]string{mine}, others...) {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	folder := filepath.Join(dir, "folder.partial-abcdefgh234567xy")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	r.Files = slices.Concat([]string{mine, missing, folder, "x.partial-abcdefgh234567xy"}, others)
	gone, err := r.removeFiles()
	if !slices.Equal(gone, []string{mine}) || !errors.Is(err, hv.ErrFormat) {
		t.Errorf("removeFiles() = %v, %v; want %s alone, and an error for what isn't the run's", gone, err, mine)
	}
	for _, f := range append(others, folder) {
		if _, err := os.Lstat(f); err != nil {
			t.Errorf("%s is gone: %v", f, err)
		}
	}
}

// TestLock: the second one is refused and told who has it, also by another way to
// the same daemon; a domain of another daemon is another.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	r := aRun(t)
	lock, err := r.lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	same := *r
	same.URI = "qemu+ssh://root@elsewhere/system"
	if _, err := same.lock(dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", os.Getpid())) {
		t.Errorf("second lock() = %v; want %v, with process %d", err, ErrLocked, os.Getpid())
	}
	for _, other := range []Run{{UUID: r.UUID, Host: r.Host, URI: "qemu:///session"}, {UUID: r.UUID, Host: "other", URI: r.URI}} {
		l, err := other.lock(dir)
		if err != nil {
			t.Errorf("lock() of a domain of another daemon failed: %v", err)
			continue
		}
		l.Close()
	}
	if err := r.finish(dir); err != nil { // what is removed under a lock is another's no more
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, r.key()+lockSuffix)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lock's file is still there: %v", err)
	}
	lock.Close()
	if lock, err = same.lock(dir); err != nil {
		t.Fatalf("lock() after the first was let go failed: %v", err)
	}
	lock.Close()
}

// TestRecoverLeavesTheLiving: nothing of a dump whose process runs is touched.
func TestRecoverLeavesTheLiving(t *testing.T) {
	dir := t.TempDir()
	r := aRun(t)
	file := filepath.Join(dir, "x.partial-abcdefgh234567xy")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Files = []string{file}
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	if done, err := Recover(t.Context(), nobody, dir, r, false); err != nil || !done.Running || len(done.Did) > 0 {
		t.Errorf("Recover() of a dump that runs = %+v, %v; want that it runs", done, err)
	}
	r.Holding = false // there is no domain to ask about
	r.Snap.Start++    // another process had the number
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	if done, err := Recover(t.Context(), nobody, dir, r, false); err != nil || done.Running || !slices.Equal(done.Did, []string{"removed " + file}) {
		t.Errorf("Recover() of a dump that died = %+v, %v; want its file removed", done, err)
	}
	if _, err := os.Stat(r.path(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the state file is still there: %v", err)
	}
}

// TestProcess: a number that was used again is another process.
func TestProcess(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("cat")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	_, start, err := stat(child.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	cat := self
	cat.PID, cat.Start = child.Process.Pid, start
	if !cat.Alive() {
		t.Error("Alive() = false of a process that runs")
	}
	f, err := cat.open()
	if err != nil {
		t.Fatalf("open() of a process that runs failed: %v", err)
	}
	defer f.Close()
	in.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	first := true // it turns readable when the process ends, which nobody has waited for
	if err := raw.Read(func(uintptr) bool { again := !first; first = false; return again }); err != nil {
		t.Fatal(err)
	}
	if cat.Alive() {
		t.Error("Alive() = true of a process that ended and was not waited for")
	}
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*Process){
		"ended":                   func(p *Process) { *p = cat },
		"of another start time":   func(p *Process) { p.Start++ },
		"of before the reboot":    func(p *Process) { p.Boot = "00000000-0000-0000-0000-000000000000" },
		"of an impossible number": func(p *Process) { p.PID = 1 << 30 },
	} {
		p := self
		change(&p)
		if p.Alive() {
			t.Errorf("Alive() = true of a process %s", what)
		}
		if f, err := p.open(); err == nil {
			f.Close()
			t.Errorf("open() of a process %s succeeded", what)
		}
	}
}

// TestRemoveFar: what isn't of this host is removed by whoever can do that, and is told
// which run it has to be of.
func TestRemoveFar(t *testing.T) {
	const left = "s3://bucket/a.dmp?upload=1"
	denied := errors.New("denied")
	for name, tt := range map[string]struct {
		err  error
		gone []string
		want error
	}{
		"removed": {nil, []string{left}, nil},
		"missing": {fs.ErrNotExist, nil, nil},
		"denied":  {denied, nil, denied},
	} {
		r := aRun(t)
		r.Files = []string{left}
		var asked []string
		r.Remove = func(_ context.Context, url, id string) error {
			asked = append(asked, url, id)
			return tt.err
		}
		gone, err := r.removeFiles()
		if !slices.Equal(gone, tt.gone) || !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: removeFiles() = %q, %v; want %q, %v", name, gone, err, tt.gone, tt.want)
		}
		if want := []string{left, r.ID}; !slices.Equal(asked, want) {
			t.Errorf("%s: Remove was called with %q; want %q", name, asked, want)
		}
	}
	r := aRun(t)
	r.Files = []string{left}
	if gone, err := r.removeFiles(); len(gone) > 0 || !errors.Is(err, hv.ErrUnsupported) {
		t.Errorf("removeFiles() without a Remove = %q, %v; want %v", gone, err, hv.ErrUnsupported)
	}
}
