package lab

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// openKVM finds the connection of guests under KVM. For root it is a session of
// SessionUser's with daemons of its own, which see a node of their own. A user other
// than root uses the session that it has.
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
