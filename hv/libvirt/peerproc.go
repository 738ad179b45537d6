package libvirt

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"snap/hv/internal/pidns"
)

// peerOf returns the process at the other end of a Unix socket, as the kernel knows
// it (SO_PEERCRED, unix(7)): the one that listens, which is systemd's where that
// starts the daemon. It is 0 if there is none, or none that this process's PID
// namespace has a number for.
func peerOf(conn net.Conn) int {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return 0
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// procRoot is where the proc file system is mounted.
const procRoot = "/proc"

// sharesProc fails unless a path below /proc/PID of this process means the same to
// the process peer: both must be in the PID namespace that the /proc of this one is
// of. In another one the same number is another process. peer is as of peerOf.
func sharesProc(proc string, peer int) error {
	if peer <= 0 {
		return fmt.Errorf("it is in another PID namespace than snap, or on another host")
	}
	self, err := os.Readlink(proc + "/self")
	if err != nil || self != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("%s is of another PID namespace than snap's", proc)
	}
	for _, who := range []struct {
		name string
		pid  int
	}{{"snap", os.Getpid()}, {"the daemon", peer}} {
		numbers, err := pidns.Numbers(proc, who.pid)
		if err != nil {
			return err
		}
		if !slices.Equal(numbers, []string{strconv.Itoa(who.pid)}) {
			return fmt.Errorf("%s (process %d) is in another PID namespace than %s is of: it has the numbers %s there", who.name, who.pid, proc, strings.Join(numbers, ", "))
		}
	}
	return nil
}
