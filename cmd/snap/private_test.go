package main

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNoCoreDump: a snap that crashes in the middle of a dump leaves no core dump, which
// would hold pages of the guest, even where the limits allow one.
func TestNoCoreDump(t *testing.T) {
	t.Parallel()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"dump", "-c", "lab:///", "--compress", "none", "-o", "-", "win10-22h2"}, {"convert", aDump(t), "-o", "-"}} {
		dir := t.TempDir()
		// The runtime raises SIGABRT as C programs do when they crash.
		cmd := exec.Command("/bin/sh", append([]string{"-c", `ulimit -c unlimited; exec "$@"`, "sh", bin}, args...)...)
		cmd.Dir, cmd.Env, cmd.Stdout = dir, append(os.Environ(), "GOTRACEBACK=crash"), fullPipe(t)
		s := &signalled{cmd: cmd, done: make(chan error, 1)}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { s.done <- cmd.Wait() }()
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		s.catches(t)
		if err := cmd.Process.Signal(unix.SIGQUIT); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-s.done:
			exit, ok := errors.AsType[*exec.ExitError](err)
			if !ok {
				t.Fatalf("%v ended with %v; want a crash", args, err)
			}
			status := exit.Sys().(interface{ CoreDump() bool })
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || status.CoreDump() {
				t.Errorf("%v: a core dump was made: %v, files %v (%v); want none", args, status.CoreDump(), left, err)
			}
			if exit.ExitCode() != -1 {
				t.Errorf("%v exited with %d; want it to be ended by a signal", args, exit.ExitCode())
			}
		case <-time.After(endsWithin):
			t.Fatal("snap doesn't crash")
		}
	}
}
