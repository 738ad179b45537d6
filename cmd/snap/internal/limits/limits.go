// Package limits bounds what snap itself takes from the host.
package limits

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// CPUs lets the process run on at most n processors at a time, all if n is 0,
// and returns the number in effect.
func CPUs(n int) int {
	if n > 0 && n < runtime.NumCPU() {
		runtime.GOMAXPROCS(n)
	}
	return runtime.GOMAXPROCS(0)
}

// Memory makes the garbage collector work harder as the heap nears size bytes.
func Memory(size uint64) {
	debug.SetMemoryLimit(int64(min(size, 1<<62)))
}

// Nice lowers the scheduling priority of the whole process to at least n.
// Linux keeps the value per thread and new threads inherit it, so every thread
// that exists now is changed (setpriority(2), "C library/kernel differences").
func Nice(n int) error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("lower the scheduling priority: %w", err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		// The raw call returns 20-nice, so that errors stay distinguishable.
		if raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil && 20-raw >= n {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, n); err != nil && err != unix.ESRCH {
			return fmt.Errorf("set the nice value to %d: %w", n, err)
		}
	}
	return nil
}
