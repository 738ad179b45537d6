package guardian

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process names one process for good: its number may be used again, but not
// with the same start time in the same boot of the host.
type Process struct {
	Host  string `json:"host"`
	Boot  string `json:"boot"` // /proc/sys/kernel/random/boot_id
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot (proc(5), stat, field 22)
}

// Self returns the calling process.
func Self() (Process, error) {
	host, boot, err := here()
	if err != nil {
		return Process{}, err
	}
	pid := os.Getpid()
	_, start, err := stat(pid)
	if err != nil {
		return Process{}, err
	}
	return Process{Host: host, Boot: boot, PID: pid, Start: start}, nil
}

// String names the process for messages.
func (p Process) String() string { return fmt.Sprintf("process %d on host %s", p.PID, p.Host) }

// here returns this host's name and boot id.
func here() (host, boot string, err error) {
	if host, err = os.Hostname(); err != nil {
		return "", "", err
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", "", err
	}
	return host, strings.TrimSpace(string(b)), nil
}

// Alive reports whether p still runs. What can't be told counts as alive.
func (p Process) Alive() bool {
	host, boot, err := here()
	if err != nil || host != p.Host {
		return true
	}
	if boot != p.Boot {
		return false
	}
	state, start, err := stat(p.PID)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false
	}
	return err != nil || start == p.Start && state != 'Z' && state != 'X'
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
