package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/internal/lab/labtest"
	"snap/internal/ntlab/boot"
)

// TestAccelerate: which accelerator and which connection a guest has.
func TestAccelerate(t *testing.T) {
	here, words := Accelerator()
	t.Logf("accelerator: %s", words)
	kvm := map[Accel]error{TCG: errNoKVM}[here]
	kind := map[Accel]Kind{TCG: System, KVM: OwnKVM}[here]
	mode := map[Accel]boot.Mode{TCG: boot.Paced, KVM: boot.Busy}[here]
	other := errors.New("another error")
	tests := []struct {
		spec, want Spec
		err        error
	}{
		{Spec{}, Spec{Accel: TCG, Connect: System}, nil},
		{Spec{Connect: Session}, Spec{Accel: TCG, Connect: Session}, nil},
		{Spec{Accel: TCG, Connect: Private}, Spec{Accel: TCG, Connect: Private}, nil},
		{Spec{Accel: WhereKVM}, Spec{Accel: here, Connect: kind, Mode: mode}, nil},
		{Spec{Accel: WhereKVM, Mode: boot.Idle}, Spec{Accel: here, Connect: kind, Mode: boot.Idle}, nil},
		{Spec{Accel: KVM}, Spec{Accel: KVM, Connect: OwnKVM, Mode: boot.Busy}, kvm},
		{Spec{Accel: KVM, Connect: System}, Spec{}, other},
		{Spec{Accel: TCG, Connect: OwnKVM}, Spec{}, other},
		{Spec{Accel: "hvf"}, Spec{}, other},
	}
	for _, tt := range tests {
		s := tt.spec
		s.Name = "accel"
		err := s.complete()
		if (err == nil) != (tt.err == nil) || errors.Is(tt.err, errNoKVM) && !errors.Is(err, errNoKVM) {
			t.Errorf("complete(%q on %q) = %v; want %v", tt.spec.Accel, tt.spec.Connect, err, tt.err)
		}
		if err == nil && (s.Accel != tt.want.Accel || s.Connect != tt.want.Connect || s.Mode != tt.want.Mode) {
			t.Errorf("complete(%q on %q): accelerator %s on %s, mode %d; want %s on %s, mode %d", tt.spec.Accel, tt.spec.Connect,
				s.Accel, s.Connect, s.Mode, tt.want.Accel, tt.want.Connect, tt.want.Mode)
		}
	}
}

// TestHangs: a daemon that takes a call and never answers doesn't hold the lab up for
// longer than it bears, and the error says which call it was.
func TestHangs(t *testing.T) {
	c := &Connection{Kind: Session, state: t.TempDir()}
	ctx, cancel := bounded(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := output(ctx, c.Command(ctx, "sleep", "600"))
	if !errors.Is(err, errHangs) || !strings.Contains(err.Error(), "sleep 600") {
		t.Errorf("a command that doesn't end: %v; want %v and the command", err, errHangs)
	}
	// Whoever gives up has another reason.
	ctx, give := context.WithCancel(t.Context())
	give()
	if _, err := output(ctx, c.Command(ctx, "sleep", "600")); !errors.Is(err, context.Canceled) || errors.Is(err, errHangs) {
		t.Errorf("a command that was given up: %v; want %v", err, context.Canceled)
	}
	p := c.Command(t.Context(), "sleep", "600")
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(p.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := ended(fd, 20*time.Millisecond); !errors.Is(err, errHangs) {
		t.Errorf("ended(a process that runs) = %v; want %v", err, errHangs)
	}
	_ = p.Process.Kill()
	if err := ended(fd, time.Minute); err != nil {
		t.Errorf("ended(a process that was killed) = %v; want no error", err)
	}
	_ = p.Wait()
	_ = unix.Close(fd)
}

// TestKVMWorks: what isn't KVM is told from it, and it is said why.
func TestKVMWorks(t *testing.T) {
	none := filepath.Join(t.TempDir(), "kvm")
	for _, tt := range []struct{ path, want string }{
		{none, "no such file"},
		{os.DevNull, "KVM_GET_API_VERSION: inappropriate ioctl"},
	} {
		if err := kvmWorks(tt.path); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("kvmWorks(%s) = %v; want an error with %q", tt.path, err, tt.want)
		}
	}
}

// TestKVM boots a guest under KVM where that works, beside what else is tested, and
// holds all of its memory, and its processors, against what was built. The device
// that other daemons see stays as it is.
func TestKVM(t *testing.T) {
	labtest.NeedsDaemons(t)
	before, errBefore := os.Stat(kvmDevice)
	wait := UpBeside(t.Context(), Spec{
		Name: "lab-kvm", Accel: WhereKVM, Mode: boot.Busy, MemoryMiB: 64, CPUs: 2, FillMiB: 2, Seed: 13,
	})
	t.Cleanup(func() {
		if g, err := wait(); err == nil {
			if err := g.Down(); err != nil {
				t.Errorf("Down() = %v; want no error", err)
			}
		}
		after, errAfter := os.Stat(kvmDevice)
		if (errBefore == nil) != (errAfter == nil) || errAfter == nil && changed(before, after) {
			t.Errorf("%s was %v and is %v", kvmDevice, before, after)
		}
	})
	t.Parallel()
	ctx := within(t, 5*time.Minute)
	g, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("accelerator: %s", g.Spec.Accel)
	checkRuns(ctx, t, g)
	if _, err := g.Virsh(ctx, "suspend", g.Name); err != nil {
		t.Fatal(err)
	}
	c := dumpCore(ctx, t, g)
	checkProcessors(t, g, c)
	checkMemory(ctx, t, g, c)
	checkTime(ctx, t, g, c)
	if got, err := boot.CheckChains(ctx, c, g.Boot.Chains); err != nil || !got.OnePoint || got.Smear != 0 {
		t.Errorf("CheckChains(core of a paused guest) = %+v, %v; want one point in time", got, err)
	}
}

// changed reports whether a device has another mode or owner, or was changed and
// changed back.
func changed(a, b os.FileInfo) bool {
	x, y := a.Sys().(*syscall.Stat_t), b.Sys().(*syscall.Stat_t)
	return x.Mode != y.Mode || x.Uid != y.Uid || x.Gid != y.Gid || x.Ctim != y.Ctim
}

// TestNode: a device of the lab's is that of the host for whom it belongs to, and
// isn't touched when it is there already.
func TestNode(t *testing.T) {
	var host unix.Stat_t
	if err := unix.Stat(kvmDevice, &host); err != nil || os.Geteuid() != 0 {
		t.Logf("no device to make, or no right to: %v", err)
		return
	}
	n := &node{filepath.Join(t.TempDir(), "kvm"), 1, 2, 0o640}
	var first, second unix.Stat_t
	if err := errors.Join(n.make(), unix.Stat(n.path, &first), n.make(), unix.Stat(n.path, &second)); err != nil {
		t.Fatal(err)
	}
	if first.Mode != unix.S_IFCHR|0o640 || first.Uid != 1 || first.Gid != 2 || first.Rdev != host.Rdev {
		t.Errorf("the node has mode %#o, owner %d:%d, device %#x; want %#o, 1:2, %#x", first.Mode, first.Uid, first.Gid, first.Rdev, unix.S_IFCHR|0o640, host.Rdev)
	}
	if first != second {
		t.Errorf("the node was changed from %+v to %+v", first, second)
	}
}
