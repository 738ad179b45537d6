package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

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
	c := &Connection{Kind: k}
	var err error
	switch k {
	case System:
		c.URI = "qemu:///system"
		c.Socket, c.state = "/run/libvirt/libvirt-sock", "/run/snap-lab"
		err = os.MkdirAll(c.state, 0o755)
	case Session:
		err = c.openSession()
	case Private:
		err = c.openPrivate()
	case OwnKVM:
		err = c.openKVM()
	default:
		err = errors.New("there is system, session, private and kvm")
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
	c.URI = "qemu:///session"
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

// answerWithin bounds every wait for libvirt. Its longest work, to ask a QEMU what it
// can do and to dump a guest's memory, takes a minute or two on a busy machine.
const answerWithin = 5 * time.Minute

// errHangs says that a wait for libvirt has been given up.
var errHangs = errors.New("libvirt doesn't answer")

// bounded returns a context that ends with ctx, or when libvirt has been waited for
// for so long.
func bounded(ctx context.Context, within time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, within, fmt.Errorf("%w for %v", errHangs, within))
}

// Virsh runs virsh on the connection and returns its standard output. It fails with
// the command when libvirt doesn't answer.
func (c *Connection) Virsh(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := bounded(ctx, answerWithin)
	defer cancel()
	return output(ctx, c.Command(ctx, "virsh", append([]string{"-q", "-c", c.URI}, args...)...))
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

// output runs cmd, which ends with ctx, and returns what it wrote, with what it said
// on standard error in the error.
func output(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out, said strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.WaitDelay = time.Second // for a daemon that keeps them open
	err := cmd.Run()
	switch cause := context.Cause(ctx); {
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%s: %w", filepath.Base(cmd.Path), errMissing)
	case err != nil && cause != nil:
		err = errors.Join(cause, err)
		fallthrough
	case err != nil:
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(said.String()))
	}
	return out.String(), nil
}

// lock takes flock(2) on a file of the connection's state, which it makes
// where need be, and which belongs to the connection's user. Others have it no longer
// than libvirt may take for an answer or two; it fails if they do.
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
	for end := time.Now().Add(3 * answerWithin); ; time.Sleep(10 * time.Millisecond) {
		err := flock(f, how|unix.LOCK_NB)
		if err == nil {
			return unlock, nil
		}
		if errors.Is(err, unix.EWOULDBLOCK) && how&unix.LOCK_NB == 0 && time.Now().Before(end) {
			continue
		}
		unlock()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
}

// flock is flock(2), which a signal to the process doesn't end.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
