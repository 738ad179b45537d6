package guardian

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
)

// newGate opens a gate that ends with the test.
func newGate(t *testing.T) *gate {
	t.Helper()
	g, err := openGate(t.Context(), []string{"snap", roleGate})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Shut(); g.Free() })
	return g
}

// within waits for what must happen.
func within(t *testing.T, what string, is <-chan struct{}) {
	t.Helper()
	select {
	case <-is:
	case <-time.After(time.Minute):
		t.Fatalf("%s doesn't happen", what)
	}
}

// dumpInto opens a gate's path, as libvirt does it, and writes to it until it fails.
func dumpInto(path string) (failed chan error, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_TRUNC, 0)
	if err != nil {
		return nil, err
	}
	failed = make(chan error, 1)
	go func() {
		defer f.Close()
		for {
			if _, err := f.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
	}()
	return failed, nil
}

// wantBroken demands that the pipe is closed, soon if not yet.
func wantBroken(t *testing.T, failed chan error) {
	t.Helper()
	select {
	case err := <-failed:
		if !errors.Is(err, unix.EPIPE) {
			t.Errorf("writing to the pipe failed: %v; want %v", err, unix.EPIPE)
		}
	case <-time.After(time.Minute):
		t.Fatal("the pipe stays open")
	}
}

// wantNowhere demands that a path can't be opened, not even to be made.
func wantNowhere(t *testing.T, path string) {
	t.Helper()
	for _, flags := range []int{os.O_WRONLY | unix.O_TRUNC, os.O_WRONLY | os.O_CREATE | unix.O_TRUNC} {
		f, err := os.OpenFile(path, flags, 0o600)
		if err == nil {
			f.Close()
			t.Errorf("%s can still be opened", path)
		}
	}
}

// TestGate: a writer waits at it until it is shut; its path leads to the pipe until
// somebody has written.
func TestGate(t *testing.T) {
	g := newGate(t)
	if err := g.Arm(time.Time{}); err != nil {
		t.Fatal(err)
	}
	var pid, tid, fd int
	if n, err := fmt.Sscanf(g.Path(), "/proc/%d/task/%d/fd/%d", &pid, &tid, &fd); n != 3 || err != nil || pid == tid || fd < lowestGateFD {
		t.Errorf("the path is %s; want one of a thread that isn't the first, and of a descriptor from %d on", g.Path(), lowestGateFD)
	}
	select {
	case <-g.Written():
		t.Error("a new gate says that it was written to")
	case <-g.Closed():
		t.Fatal("a new gate is closed")
	default:
	}
	failed, err := dumpInto(g.Path())
	if err != nil {
		t.Fatal(err)
	}
	within(t, "that it is written to", g.Written())
	wantNowhere(t, g.Path())
	select {
	case err := <-failed:
		t.Fatalf("the writer doesn't wait: %v", err)
	default:
	}
	if err := g.Overdue(); err != nil {
		t.Errorf("Overdue() of an open gate = %v; want none", err)
	}
	g.Shut()
	wantBroken(t, failed)
	within(t, "that it is closed", g.Closed())
	if err := g.Overdue(); err != nil {
		t.Errorf("Overdue() of a gate that was shut = %v; want none", err)
	}
}

// TestGateKeepsItsNumber: the number in a closed gate's path is given to no other
// process before Free.
func TestGateKeepsItsNumber(t *testing.T) {
	g := newGate(t)
	pid := g.process.Pid
	g.Shut()
	wantNowhere(t, g.Path())
	if state, _, err := stat(pid); state != 'Z' || err != nil {
		t.Errorf("process %d is in state %q (%v) before Free; want Z", pid, state, err)
	}
	g.Free()
	for {
		if _, _, err := stat(pid); errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// TestGateOverdue: a gate closes when its time is up, and says for how long it was
// open; and when it is killed.
func TestGateOverdue(t *testing.T) {
	t.Run("time", func(t *testing.T) {
		t.Parallel()
		g := newGate(t)
		before := time.Now()
		until := before.Add(100 * time.Millisecond)
		if err := g.Arm(until); err != nil {
			t.Fatal(err)
		}
		armed := time.Now()
		within(t, "that it is closed", g.Closed())
		e, ok := errors.AsType[*hv.OverdueError](g.Overdue())
		least, most := until.Add(gateGrace).Sub(armed), until.Add(gateGrace).Sub(before)
		if !ok || e.Held < least || e.Held > most || !strings.Contains(e.Why, "at most") {
			t.Errorf("Overdue() = %v; want that it was open for %v to %v", e, least, most)
		}
		g.Shut()
		if err := g.Overdue(); !errors.Is(err, hv.ErrOverdue) {
			t.Errorf("Overdue() after a late Shut() = %v; want %v", err, hv.ErrOverdue)
		}
	})
	t.Run("killed", func(t *testing.T) {
		t.Parallel()
		g := newGate(t)
		if err := errors.Join(g.Arm(time.Time{}), unix.Kill(g.process.Pid, unix.SIGKILL)); err != nil {
			t.Fatal(err)
		}
		within(t, "that it is closed", g.Closed())
		if err := g.Overdue(); !errors.Is(err, hv.ErrOverdue) || !strings.Contains(err.Error(), "killed") {
			t.Errorf("Overdue() = %v; want %v, as it was killed", err, hv.ErrOverdue)
		}
	})
	t.Run("progress", func(t *testing.T) {
		t.Parallel()
		g := newGate(t)
		// As Arm, with no more patience than gateGrace.
		if err := g.say(gateMessage{Arm: true, Patience: 2 * time.Second}); err != nil {
			t.Fatal(err)
		}
		if _, err := g.reply(t.Context()); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); time.Since(began) < 3*time.Second; time.Sleep(50 * time.Millisecond) {
			g.Progressed()
		}
		select {
		case <-g.Closed():
			t.Error("the gate closed in spite of progress")
		default:
		}
		within(t, "that it is closed without progress", g.Closed())
	})
}

// TestGateEnds: whatever becomes of the processes, the pipe is closed: by the
// kernel alone.
func TestGateEnds(t *testing.T) {
	kill := func(pids ...int) {
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	stop := func(t *testing.T, pids ...int) {
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name   string
		during string // of the gate
		do     func(t *testing.T, owner, gate int)
	}{
		{"the owner is killed", "0s", func(_ *testing.T, owner, _ int) { kill(owner) }},
		{"the owner is killed, the gate stopped", "0s", func(t *testing.T, owner, gate int) { stop(t, gate); kill(owner) }},
		{"the owner is stopped", "1s", func(t *testing.T, owner, _ int) { stop(t, owner) }},
		{"both are stopped", "1s", func(t *testing.T, owner, gate int) { stop(t, owner, gate) }},
		{"both are frozen", "1s", func(t *testing.T, owner, gate int) { freeze(t, owner, gate) }},
		{"both are killed", "0s", func(_ *testing.T, owner, gate int) { kill(owner, gate) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			owner, path := startOwner(t, tt.during)
			var gate int
			if _, err := fmt.Sscanf(path, "/proc/%d/", &gate); err != nil {
				t.Fatal(err)
			}
			failed, err := dumpInto(path)
			if err != nil {
				t.Fatal(err)
			}
			tt.do(t, owner, gate)
			wantBroken(t, failed)
			wantNowhere(t, path)
		})
	}
}

// startOwner starts a process that has a gate.
func startOwner(t *testing.T, during string) (pid int, path string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", roleOwner, during)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	path, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid, strings.TrimSpace(path)
}

// freeze has a control group of version 2 freeze the processes until the test ends.
// Only root may: others stop them.
func freeze(t *testing.T, pids ...int) {
	t.Helper()
	if os.Geteuid() != 0 {
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	dir, err := os.MkdirTemp(cgroup2(t), "snap-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0o600)
		for range 100 { // until they are gone
			if os.Remove(dir) == nil {
				return
			}
			for _, pid := range pids {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%s can't be removed", dir)
	})
	for _, pid := range pids {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// cgroup2 returns where control groups of version 2 are mounted.
func cgroup2(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		left, right, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(right, "cgroup2 ") {
			return strings.Fields(left)[4]
		}
	}
	t.Fatal("no control groups of version 2 are mounted: mount -t cgroup2 none /sys/fs/cgroup")
	return ""
}

// TestLeaveCgroup: the gate isn't in its owner's control group any more.
func TestLeaveCgroup(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root may leave one
	}
	dir, err := os.MkdirTemp(cgroup2(t), "snap-test-")
	if err != nil {
		t.Fatal(err)
	}
	group, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `echo $$ > "$1"/cgroup.procs && shift && exec "$@"`, "sh", dir, "/proc/"+strconv.Itoa(os.Getpid())+"/exe", roleOwner, "0s")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}()
	path, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var gate int
	if _, err := fmt.Sscanf(path, "/proc/%d/", &gate); err != nil {
		t.Fatal(err)
	}
	for pid, want := range map[int]string{cmd.Process.Pid: "/" + filepath.Base(dir), gate: "/"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), "\n0::"+want+"\n") && !strings.HasPrefix(string(b), "0::"+want+"\n") {
			t.Errorf("process %d is in %q; want it in %s of version 2", pid, b, want)
		}
	}
}

// TestFreezes knows the control groups that are left.
func TestFreezes(t *testing.T) {
	const own1 = "12:freezer:/unit\n3:cpu,cpuacct:/unit\n1:name=systemd:/unit\n0::/unit\n"
	for _, tt := range []struct{ mount, own, want string }{
		{"29 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate", "0::/system.slice/backup.service\n", "/sys/fs/cgroup"},
		{"29 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate", "0::/\n", ""},
		{"30 1 0:27 / /sys/fs/cgroup/freezer rw,nosuid shared:9 - cgroup cgroup rw,freezer", own1, "/sys/fs/cgroup/freezer"},
		{"31 1 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd", own1, "/sys/fs/cgroup/systemd"},
		{"32 1 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct", own1, ""},
		{"33 1 0:30 / / rw - ext4 /dev/vda rw", own1, ""},
		{"", own1, ""},
		{"33 1 - cgroup2", own1, ""},
	} {
		if got := freezes(tt.mount, tt.own); got != tt.want {
			t.Errorf("freezes(%q, %q) = %q; want %q", tt.mount, tt.own, got, tt.want)
		}
	}
}

// TestGateRefused: without a process there is no gate.
func TestGateRefused(t *testing.T) {
	if g, err := openGate(t.Context(), []string{"snap", "-test.run", "^$"}); err == nil {
		g.Shut()
		t.Error("openGate() of a program that is none = no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if g, err := openGate(ctx, []string{"snap", roleGate}); !errors.Is(err, context.Canceled) {
		if err == nil {
			g.Shut()
		}
		t.Errorf("openGate() in vain = %v; want %v", err, context.Canceled)
	}
}
