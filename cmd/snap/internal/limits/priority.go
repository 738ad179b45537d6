package limits

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Nice lowers the scheduling priority of the whole process to at least n.
func Nice(n int) error {
	return eachThread(func(tid int) error {
		// The raw call returns 20-nice, so that errors stay distinguishable.
		if raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil && 20-raw >= n {
			return nil
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, n); err != nil {
			return fmt.Errorf("set the nice value to %d: %w", n, err)
		}
		return nil
	})
}

// IOClass is how a process's use of disks ranks beside that of others. What it is
// worth is up to the disk's scheduler: bfq and mq-deadline heed it, none doesn't.
type IOClass string

// Classes of I/O.
const (
	IOLow    IOClass = "low"    // the last of the best-effort class: less than others, but never nothing
	IOIdle   IOClass = "idle"   // only when nobody else uses the disk; next to a busy one it may take forever
	IONormal IOClass = "normal" // as it was when the process started
)

// IOClasses returns all classes, the default first.
func IOClasses() []IOClass { return []IOClass{IOLow, IOIdle, IONormal} }

// I/O priorities (include/uapi/linux/ioprio.h): a class, shifted, and a level in it.
const (
	ioprioWhoProcess = 1
	ioprioShift      = 13
	ioprioBestEffort = 2
	ioprioIdle       = 3
	ioprioLowest     = 7 // level
)

// priority returns the class as the kernel writes it, and false for IONormal.
func (c IOClass) priority() (int, bool) {
	switch c {
	case IOLow:
		return ioprioBestEffort<<ioprioShift | ioprioLowest, true
	case IOIdle:
		return ioprioIdle << ioprioShift, true
	}
	return 0, false
}

// SetIOClass gives the whole process a class of I/O. A thread that somebody has given
// a lower one keeps that.
func SetIOClass(c IOClass) error {
	want, ok := c.priority()
	if !ok {
		return nil
	}
	return eachThread(func(tid int) error {
		now, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, ioprioWhoProcess, uintptr(tid), 0)
		if errno == 0 && int(now) >= want { // classes and levels ascend as they are worth less
			return nil
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), uintptr(want)); errno != 0 {
			return fmt.Errorf("set the class of I/O to %s: %w", c, errno)
		}
		return nil
	})
}

// eachThread calls set for every thread of the process. Linux keeps priorities by
// thread and new threads inherit them, so every one that exists is changed
// (setpriority(2), "C library/kernel differences"; ioprio_set(2)), and then those
// that came meanwhile. One that has ended is none.
func eachThread(set func(tid int) error) error {
	done := make(map[string]bool)
	for {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("lower the priority: %w", err)
		}
		before := len(done)
		for _, t := range tasks {
			tid, err := strconv.Atoi(t.Name())
			if err != nil || done[t.Name()] {
				continue
			}
			if err := set(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			done[t.Name()] = true
		}
		if len(done) == before {
			return nil
		}
	}
}
