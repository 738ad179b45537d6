package guardian

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"snap/hv/internal/pidns"
)

// Process names one process for good: its number may be used again, but not
// with the same start time in the same boot of the host.
type Process struct {
	Host      string `json:"host"`
	Boot      string `json:"boot"`          // /proc/sys/kernel/random/boot_id
	Namespace uint64 `json:"pid_namespace"` // inode of /proc/PID/ns/pid, in which PID is its number
	PID       int    `json:"pid"`
	Start     uint64 `json:"start"` // clock ticks since boot (proc(5), stat, field 22)
}

// firstNamespace is the PID namespace that all others are in, from which all
// processes can be seen (PID_NS_INIT_INO of the kernel's include/uapi/linux/nsfs.h,
// PROC_PID_INIT_INO of include/linux/proc_ns.h before).
const firstNamespace = 0xEFFFFFFC

// place is where processes can be looked at.
type place struct {
	host, boot string
	namespace  uint64
}

// Self returns the calling process.
func Self() (Process, error) {
	h, err := here()
	if err != nil {
		return Process{}, err
	}
	pid := os.Getpid()
	_, start, err := stat(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{Host: h.host, Boot: h.boot, Namespace: h.namespace, PID: pid, Start: start}, nil
}

// String names the process for messages.
func (p Process) String() string {
	if h, err := here(); err == nil && h.boot == p.Boot && h.namespace != p.Namespace {
		return fmt.Sprintf("process %d of another PID namespace (a container?) of host %s", p.PID, p.Host)
	}
	return fmt.Sprintf("process %d on host %s", p.PID, p.Host)
}

// here returns where this process is.
func here() (h place, err error) {
	if h.host, err = os.Hostname(); err != nil {
		return place{}, err
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return place{}, err
	}
	h.boot = strings.TrimSpace(string(b))
	h.namespace, err = namespaceOf("self")
	return h, err
}

// namespaceOf returns the inode of the PID namespace that a process is in.
func namespaceOf(pid string) (uint64, error) {
	link, err := os.Readlink("/proc/" + pid + "/ns/pid")
	if err != nil {
		return 0, err
	}
	var n uint64
	if _, err := fmt.Sscanf(link, "pid:[%d]", &n); err != nil {
		return 0, fmt.Errorf("/proc/%s/ns/pid leads to %.40q, which is no PID namespace", pid, link)
	}
	return n, nil
}

// Alive reports whether p still runs. What can't be told counts as alive.
func (p Process) Alive() bool {
	h, err := here()
	return err != nil || p.aliveSeenFrom(h)
}

// aliveSeenFrom is Alive where this process is at h. The boot decides whether the
// host is the same: a container has a name of its own, and a rebooted host its old one.
func (p Process) aliveSeenFrom(h place) bool {
	switch {
	case h.boot != p.Boot:
		return h.host != p.Host
	case h.namespace == p.Namespace:
		return p.is(p.PID)
	case h.namespace == firstNamespace:
		pid, err := p.find()
		return err != nil || pid != 0
	}
	return true // it can't be seen from here
}

// is reports whether the process of the given number, in this process's PID
// namespace, is p and has not ended.
func (p Process) is(pid int) bool {
	state, start, err := stat(pid)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		// /proc may hide the processes of others (proc(5), hidepid).
		return errors.Is(unix.Kill(pid, 0), unix.EPERM)
	}
	return err != nil || start == p.Start && state != 'Z' && state != 'X'
}

// find returns the number that p, of another PID namespace, has in this one, 0 if
// there is no such process.
func (p Process) find() (int, error) {
	// Where the first process is hidden, so are others (proc(5), hidepid).
	if _, err := os.Stat("/proc/1"); err != nil {
		return 0, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !p.is(pid) {
			continue
		}
		// One of another start time was passed over; what can't be read may be p.
		if numbers, err := pidns.Numbers("/proc", pid); err != nil || numbers[len(numbers)-1] == strconv.Itoa(p.PID) {
			return pid, nil
		}
	}
	return 0, nil
}

// open returns a descriptor of p that turns readable when it ends. The number is
// looked at again once the descriptor holds it.
func (p Process) open() (*os.File, error) {
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch process %d: %w", p.PID, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	if !p.Alive() {
		return nil, errors.Join(fmt.Errorf("watch process %d: %w", p.PID, unix.ESRCH), f.Close())
	}
	return f, nil
}

// stat reads a process's state letter and start time. The name before them may
// hold anything, so what counts begins after its last bracket.
func stat(pid int) (state byte, start uint64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %d fields after the name; want 20 or more", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0][0], start, err
}
