package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// openKVM finds the connection of guests under KVM. For root it is a session of
// SessionUser's with daemons of its own, which see another /dev/kvm than the rest of
// the host: libvirt asks QEMU anew for what it can do whenever the node changes, or
// when QEMU's user can't open what its probe could, so the node that other daemons
// see stays as it is. A user other than root uses the session that it has.
func (c *Connection) openKVM() error {
	if os.Geteuid() != 0 {
		if err := KVMWorks(); err != nil {
			return err
		}
		return c.openSession()
	}
	u, err := sessionUser()
	if err != nil {
		return err
	}
	u.RuntimeDir = "/run/snap-lab-kvm"
	u.Home = filepath.Join(u.RuntimeDir, "home") // libvirt keeps there what it knows of QEMU with KVM
	c.User = u
	c.Socket = filepath.Join(u.RuntimeDir, "libvirt", "libvirt-sock")
	c.URI = "qemu+unix:///session?socket=" + c.Socket
	c.state = filepath.Join(u.RuntimeDir, "snap-lab")
	for _, dir := range []string{u.RuntimeDir, u.Home, c.state} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := u.own(dir); err != nil {
			return err
		}
	}
	return nil
}

// node is the device that stands for /dev/kvm to the daemons of a connection, and ""
// if they see that of the host.
func (c *Connection) node() string {
	if c.Kind != OwnKVM || c.User == nil {
		return ""
	}
	return filepath.Join(c.User.RuntimeDir, "kvm")
}

// makeNode makes the device of a connection whose daemons don't run.
func (c *Connection) makeNode() error {
	node := c.node()
	if node == "" {
		return nil
	}
	var host unix.Stat_t
	if err := unix.Stat(kvmDevice, &host); err != nil {
		return &fs.PathError{Op: "stat", Path: kvmDevice, Err: err}
	}
	if err := c.removeNode(); err != nil {
		return err
	}
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(host.Rdev)); err != nil {
		return &fs.PathError{Op: "mknod", Path: node, Err: err}
	}
	return c.User.own(node)
}

// removeNode removes what makeNode made.
func (c *Connection) removeNode() error {
	node := c.node()
	if node == "" {
		return nil
	}
	if err := os.Remove(node); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// daemonCommand is Command for the connection's daemons: those with a device of
// their own are in a mount namespace, which they share with nobody but their guests,
// where it stands in the host's place.
func (c *Connection) daemonCommand(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := c.Command(ctx, name, args...)
	node := c.node()
	if node == "" {
		return cmd
	}
	inside := fmt.Sprintf(`mount --bind %s %s && exec setpriv --reuid %d --regid %d --clear-groups "$@"`, node, kvmDevice, c.User.UID, c.User.GID)
	outside := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--propagation", "slave", "sh", "-c", inside, "sh", name}, args...)...)
	outside.Env, outside.Dir = cmd.Env, cmd.Dir
	return outside
}
