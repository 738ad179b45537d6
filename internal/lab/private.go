package lab

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// libvirtd is the last of the daemons.
var libvirtd = daemons[len(daemons)-1]

// openPrivate makes a runtime folder for daemons that nobody else uses. Its
// connection names their socket: programs of any user reach it.
func (c *Connection) openPrivate() error {
	if os.Geteuid() != 0 {
		return errors.New("only root can have one")
	}
	u, err := sessionUser()
	if err != nil {
		return err
	}
	if u.RuntimeDir, err = os.MkdirTemp("/run", "snap-lab-private-"); err != nil {
		return err
	}
	c.User = u
	c.Socket = filepath.Join(u.RuntimeDir, "libvirt", "libvirt-sock")
	c.URI = "qemu+unix:///session?socket=" + c.Socket
	c.state = filepath.Join(u.RuntimeDir, "snap-lab")
	return errors.Join(u.own(u.RuntimeDir), os.Mkdir(c.state, 0o700), u.own(c.state))
}

// forget removes what a private connection had of its own.
func (c *Connection) forget() error {
	if c.Kind != Private || c.User == nil {
		return nil
	}
	return os.RemoveAll(c.User.RuntimeDir)
}

// errShared says that others need the daemons of a connection.
var errShared = errors.New("its daemons aren't its own")

// StopLibvirtd ends the libvirtd of a private connection by a signal, and
// returns when it is gone. Its guests run on.
func (c *Connection) StopLibvirtd(by unix.Signal) error {
	if c.Kind != Private {
		return errShared
	}
	return stopDaemon(libvirtd.name, c.pidFile(libvirtd), by)
}

// StartLibvirtd starts the libvirtd of a private connection again, and returns
// when it answers.
func (c *Connection) StartLibvirtd(ctx context.Context) error {
	if c.Kind != Private {
		return errShared
	}
	return c.startDaemon(ctx, libvirtd)
}
