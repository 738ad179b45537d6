package lab

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"snap/internal/lab/labtest"
)

// TestDaemons starts a session's daemons in a runtime folder of their own:
// they stay as long as somebody uses them, and then go.
func TestDaemons(t *testing.T) {
	labtest.NeedsDaemons(t)
	u, err := sessionUser()
	if err != nil {
		t.Fatal(err)
	}
	run, err := os.MkdirTemp("/run", "snap-lab-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(run); err != nil {
			t.Error(err)
		}
	})
	u.RuntimeDir = run
	if err := u.own(run); err != nil {
		t.Fatal(err)
	}
	open := func() *Connection {
		c := &Connection{
			Kind: Session, URI: "qemu:///session", User: u,
			Socket: filepath.Join(run, "libvirt", "libvirt-sock"), state: run,
		}
		if err := c.startDaemons(t.Context()); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := open()
	second := open()
	logd := filepath.Join(filepath.Dir(first.Socket), "virtlogd-sock")
	for i, c := range []*Connection{first, second, second} {
		if got, want := answers(c.Socket) && answers(logd), i < 2; got != want {
			t.Errorf("before Close() number %d the daemons answer: %v; want %v", i+1, got, want)
		}
		if err := c.Close(); err != nil {
			t.Errorf("Close() number %d = %v; want no error", i+1, err)
		}
	}
	for _, d := range daemons {
		if _, err := os.Stat(first.pidFile(d)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("pid file of %s is still there (%v)", d.name, err)
		}
	}
}

// TestStopDaemonSparesOthers leaves a process alone that has a daemon's
// number, but isn't it.
func TestStopDaemonSparesOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pid")
	for _, text := range []string{"1\n", "999999999\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := stopDaemon("libvirtd", path, unix.SIGTERM); err != nil {
			t.Errorf("stopDaemon(%q) = %v; want no error", text, err)
		}
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := stopDaemon("libvirtd", path, unix.SIGTERM); err == nil {
		t.Error("stopDaemon(no number) = nil; want an error")
	}
}

// TestHugepages: guests that are started at a time have 2 MiB pages each, also before
// they touch them.
func TestHugepages(t *testing.T) {
	labtest.NeedsDaemons(t) // it changes the host's settings
	const guests, each = 4, 2
	var all sync.WaitGroup
	dirs := make([]string, guests)
	for i := range dirs {
		dirs[i] = t.TempDir()
		all.Go(func() {
			if err := reserveHugepages(dirs[i], 2*each); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	// Other tests' guests may have some as well.
	if n, err := readHugepages("nr_hugepages"); err != nil || n < guests*each {
		t.Errorf("the host has %d pages of 2 MiB (%v); want %d at least", n, err, guests*each)
	}
	for _, dir := range dirs {
		if err := returnHugepages(dir); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "hugepages")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the note of what was reserved is still there (%v)", err)
		}
	}
}
