package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"snap/internal/ntlab"
	"snap/internal/ntlab/boot"
	"snap/phys"
)

// Guest is a domain of the lab.
type Guest struct {
	*Connection

	Name string // of the domain
	Spec Spec

	// Image is the guest's memory as it was loaded, and Boot what runs in it;
	// nil and empty for guests that aren't lab images. With Spec.UserMode the
	// image's registers are not those of vCPU 0.
	Image *ntlab.Image
	Boot  boot.Info

	dir      string
	starting *os.File // the lock on dir, until the guest is down
}

// Dir is a folder of the guest's that the connection's user may write to.
func (g *Guest) Dir() string { return g.dir }

// Heartbeats reads the counter of every processor through QEMU's monitor.
func (g *Guest) Heartbeats(ctx context.Context) ([]uint64, error) {
	var out []uint64
	for _, v := range g.Boot.VCPUs {
		n, err := g.Qword(ctx, v.Heartbeat)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// Qword reads 8 bytes of the guest's memory through QEMU's monitor.
func (g *Guest) Qword(ctx context.Context, at phys.Addr) (uint64, error) {
	text, err := g.Virsh(ctx, "qemu-monitor-command", g.Name, "--hmp", fmt.Sprintf("xp /1gx %#x", uint64(at)))
	if err != nil {
		return 0, err
	}
	_, value, ok := strings.Cut(text, ": ")
	if !ok {
		return 0, fmt.Errorf("read %#x of %s: monitor said %q", uint64(at), g.Name, text)
	}
	return strconv.ParseUint(strings.TrimSpace(value), 0, 64)
}

// PID returns the process id of the guest's QEMU.
func (g *Guest) PID() (int, error) {
	dir := "/run/libvirt/qemu"
	if g.Kind != System {
		dir = filepath.Join(filepath.Dir(g.Socket), "qemu", "run")
	}
	b, err := os.ReadFile(filepath.Join(dir, g.Name+".pid"))
	if err != nil {
		return 0, fmt.Errorf("QEMU of %s: %w", g.Name, err)
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// errEnded says that a guest powered off, reset itself or crashed.
var errEnded = errors.New("the guest has ended")

// whileAlive returns a context that ends, with errEnded as its cause, when
// the guest's QEMU does.
func (g *Guest) whileAlive(ctx context.Context) (context.Context, func(), error) {
	pid, err := g.PID()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, errEnded
	}
	if err != nil {
		return nil, nil, err
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("watch QEMU of %s: %w", g.Name, errors.Join(errEnded, err))
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	conn, err := process.SyscallConn()
	if err != nil {
		return nil, nil, errors.Join(err, process.Close())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		first := true // the descriptor turns readable when the process ends
		err := conn.Read(func(uintptr) bool {
			ended := !first
			first = false
			return ended
		})
		if err == nil {
			cancel(errEnded)
		}
	}()
	return ctx, func() { cancel(nil); _ = process.Close() }, nil
}
