package limits

import (
	"bufio"
	"fmt"
	"io/fs"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// capIPCLock lets a process lock any amount of memory (CAP_IPC_LOCK,
// include/uapi/linux/capability.h).
const capIPCLock = 14

// LockMemory keeps all memory of this process off the host's swap disks, that which it
// gets later too, as soon as it is touched: mlockall(2), MCL_ONFAULT of Linux 4.4. What
// it starts isn't locked by it. The error is unix.EPERM where the process may lock only
// so much: then it would be refused memory in the middle of its work.
func LockMemory() error {
	unlimited, err := mayLockAll()
	if err != nil {
		return err
	}
	if !unlimited {
		return fmt.Errorf("lock all memory of this process, of which it may lock only a part: %w", unix.EPERM)
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock all memory of this process: %w", err)
	}
	return nil
}

// mayLockAll reports whether nothing limits how much memory this process may lock.
func mayLockAll() (bool, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l); err != nil {
		return false, fmt.Errorf("find out how much memory may be locked: %w", err)
	}
	if l.Cur == math.MaxUint64 { // RLIM_INFINITY
		return true, nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // of which the first has the lower 32 capabilities
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return false, fmt.Errorf("find out how much memory may be locked: %w", err)
	}
	return sets[0].Effective&(1<<capIPCLock) != 0, nil
}

// Swaps reports whether the host has somewhere to swap memory to (proc(5),
// /proc/swaps). root is the host's file system.
func Swaps(root fs.FS) (bool, error) {
	f, err := root.Open("proc/swaps")
	if err != nil {
		return false, fmt.Errorf("find out whether the host swaps: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for first := true; lines.Scan(); first = false {
		if !first && strings.TrimSpace(lines.Text()) != "" {
			return true, nil
		}
	}
	if err := lines.Err(); err != nil {
		return false, fmt.Errorf("find out whether the host swaps: %w", err)
	}
	return false, nil
}
