package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"snap/internal/lab/labtest"
)

// TestPrivate kills the libvirtd of a guest: the guest runs on, the one that is
// started again finds it, and nothing is left in the end.
func TestPrivate(t *testing.T) {
	labtest.NeedsDaemons(t)
	g, err := Up(t.Context(), Spec{Name: fmt.Sprintf("private-%d", os.Getpid()), Connect: Private, MemoryMiB: 128, CPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	before, err := g.Heartbeats(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, by := range []unix.Signal{unix.SIGKILL, unix.SIGTERM} {
		if err := g.StopLibvirtd(by); err != nil {
			t.Errorf("StopLibvirtd(%v) = %v; want no error", by, err)
		}
		if answers(g.Socket) {
			t.Errorf("libvirtd answers after %v", by)
		}
		if err := g.StartLibvirtd(t.Context()); err != nil {
			t.Fatalf("StartLibvirtd() = %v; want no error", err)
		}
		for after := before; err == nil && after[0] == before[0]; {
			after, err = g.Heartbeats(t.Context())
		}
		if err != nil {
			t.Errorf("the guest's heartbeat after libvirtd was ended by %v: %v", by, err)
		}
	}
	if err := g.Down(); err != nil {
		t.Errorf("Down() = %v; want no error", err)
	}
	for _, path := range []string{g.User.RuntimeDir, g.Dir()} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	shared := &Connection{Kind: System}
	if err := errors.Join(shared.StopLibvirtd(unix.SIGKILL), shared.StartLibvirtd(t.Context())); !errors.Is(err, errShared) {
		t.Errorf("ending the libvirtd that all share: %v; want %v", err, errShared)
	}
}
