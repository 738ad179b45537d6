package guardian

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// deadline is a timer of the kernel's that kills this process (timer_create(2)),
// whether or not it gets to run.
type deadline struct{ id int32 }

// sigevent is that of linux/uapi/asm-generic/siginfo.h on 64-bit machines.
type sigevent struct {
	value  uint64
	signo  int32
	notify int32
	_      [48]byte
}

// itimerspec is that of linux/uapi/linux/time.h.
type itimerspec struct{ interval, value unix.Timespec }

// make makes the timer, which isn't set.
func (d *deadline) make() error {
	e := sigevent{signo: int32(unix.SIGKILL), notify: 0 /* SIGEV_SIGNAL */}
	_, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&e)), uintptr(unsafe.Pointer(&d.id)))
	if errno != 0 {
		return fmt.Errorf("make a timer: %w", errno)
	}
	return nil
}

// set sets the timer, or unsets it if after is 0.
func (d *deadline) set(after time.Duration) error {
	s := itimerspec{value: unix.NsecToTimespec(int64(after))}
	_, _, errno := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(d.id), 0, uintptr(unsafe.Pointer(&s)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("set a timer: %w", errno)
	}
	return nil
}
