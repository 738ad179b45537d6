package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// node is a device that a connection's daemons see in the place of /dev/kvm. That of
// the host is never changed: libvirt asks every QEMU anew for what it can do when it
// sees it change, which takes half a minute.
type node struct {
	path     string
	uid, gid int
	mode     uint32
}

// node returns nil if the daemons shall see the host's device.
func (c *Connection) node() (*node, error) {
	var host unix.Stat_t
	switch err := unix.Stat(kvmDevice, &host); {
	case os.Geteuid() != 0 || errors.Is(err, unix.ENOENT):
		return nil, nil
	case err != nil:
		return nil, &fs.PathError{Op: "stat", Path: kvmDevice, Err: err}
	case c.Kind == OwnKVM:
		return &node{filepath.Join(c.User.RuntimeDir, "kvm"), c.User.UID, c.User.GID, 0o600}, nil
	case c.Kind != System || host.Gid != 0 || host.Mode&0o777 != 0o600:
		return nil, nil
	}
	// Without udev the host's device is root's alone. The QEMU that libvirtd asks may
	// open it, for it has CAP_DAC_OVERRIDE, but not the one that it starts, so libvirtd
	// forgets the answer and asks again for every domain. With what udev makes of it
	// (systemd rules.d/50-udev-default.rules) both may.
	g, err := user.LookupGroup("kvm")
	if err != nil {
		return nil, nil
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return nil, fmt.Errorf("group kvm: %w", err)
	}
	return &node{filepath.Join(c.state, "kvm"), 0, gid, 0o660}, nil
}

// make makes the device where it isn't there yet.
func (n *node) make() error {
	var host, s unix.Stat_t
	if err := unix.Stat(kvmDevice, &host); err != nil {
		return &fs.PathError{Op: "stat", Path: kvmDevice, Err: err}
	}
	if err := unix.Stat(n.path, &s); err == nil && s.Rdev == host.Rdev && s.Mode == unix.S_IFCHR|n.mode {
		return nil
	}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := unix.Mknod(n.path, unix.S_IFCHR|n.mode, int(host.Rdev)); err != nil {
		return &fs.PathError{Op: "mknod", Path: n.path, Err: err}
	}
	return errors.Join(os.Chown(n.path, n.uid, n.gid), os.Chmod(n.path, os.FileMode(n.mode)))
}

// daemonCommand is Command for the connection's daemons. Those with a device of their
// own are in a mount namespace, which they share with nobody but their guests.
func (c *Connection) daemonCommand(ctx context.Context, name string, args ...string) (*exec.Cmd, error) {
	cmd := c.Command(ctx, name, args...)
	n, err := c.node()
	if n == nil || err != nil {
		return cmd, err
	}
	if err := n.make(); err != nil {
		return nil, err
	}
	inside := cmd.Args
	if u := c.User; u != nil {
		inside = append([]string{"setpriv", "--reuid", strconv.Itoa(u.UID), "--regid", strconv.Itoa(u.GID), "--clear-groups"}, inside...)
	}
	if c.Kind == System {
		if err := c.shareFolder(); err != nil {
			return nil, err
		}
	}
	with := []string{"--mount", "--propagation", "slave", "sh", "-c", `mount --bind "$0" ` + kvmDevice + ` && exec "$@"`, n.path}
	outside := exec.CommandContext(ctx, "unshare", append(with, inside...)...)
	outside.Env, outside.Dir = cmd.Env, cmd.Dir
	return outside, nil
}

// guestsRoot is the folder of all guests that root starts.
const guestsRoot = "/var/lib/snap-lab"

// sharedNote is the file that says that shareFolder has mounted something.
func (c *Connection) sharedNote() string { return filepath.Join(c.state, "shared") }

// shareFolder lets daemons in a mount namespace see what is mounted below guestsRoot
// later on, such as the small file systems of tests (mount_namespaces(7)).
func (c *Connection) shareFolder() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	mounted := false
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		mounted = mounted || len(f) > 4 && f[4] == guestsRoot
	}
	if !mounted {
		if err := errors.Join(os.MkdirAll(guestsRoot, 0o755), os.WriteFile(c.sharedNote(), nil, 0o600)); err != nil {
			return err
		}
		if err := unix.Mount(guestsRoot, guestsRoot, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to itself: %w", guestsRoot, err)
		}
	}
	if err := unix.Mount("", guestsRoot, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share %s: %w", guestsRoot, err)
	}
	return nil
}

// forgetNode undoes what daemonCommand did, once the daemons have ended.
func (c *Connection) forgetNode() error {
	if _, err := os.Stat(c.sharedNote()); err == nil {
		if err := unix.Unmount(guestsRoot, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", guestsRoot, err)
		}
		if err := os.Remove(c.sharedNote()); err != nil {
			return err
		}
	}
	n, err := c.node()
	if n == nil || err != nil {
		return err
	}
	if err := os.Remove(n.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
