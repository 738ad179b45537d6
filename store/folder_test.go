package store

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// names lists a folder.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// someGuardian has files have a name before they are whole.
type someGuardian struct{}

func (someGuardian) Token() string          { return rand.Text() }
func (someGuardian) Expect(...string) error { return nil }

// begin is Create of the file at path, with a guardian.
func begin(t *testing.T, path string, force bool) (*pending, error) {
	t.Helper()
	dir, name := filepath.Split(path)
	f, err := newFolder(dir, Options{Force: force, Guardian: someGuardian{}}).Create(t.Context(), name)
	if err != nil {
		return nil, err
	}
	return f.(*pending), nil
}

func create(t *testing.T, path string, force bool) *pending {
	t.Helper()
	p, err := begin(t, path, force)
	if err != nil {
		t.Fatalf("Create(%s) failed: %v", path, err)
	}
	if _, err := io.WriteString(p, "new"); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.dmp")
	p := create(t, path, false)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before Commit the name is taken: %v", err)
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 || !strings.HasPrefix(got[0], "a.dmp"+partialInfix) || filepath.Base(p.f.Name()) != got[0] {
		t.Errorf("files before Commit = %q; want one that begins with a.dmp%s", got, partialInfix)
	}
	fi, err := p.f.Stat()
	if err != nil || fi.Mode() != 0o600 {
		t.Errorf("mode = %v, %v; want 0600", fi.Mode(), err)
	}
	if err := p.Commit(t.Context()); err != nil {
		t.Fatalf("Commit failed: %v", err)
	}
	if got := content(t, path); got != "new" {
		t.Errorf("content = %q; want new", got)
	}
	if err := p.Abort(); err != nil {
		t.Errorf("Abort after Commit = %v; want nil", err)
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("files after Commit = %q; want only the dump", got)
	}
	if err := p.Commit(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Commit = %v; want ErrClosed", err)
	}
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	p := create(t, filepath.Join(dir, "a.dmp"), false)
	for range 2 {
		if err := p.Abort(); err != nil {
			t.Errorf("Abort failed: %v", err)
		}
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("files after Abort = %q; want none", got)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	old := filepath.Join(dir, "old")
	if err := os.WriteFile(old, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		path  string
		force bool
		want  error
	}{
		{old, false, fs.ErrExist},
		{link, false, fs.ErrExist},
		{link, true, fs.ErrExist},
		{link, true, ErrNotRegular},
		{"/dev/null", true, fs.ErrExist},
		{"/dev/null", false, ErrNotRegular},
		{dir, true, fs.ErrExist},
		{filepath.Join(dir, "none", "a"), false, fs.ErrNotExist},
		{dir + "/", false, nil},
		{"", false, nil},
		{".", true, nil},
	}
	for _, tt := range tests {
		p, err := begin(t, tt.path, tt.force)
		if err == nil || p != nil || (tt.want != nil && !errors.Is(err, tt.want)) {
			t.Errorf("Create(%q, %v) = %v, %v; want %v", tt.path, tt.force, p, err, tt.want)
		}
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("files = %q; want only what was there", got)
	}
}

func TestForceReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.dmp")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	p := create(t, path, true)
	if got := content(t, path); got != "old" {
		t.Errorf("before Commit = %q; want old", got)
	}
	if err := p.Commit(t.Context()); err != nil {
		t.Fatalf("Commit failed: %v", err)
	}
	if got := content(t, path); got != "new" {
		t.Errorf("after Commit = %q; want new", got)
	}
}

// TestNameTakenMeanwhile: what came to have the name while the dump was
// written stays, and the dump goes.
func TestNameTakenMeanwhile(t *testing.T) {
	for _, force := range []bool{false, true} {
		dir := t.TempDir()
		path := filepath.Join(dir, "a.dmp")
		p := create(t, path, force)
		if force { // even then, only a file is replaced
			if err := os.Symlink("elsewhere", path); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(path, []byte("theirs"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := p.Commit(t.Context()); !errors.Is(err, fs.ErrExist) {
			t.Errorf("force %v: Commit = %v; want ErrExist", force, err)
		}
		if got := names(t, dir); len(got) != 1 || got[0] != "a.dmp" {
			t.Errorf("force %v: files = %q; want only theirs", force, got)
		}
	}
}

// TestLink is the way for file systems that can't rename without replacing.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	p := create(t, filepath.Join(dir, "a.dmp"), false)
	if err := p.link(); err != nil {
		t.Fatalf("link failed: %v", err)
	}
	if got := names(t, dir); len(got) != 1 || content(t, filepath.Join(dir, "a.dmp")) != "new" {
		t.Errorf("files = %q; want only the dump", got)
	}
	if err := p.Abort(); err != nil {
		t.Errorf("Abort failed: %v", err)
	}
	p = create(t, filepath.Join(dir, "a.dmp"), true)
	if err := p.link(); !errors.Is(err, fs.ErrExist) {
		t.Errorf("link over a file = %v; want ErrExist", err)
	}
	if err := p.Abort(); err != nil {
		t.Errorf("Abort failed: %v", err)
	}
}

func TestLongNames(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	if err := create(t, path, false).Commit(t.Context()); err != nil {
		t.Errorf("Commit of a name of 255 bytes failed: %v", err)
	}
}

// TestCheckIsCreate: what Create refuses, Check refuses alike, and it leaves
// nothing.
func TestCheckIsCreate(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		folder, name string
		want         error
	}{
		{dir, "new", nil},
		{dir, "old", fs.ErrExist},
		{filepath.Join(dir, "none"), "new", fs.ErrNotExist},
		{dir, strings.Repeat("x", 256), syscall.ENAMETOOLONG},
	} {
		if err := Folder(tt.folder, Options{}).Check(t.Context(), tt.name); !errors.Is(err, tt.want) {
			t.Errorf("Check(%s) in %s = %v; want %v", tt.name, tt.folder, err, tt.want)
		}
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("files after Check = %q; want only the old one", got)
	}
}

// TestCheckOfForeignFolder: where this user may not write is known before.
func TestCheckOfForeignFolder(t *testing.T) {
	dir, err := os.MkdirTemp("", "snap-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	asNobody(t, func() {
		p := newFolder(dir, Options{}) // on this thread
		if err := p.Check(t.Context(), "new"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Check in a folder of another user = %v; want %v", err, fs.ErrPermission)
		}
		if e, ok := errors.AsType[*Error](p.Check(t.Context(), "new")); !ok || e.Path != filepath.Join(dir, "new") {
			t.Errorf("Check = %v; want an Error that names the file", e)
		}
		if _, err := p.Create(t.Context(), "new"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Create there = %v; want %v", err, fs.ErrPermission)
		}
	})
}

// asNobody calls f with the rights of an ordinary user, also if root runs the
// test.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		f()
		return
	}
	const nobody, same = 65534, ^uintptr(0)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Of this thread alone, which ends with the goroutine.
		runtime.LockOSThread()
		if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, same, nobody, same); e != 0 {
			t.Errorf("become another user: %v", e)
			return
		}
		f()
	}()
	<-done
}

// TestKeeperKnowsFirst: the guardian is told of the very name that the file then
// has, before it is there.
func TestKeeperKnowsFirst(t *testing.T) {
	dir := t.TempDir()
	k := &watchingKeeper{}
	f, err := Folder(dir, Options{Guardian: k}).Create(t.Context(), "a.dmp")
	if err != nil {
		t.Fatalf("Create failed: %v", err)
	}
	if want := filepath.Join(dir, "a.dmp.partial-tok"); k.path != want || k.there {
		t.Errorf("the guardian was told of %q, there: %v; want %q, not yet there", k.path, k.there, want)
	}
	if got := names(t, dir); len(got) != 1 || got[0] != filepath.Base(k.path) {
		t.Errorf("files = %q; want what the guardian was told of", got)
	}
	if err := f.Abort(); err != nil {
		t.Errorf("Abort failed: %v", err)
	}
}

type watchingKeeper struct {
	path  string
	there bool
}

func (k *watchingKeeper) Token() string { return "tok" }

func (k *watchingKeeper) Expect(paths ...string) error {
	k.path = paths[0]
	_, err := os.Lstat(k.path)
	k.there = err == nil
	return nil
}

// TestWriteFailed: a file of which a part is missing never gets its name.
func TestWriteFailed(t *testing.T) {
	dir := t.TempDir()
	p := create(t, filepath.Join(dir, "a.dmp"), false)
	readOnly, err := os.Open(p.f.Name())
	if err != nil {
		t.Fatal(err)
	}
	whole := p.f
	p.f = readOnly
	if _, err := io.WriteString(p, "more"); err == nil {
		t.Fatal("Write to a file that is open for reading worked; want an error")
	}
	p.f = whole
	if err := readOnly.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(p, "more"); err == nil {
		t.Error("Write after one that failed worked; want an error")
	}
	if err := p.Commit(t.Context()); err == nil {
		t.Error("Commit after a Write that failed worked; want an error")
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("files = %q; want none", got)
	}
}

// TestHolesTakeNoRoom: holes are holes on the disk, the last one too.
func TestHolesTakeNoRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.dmp")
	p := create(t, path, false)
	for range 2 {
		if err := p.WriteHole(32 << 20); err != nil {
			t.Fatalf("WriteHole failed: %v", err)
		}
	}
	if err := p.Commit(t.Context()); err != nil {
		t.Fatalf("Commit failed: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != 64<<20+3 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes take %d; want %d that take few", st.Size, st.Blocks*512, 64<<20+3)
	}
}
