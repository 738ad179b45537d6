package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/capture"
	"snap/cmd/snap/internal/limits"
)

// TestPriorities has snap write to a pipe that nobody reads, and looks at its threads
// meanwhile: the guest isn't held still any more.
func TestPriorities(t *testing.T) {
	const (
		bestEffort7 = 2<<13 | 7 // ioprio_set(2)
		idle        = 3 << 13
	)
	for _, tt := range []struct {
		args   []string
		nice   int
		ioprio int
	}{
		{nil, 10, bestEffort7},
		{[]string{"--nice", "12", "--ionice", "idle"}, 12, idle},
		{[]string{"--ionice", "normal"}, 10, 0},
	} {
		t.Run(fmt.Sprint(tt.args), func(t *testing.T) {
			t.Parallel()
			cmd := snapCommand(t, append([]string{"dump", "win10-22h2", "-q", "--compress", "none", "-o", "-"}, tt.args...)...)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			niceness := max(tt.nice, startUnranked(t, cmd))
			if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
				t.Errorf("snap wrote nothing: %v", err)
			}
			tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", cmd.Process.Pid))
			if err != nil || len(tasks) == 0 {
				t.Errorf("snap has %d threads: %v", len(tasks), err)
			}
			for _, task := range tasks {
				tid, err := strconv.Atoi(task.Name())
				if err != nil {
					t.Fatal(err)
				}
				raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
				ioprio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(tid), 0) // IOPRIO_WHO_PROCESS
				if err != nil || errno != 0 {
					t.Errorf("look at thread %d: %v, %v", tid, err, errno)
				}
				if 20-raw != niceness || int(ioprio) != tt.ioprio {
					t.Errorf("a thread has nice value %d and I/O priority %#x; want %d and %#x", 20-raw, ioprio, niceness, tt.ioprio)
				}
			}
			adj, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid))
			if got := strings.TrimSpace(string(adj)); err != nil || got != "1000" {
				t.Errorf("oom_score_adj of snap, which has a copy of the guest, is %s, %v; want 1000", got, err)
			}
			_ = out.Close() // snap's next write fails
			if err := cmd.Wait(); err == nil {
				t.Error("snap succeeded in writing to a pipe that was closed")
			}
		})
	}
}

// startUnranked starts cmd without an I/O priority, whatever other tests have given
// this process, and returns the nice value that it starts with.
func startUnranked(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	var nice int
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and end with it
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, 1, 0, 0); errno != 0 {
			err = errno
			return
		}
		var raw int
		if raw, err = unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil {
			nice, err = 20-raw, cmd.Start()
		}
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	return nice
}

// TestProcessors: what --cpus allows holds but for what is copied during a pause.
func TestProcessors(t *testing.T) {
	all := runtime.GOMAXPROCS(0)
	t.Cleanup(runtime.SetDefaultGOMAXPROCS)
	switch {
	case all < 2 && testing.Short():
		t.Skip("one processor is all there is")
	case all < 2:
		t.Fatal("one processor is all there is: few can't be told from all")
	}
	for cpus, few := range []int{all, 1} {
		f := dumpFlags{file: fileFlags{cpus: cpus}}
		for _, tt := range []struct {
			e    capture.Event
			want int
		}{
			{capture.Event{Phase: capture.PhaseLook}, few},
			{capture.Event{Phase: capture.PhaseEstimate}, all},
			{capture.Event{Phase: capture.PhaseReserve}, few},
			{capture.Event{Phase: capture.PhasePaused, Held: true}, all},
			{capture.Event{Phase: capture.PhaseRunning}, few},
			{capture.Event{Phase: capture.PhasePaused, Held: true}, all},
			{capture.Event{Phase: capture.PhaseWrite, Held: true}, few},
			{capture.Event{Phase: capture.PhaseVerify}, few},
		} {
			f.processors(tt.e)
			if got := runtime.GOMAXPROCS(0); got != tt.want {
				t.Errorf("--cpus %d: %d processors in phase %s, held %v; want %d", cpus, got, tt.e.Phase, tt.e.Held, tt.want)
			}
		}
	}
}

// TestSpoolIsBounded: a spool of any size leaves the host some of its memory, and that
// is said.
func TestSpoolIsBounded(t *testing.T) {
	for size, bounded := range map[string]bool{"4M": false, "900T": true} {
		var log bytes.Buffer
		o := capture.Options{Log: slog.New(slog.NewTextHandler(&log, nil))}
		f := pauseFlags{maxPause: time.Second, spool: size}
		if err := f.apply(&o); err != nil {
			t.Fatalf("--spool %s: %v", size, err)
		}
		available, err := limits.Available(os.DirFS("/"))
		if err != nil {
			t.Fatal(err)
		}
		if o.MemoryCopy == 0 || o.MemoryCopy >= available || (o.MemoryCopy != 4<<20) != bounded {
			t.Errorf("--spool %s is %d bytes of %d that are available", size, o.MemoryCopy, available)
		}
		if told := strings.Contains(log.String(), "--spool "+size+": the host has"); told != bounded {
			t.Errorf("--spool %s is told of: %v; want %v: %s", size, told, bounded, log.String())
		}
	}
}
