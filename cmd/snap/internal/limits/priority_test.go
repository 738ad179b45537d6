package limits

import (
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPriorities: every thread has the priorities, and so has one that is made later.
func TestPriorities(t *testing.T) {
	held := make(chan struct{})
	thread := func() {
		up := make(chan struct{})
		go func() {
			runtime.LockOSThread() // and end with it: the thread goes too
			close(up)
			<-held
		}()
		<-up
	}
	for range 4 {
		thread()
	}
	defer close(held)
	if err := SetIOClass(IONormal); err != nil {
		t.Errorf("SetIOClass(normal) = %v; want no error", err)
	}
	if got := classOf(t, os.Getpid()); got != 0 {
		t.Errorf("class of I/O after normal = %#x; want 0: none", got)
	}
	const nice = 3
	if err := Nice(nice); err != nil {
		t.Fatalf("Nice() failed: %v", err)
	}
	for _, tt := range []struct {
		set  IOClass
		want int
	}{{IOLow, 2<<13 | 7}, {IOIdle, 3 << 13}, {IOLow, 3 << 13}, {IONormal, 3 << 13}} { // ioprio_set(2)
		if err := SetIOClass(tt.set); err != nil {
			t.Fatalf("SetIOClass(%s) failed: %v", tt.set, err)
		}
		thread()
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil || len(tasks) < 5 {
			t.Fatalf("%d threads, %v; want those that were made", len(tasks), err)
		}
		for _, task := range tasks {
			tid, err := strconv.Atoi(task.Name())
			if err != nil {
				t.Fatal(err)
			}
			raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid)
			if err != nil {
				continue // it has ended
			}
			if got := classOf(t, tid); got != tt.want || 20-raw < nice {
				t.Errorf("after %s a thread has class %#x and nice value %d; want %#x and %d", tt.set, got, 20-raw, tt.want, nice)
			}
		}
	}
}

func classOf(t *testing.T, tid int) int {
	t.Helper()
	got, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
	if errno != 0 && errno != unix.ESRCH {
		t.Fatalf("ioprio_get(%d): %v", tid, errno)
	}
	return int(got)
}

func TestCPUs(t *testing.T) {
	all := runtime.GOMAXPROCS(0)
	t.Cleanup(runtime.SetDefaultGOMAXPROCS)
	for _, tt := range []struct{ n, want int }{{1, 1}, {0, all}, {1, 1}, {all + 5, all}} {
		if got := CPUs(tt.n); got != tt.want || runtime.GOMAXPROCS(0) != tt.want {
			t.Errorf("CPUs(%d) = %d, in effect %d; want %d", tt.n, got, runtime.GOMAXPROCS(0), tt.want)
		}
	}
}
