package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// endsWithin bounds what must not hang. It measures nothing.
const endsWithin = 60 * time.Second

// fullPipe returns the end of a pipe that takes nothing: its reader reads nothing.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	fd := int(w.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{4096, 1} {
		for err = nil; err == nil; {
			_, err = unix.Write(fd, make([]byte, n))
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	return w
}

// silentDaemon returns a URI at which a daemon takes connections and answers so many
// bytes of nothing to each.
func silentDaemon(t *testing.T, says []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() })
			_, _ = c.Write(says)
		}
	}()
	return "qemu+unix:///system?socket=" + path
}

// signalled is a snap that is told to end once it is ready to be.
type signalled struct {
	cmd  *exec.Cmd
	done chan error
}

// startSignalled starts one. It has a runtime folder of its own.
func startSignalled(t *testing.T, stdout, stderr io.Writer, args ...string) *signalled {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	s := &signalled{cmd: exec.Command(bin, args...), done: make(chan error, 1)}
	s.cmd.Stdout, s.cmd.Stderr = stdout, stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.done <- s.cmd.Wait() }()
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	return s
}

// catches waits until the program has a handler for SIGTERM, and is where it stalls.
func (s *signalled) catches(t *testing.T) {
	t.Helper()
	for until := time.Now().Add(endsWithin); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
		if err != nil || time.Now().After(until) {
			t.Fatalf("snap has no handler for signals (%v)", err)
		}
		_, rest, _ := strings.Cut(string(b), "SigCgt:\t")
		var caught uint64
		if _, err := fmt.Sscanf(rest, "%x", &caught); err == nil && caught&(1<<(unix.SIGTERM-1)) != 0 {
			break
		}
	}
	time.Sleep(500 * time.Millisecond)
}

// ends waits for the program, and returns its exit code.
func (s *signalled) ends(t *testing.T) int {
	t.Helper()
	select {
	case err := <-s.done:
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return exit.ExitCode()
		}
		if err != nil {
			t.Fatal(err)
		}
		return 0
	case <-time.After(endsWithin):
		t.Fatal("snap doesn't end")
		return 0
	}
}

// aDump writes a dump of the lab's guest and returns its path.
func aDump(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.dmp.zst")
	if code := startSignalled(t, nil, nil, "dump", "-c", "lab:///", "-q", "-o", path, "win10-22h2").ends(t); code != 0 {
		t.Fatalf("snap dump ended with %d", code)
	}
	return path
}

// TestStandsStill: wherever a command stands still, SIGTERM ends it with 130.
func TestStandsStill(t *testing.T) {
	const guest = "win10-22h2"
	file := aDump(t)
	full, silent, half := fullPipe(t), silentDaemon(t, nil), silentDaemon(t, []byte{0, 0, 0, 100, 0x20, 0, 0x80})
	for _, tt := range []struct {
		where  string
		stdout *os.File
		stderr *os.File
		args   []string
	}{
		{"reader", full, nil, []string{"dump", "-c", "lab:///", "-o", "-", guest}},
		{"reader", full, nil, []string{"dump", "-c", "lab:///", "-o", "-", "--compress", "none", guest}},
		{"reader", full, nil, []string{"convert", file, "-o", "-"}},
		{"reader", full, nil, []string{"expand", file, "-o", "-"}},
		{"reader", full, nil, []string{"header", "-c", "lab:///", guest, "-o", "-"}},
		{"reader", full, nil, []string{"list", "-c", "lab:///"}},
		{"reader", full, nil, []string{"list", "-c", "lab:///", "--json"}},
		{"reader", full, nil, []string{"check", "-c", "lab:///", guest}},
		{"reader", full, nil, []string{"info", file}},
		{"reader", full, nil, []string{"verify", file}},
		{"reader", full, nil, []string{"version"}},
		{"both readers", full, full, []string{"info", file}},
		{"both readers", full, full, []string{"dump", "-v", "-c", "lab:///", "-o", "-", guest}},
		{"daemon", nil, nil, []string{"list", "-c", silent}},
		{"daemon", nil, nil, []string{"check", "-c", silent, guest}},
		{"daemon", nil, nil, []string{"header", "-c", silent, guest, "-o", "/dev/null"}},
		{"daemon", nil, nil, []string{"dump", "-c", silent, guest}},
		{"daemon", nil, nil, []string{"recover", "-c", silent}},
		{"daemon and reader", nil, full, []string{"list", "-v", "-c", silent}},
		{"daemon, in a message", nil, nil, []string{"list", "-c", half}},
		{"daemon, in a message", nil, nil, []string{"dump", "-c", half, guest}},
	} {
		t.Run(tt.where+", "+tt.args[0], func(t *testing.T) {
			t.Parallel()
			var said bytes.Buffer
			var stdout, stderr io.Writer = tt.stdout, tt.stderr
			if tt.stdout == nil {
				stdout = nil
			}
			if tt.stderr == nil {
				stderr = &said
			}
			s := startSignalled(t, stdout, stderr, tt.args...)
			s.catches(t)
			if err := s.cmd.Process.Signal(unix.SIGTERM); err != nil {
				t.Fatalf("snap ended before the signal (%v): %s", err, said.String())
			}
			if code := s.ends(t); code != exitInterrupted {
				t.Errorf("%v ended with %d; want %d\n%s", tt.args, code, exitInterrupted, said.String())
			}
		})
	}
}

// TestStandsStillTimeout: so does --timeout end a dump.
func TestStandsStillTimeout(t *testing.T) {
	t.Parallel()
	var said bytes.Buffer
	s := startSignalled(t, fullPipe(t), &said, "dump", "-c", "lab:///", "--timeout", "1s", "--log-format", "console", "-o", "-", "win10-22h2")
	if code := s.ends(t); code != exitFailed || !strings.Contains(said.String(), "--timeout") {
		t.Errorf("snap ended with %d; want %d and --timeout as the next step\n%s", code, exitFailed, said.String())
	}
}

// TestNobodyReadsMessages: nothing that is done waits for a reader of messages.
func TestNobodyReadsMessages(t *testing.T) {
	t.Parallel()
	file := aDump(t)
	path := filepath.Join(t.TempDir(), "out.dmp.zst")
	for _, tt := range []struct {
		code int
		args []string
	}{
		{exitOK, []string{"dump", "-v", "-c", "lab:///", "-o", path, "win10-22h2"}},
		{exitOK, []string{"verify", file}},
		{exitFailed, []string{"info", "/nonexistent"}},
		{exitUsage, []string{"no-such-command"}},
		{exitNoDomain, []string{"check", "-c", "lab:///", "nobody"}},
	} {
		if code := startSignalled(t, nil, fullPipe(t), tt.args...).ends(t); code != tt.code {
			t.Errorf("%v with nobody to read its messages ended with %d; want %d", tt.args, code, tt.code)
		}
	}
	if code := startSignalled(t, nil, nil, "verify", path).ends(t); code != exitOK {
		t.Errorf("the dump is not whole: verify ended with %d", code)
	}
}

// TestDaemonNoAnswer: a daemon that doesn't answer is told as that, with what to do,
// in a bounded time.
func TestDaemonNoAnswer(t *testing.T) {
	for _, args := range [][]string{{"list"}, {"check", "x"}, {"dump", "x"}, {"recover"}} {
		t.Run(args[0], func(t *testing.T) {
			t.Parallel()
			var said bytes.Buffer
			s := startSignalled(t, nil, &said, append(args, "-c", silentDaemon(t, nil), "--log-format", "console")...)
			code := s.ends(t)
			if text := said.String(); code != exitFailed || !strings.Contains(text, "no answer within") || !strings.Contains(text, "\nnext: ") {
				t.Errorf("%v ended with %d; want %d, no answer, and what to do\n%s", args, code, exitFailed, text)
			}
		})
	}
	t.Run("completion", func(t *testing.T) {
		t.Parallel()
		if code := startSignalled(t, nil, nil, "__complete", "dump", "-c", silentDaemon(t, nil), "").ends(t); code != exitOK {
			t.Errorf("completion ended with %d; want %d", code, exitOK)
		}
	})
}

// TestSecondSignal: where the first signal doesn't end snap, the second one does. Here
// the kernel makes it wait: it has opened a FIFO that nobody writes to.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, second := range []os.Signal{unix.SIGTERM, unix.SIGINT} {
		s := startSignalled(t, nil, fullPipe(t), "info", fifo)
		s.catches(t)
		for _, sig := range []os.Signal{unix.SIGTERM, second} {
			if err := s.cmd.Process.Signal(sig); err != nil {
				break // it needed no second one
			}
			time.Sleep(200 * time.Millisecond)
		}
		if code := s.ends(t); code != exitInterrupted {
			t.Errorf("SIGTERM and %v ended snap with %d; want %d", second, code, exitInterrupted)
		}
	}
}

// TestLogStalls: a log that takes nothing keeps a guardian from nothing, and one that
// does has the line before it goes on.
func TestLogStalls(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	done := make(chan struct{})
	go func() {
		within(time.Millisecond, func(string) { <-stuck })("a line")
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(endsWithin):
		t.Fatal("it waits for the log")
	}
	got := ""
	within(endsWithin, func(text string) { got = text })("a line")
	if got != "a line" {
		t.Errorf("the log has %q; want the line", got)
	}
}
