package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// daemon is one of libvirt's daemons.
type daemon struct{ name, socket string }

// daemons in the order they start in: libvirtd hands serial ports to virtlogd.
var daemons = []daemon{{"virtlogd", "virtlogd-sock"}, {"libvirtd", "libvirt-sock"}}

// startDaemons makes sure that the daemons answer, and registers this
// connection as one of their users.
func (c *Connection) startDaemons(ctx context.Context) error {
	unlock, err := c.lock("start.lock", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if c.Kind == System {
		if err := mountHugepages(); err != nil {
			return err
		}
	}
	for _, d := range daemons {
		if err := c.startDaemon(ctx, d); err != nil {
			return err
		}
	}
	c.release, err = c.lock("use.lock", unix.LOCK_SH)
	return err
}

// startDaemon starts a daemon that doesn't answer.
func (c *Connection) startDaemon(ctx context.Context, d daemon) error {
	if answers(filepath.Join(filepath.Dir(c.Socket), d.socket)) {
		return nil
	}
	ctx, cancel := bounded(ctx, answerWithin)
	defer cancel()
	cmd, err := c.daemonCommand(ctx, d.name, "--daemon", "--pid-file", c.pidFile(d))
	if err != nil {
		return err
	}
	// Both daemons return when the one they leave behind answers.
	_, err = output(ctx, cmd)
	return err
}

func (c *Connection) pidFile(d daemon) string { return filepath.Join(c.state, d.name+".pid") }

// answers reports whether something accepts connections on a Unix socket.
func answers(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, answerWithin)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// stopDaemons ends the daemons that the lab started, in reverse order, and
// waits until they are gone.
func (c *Connection) stopDaemons() error {
	var errs []error
	for i := len(daemons) - 1; i >= 0; i-- {
		errs = append(errs, stopDaemon(daemons[i].name, c.pidFile(daemons[i]), unix.SIGTERM))
	}
	return errors.Join(append(errs, c.forgetNode())...)
}

// stopDaemon ends the process that a pid file names by a signal, if it still is
// the program it was.
func stopDaemon(name, pidFile string, by unix.Signal) error {
	text, err := os.ReadFile(pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return fmt.Errorf("read %s: %w", pidFile, err)
	}
	// The descriptor keeps meaning this process when its number is used again.
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.Remove(pidFile)
	}
	if err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || strings.TrimSpace(string(comm)) != name {
		return os.Remove(pidFile)
	}
	if err := unix.PidfdSendSignal(fd, by, nil, 0); err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	const within = 20 * time.Second
	if err := ended(fd, within); err != nil {
		return fmt.Errorf("wait %v for %s, process %d, to end: %w", within, name, pid, err)
	}
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ended waits until the process of a pidfd has ended.
func ended(pidfd int, within time.Duration) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(within.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return errHangs
		default:
			return nil
		}
	}
}

// mountHugepages mounts hugetlbfs where systemd would have: libvirtd looks
// for it once, when it starts.
func mountHugepages() error {
	const at = "/dev/hugepages"
	if os.Geteuid() != 0 {
		return nil
	}
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err == nil && s.Type == unix.HUGETLBFS_MAGIC {
		return nil
	}
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("hugetlbfs", at, "hugetlbfs", 0, "pagesize=2M"); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("mount hugetlbfs: %w", err)
	}
	return nil
}
