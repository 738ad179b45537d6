package libvirt

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestSharesProc tells a daemon that a path below /proc means the same to from others.
func TestSharesProc(t *testing.T) {
	inside := inOtherNamespace(t)
	pid := os.Getpid()
	other := otherProc(t)
	for _, tt := range []struct {
		name, proc string
		peer       int
		want       string // in the error; empty for none
	}{
		{"this process", procRoot, pid, ""},
		{"its parent", procRoot, os.Getppid(), ""},
		{"nobody that this namespace knows", procRoot, 0, "another PID namespace"},
		{"in a namespace below", procRoot, inside, "another PID namespace"},
		{"nobody any more", procRoot, 1 << 30, "no such file"},
		{"where proc is of another namespace", other, pid, "another PID namespace"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := sharesProc(tt.proc, tt.peer)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("sharesProc(%s, %d) = %v; want %q", tt.proc, tt.peer, err, tt.want)
			}
		})
	}
}

// inOtherNamespace returns a process of a PID namespace of its own, by its number here.
func inOtherNamespace(t *testing.T) int {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "3600")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	return cmd.Process.Pid
}

// otherProc looks like a /proc in which this process has another number, as that of
// a namespace above is.
func otherProc(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink("4711", filepath.Join(dir, "self")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestPeerOf: the kernel says who listens at the other end of a Unix socket, and of
// no other.
func TestPeerOf(t *testing.T) {
	for network, want := range map[string]int{"unix": os.Getpid(), "tcp": 0} {
		at := "127.0.0.1:0"
		if network == "unix" {
			at = filepath.Join(t.TempDir(), "sock")
		}
		l, err := net.Listen(network, at)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conn, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := peerOf(conn); got != want {
			t.Errorf("peerOf() over %s = %s; want %d", network, strconv.Itoa(got), want)
		}
	}
}
