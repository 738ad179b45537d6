package guardian

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

// apart starts cat as the first process of a PID namespace, as a container does, and
// returns it as it would name itself.
func apart(t *testing.T) (p Process, end func()) {
	t.Helper()
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			in.Close()
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(end)
	if p, err = Self(); err != nil {
		t.Fatal(err)
	}
	if _, p.Start, err = stat(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if p.Namespace, err = namespaceOf(strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	p.PID = 1
	return p, end
}

// TestAliveInContainer: a snap in a container of this host is found by whoever sees
// it, whatever its host is called there, and is alive to whoever doesn't.
func TestAliveInContainer(t *testing.T) {
	h, err := here()
	if err != nil {
		t.Fatal(err)
	}
	p, end := apart(t)
	p.Host = "3f2a77c0ffee"
	first, other := h, h
	first.namespace, other.namespace = firstNamespace, p.Namespace+1
	if h.namespace == p.Namespace {
		t.Fatalf("it is in the namespace %d, as this process is", h.namespace)
	}
	if !p.aliveSeenFrom(first) || !p.aliveSeenFrom(other) {
		t.Errorf("a process that runs is alive: %v seen from the host, %v from another container; want both", p.aliveSeenFrom(first), p.aliveSeenFrom(other))
	}
	for what, change := range map[string]func(*Process){
		"another number":     func(p *Process) { p.PID = 2 },
		"another start time": func(p *Process) { p.Start-- },
	} {
		q := p
		change(&q)
		if q.aliveSeenFrom(first) {
			t.Errorf("a process of %s is alive seen from the host", what)
		}
	}
	end()
	if p.aliveSeenFrom(first) || !p.aliveSeenFrom(other) {
		t.Errorf("a process that ended is alive: %v seen from the host, %v from another container; want only where it can't be told", p.aliveSeenFrom(first), p.aliveSeenFrom(other))
	}
}

// TestAliveElsewhere: the boot tells whether a host is this one, and a name whether it
// is the one that was rebooted.
func TestAliveElsewhere(t *testing.T) {
	const other = "00000000-0000-0000-0000-000000000000"
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		host, boot string
		pid        int
		want       bool
	}{
		{"this process", self.Host, self.Boot, self.PID, true},
		{"this process, of a host that was renamed", "renamed", self.Boot, self.PID, true},
		{"no process, of a host that was renamed", "renamed", self.Boot, 1 << 30, false},
		{"of before the reboot", self.Host, other, self.PID, false},
		{"of another host", "elsewhere", other, self.PID, true},
	} {
		p := self
		p.Host, p.Boot, p.PID = tt.host, tt.boot, tt.pid
		if got := p.Alive(); got != tt.want {
			t.Errorf("Alive() of %s = %v; want %v", tt.name, got, tt.want)
		}
	}
}
