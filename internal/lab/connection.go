package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Connection is libvirt as one user has it. Its daemons run until the last
// open Connection of any process is closed, if the lab had to start them.
type Connection struct {
	Kind   Kind
	URI    string
	Socket string // libvirtd's Unix socket
	User   *User  // who libvirt and QEMU's files belong to; nil: this process's own user

	state   string // folder of locks and pid files
	release func() // of the shared lock that says that somebody needs the daemons
}

// Open connects to libvirt, starting its daemons where none answer.
func Open(ctx context.Context, k Kind) (*Connection, error) {
	c := &Connection{Kind: k, URI: "qemu:///" + string(k)}
	var err error
	switch k {
	case System:
		c.Socket, c.state = "/run/libvirt/libvirt-sock", "/run/snap-lab"
		err = os.MkdirAll(c.state, 0o755)
	case Session:
		err = c.openSession()
	case Private:
		err = c.openPrivate()
	default:
		err = errors.New("there is system, session and private")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to libvirt's %s: %w", k, err), c.forget())
	}
	if err := c.startDaemons(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start libvirt for %s: %w", c.URI, err), c.forget())
	}
	return c, nil
}

// openSession finds the session's user and its runtime folder, making both
// where root asks.
func (c *Connection) openSession() error {
	run := os.Getenv("XDG_RUNTIME_DIR")
	if os.Geteuid() == 0 {
		u, err := sessionUser()
		if err != nil {
			return err
		}
		c.User, run = u, u.RuntimeDir
	}
	if run == "" {
		return errors.New("XDG_RUNTIME_DIR is not set")
	}
	c.Socket = filepath.Join(run, "libvirt", "libvirt-sock")
	c.state = filepath.Join(run, "snap-lab")
	if err := os.MkdirAll(c.state, 0o700); err != nil {
		return err
	}
	return c.User.own(c.state)
}

// Command prepares a program that runs as the connection's user with its
// environment, so that it sees what that user sees.
func (c *Connection) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	c.User.become(cmd)
	return cmd
}

// Virsh runs virsh on the connection and returns its standard output.
func (c *Connection) Virsh(ctx context.Context, args ...string) (string, error) {
	return output(c.Command(ctx, "virsh", append([]string{"-q", "-c", c.URI}, args...)...))
}

// Close lets go of the daemons and stops them if the lab started them, nobody
// else uses them and no domain is left that they should look after.
func (c *Connection) Close() error {
	if c.release == nil {
		return nil
	}
	unlock, err := c.lock("start.lock", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	domains, err := c.Virsh(context.Background(), "list", "--all", "--name")
	c.release()
	c.release = nil
	if err != nil || strings.TrimSpace(domains) != "" {
		return err
	}
	last, err := c.lock("use.lock", unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer last()
	return errors.Join(c.stopDaemons(), c.forget())
}

// output runs cmd and returns what it wrote, with what it said on standard
// error in the error.
func output(cmd *exec.Cmd) (string, error) {
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s: %w", filepath.Base(cmd.Path), errMissing)
	case err != nil:
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

// lock takes flock(2) on a file of the connection's state, which it makes
// where need be, and which belongs to the connection's user.
func (c *Connection) lock(name string, how int) (unlock func(), err error) {
	path := filepath.Join(c.state, name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	unlock = func() { _ = f.Close() }
	if err := c.User.own(path); err != nil {
		unlock()
		return nil, err
	}
	if err := flock(f, how); err != nil {
		unlock()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return unlock, nil
}

// flock is flock(2), which a signal to the process doesn't end.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
