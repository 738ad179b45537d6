package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// unprivilegedUserfaultfd is whether a process without privileges may learn
// of the kernel's accesses to its memory, which QEMU asks for before a
// background snapshot (Linux Documentation/admin-guide/sysctl/vm.rst).
const unprivilegedUserfaultfd = "/proc/sys/vm/unprivileged_userfaultfd"

// Userfaultfd allows or forbids userfaultfd(2) to a QEMU without privileges,
// which that of the system connection is, until release is called. It waits
// for those who want it the other way, in this process or another.
func Userfaultfd(allowed bool) (release func() error, err error) {
	c := &Connection{Kind: System, state: "/run/snap-lab"}
	if err := os.MkdirAll(c.state, 0o755); err != nil {
		return nil, err
	}
	users, err := os.OpenFile(filepath.Join(c.state, "userfaultfd.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	how, value := unix.LOCK_EX, "0\n"
	if allowed {
		how, value = unix.LOCK_SH, "1\n"
	}
	if err = flock(users, how); err == nil {
		err = c.setUserfaultfd(value)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set %s: %w", unprivilegedUserfaultfd, err), users.Close())
	}
	return func() error { return errors.Join(c.restoreUserfaultfd(users), users.Close()) }, nil
}

// savedUserfaultfd is the file that keeps the host's own setting.
func (c *Connection) savedUserfaultfd() string { return filepath.Join(c.state, "userfaultfd") }

func (c *Connection) setUserfaultfd(value string) error {
	unlock, err := c.lock("userfaultfd-set.lock", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(c.savedUserfaultfd()); errors.Is(err, fs.ErrNotExist) {
		was, err := os.ReadFile(unprivilegedUserfaultfd)
		if err == nil {
			err = os.WriteFile(c.savedUserfaultfd(), was, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return os.WriteFile(unprivilegedUserfaultfd, []byte(value), 0o644)
}

// restoreUserfaultfd puts the host's own setting back if nobody else needs
// another one.
func (c *Connection) restoreUserfaultfd(users *os.File) error {
	unlock, err := c.lock("userfaultfd-set.lock", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	err = flock(users, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	was, err := os.ReadFile(c.savedUserfaultfd())
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(unprivilegedUserfaultfd, was, 0o644), os.Remove(c.savedUserfaultfd()))
}
