package qemu

import (
	"bufio"
	"errors"
	"os/exec"
	"testing"

	"snap/hv"
)

// fakeQEMU starts a process with QEMU's arguments and returns its id.
func fakeQEMU(t *testing.T, args ...string) int {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", "echo up; read x", "qemu"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close() // ends it
		_ = cmd.Wait() // read fails then
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// TestVerifyProcess: only the process that carries the domain's UUID and the
// processors' threads is its QEMU.
func TestVerifyProcess(t *testing.T) {
	const uuid = "01020304-0506-0708-090a-0b0c0d0e0f10"
	g := New(nil, Options{Name: "guest", UUID: uuid})
	pid := fakeQEMU(t, "-name", "guest=guest", "-uuid", uuid)
	threads := func(id int) []vcpu { return []vcpu{{Index: 0, Thread: id}} }
	if err := g.verifyProcess(pid, threads(pid)); err != nil {
		t.Errorf("verifyProcess of the right process failed: %v", err)
	}
	if got, err := processOf(threads(pid)); err != nil || got != pid {
		t.Errorf("processOf = %d, %v; want %d", got, err, pid)
	}
	tests := []struct {
		name string
		pid  int
		cpus []vcpu
	}{
		{"another UUID", fakeQEMU(t, "-uuid", "11020304-0506-0708-090a-0b0c0d0e0f10"), nil},
		{"no UUID", fakeQEMU(t, "-name", uuid), nil},
		{"no value", fakeQEMU(t, "-uuid"), nil},
		{"another's thread", pid, threads(1)},
	}
	for _, tt := range tests {
		if err := g.verifyProcess(tt.pid, tt.cpus); !errors.Is(err, hv.ErrUnsupported) {
			t.Errorf("verifyProcess of a process with %s = %v; want %v", tt.name, err, hv.ErrUnsupported)
		}
	}
	for _, cpus := range [][]vcpu{nil, threads(0), threads(-1), threads(1 << 30), {{Thread: pid}, {Thread: 1}}} {
		if got, err := processOf(cpus); err == nil {
			t.Errorf("processOf(%v) = %d; want an error", cpus, got)
		}
	}
}
