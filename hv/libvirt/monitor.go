package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
	"snap/hv/internal/bounded"
	"snap/hv/qemu"
)

// Flags of virDomainQemuMonitorCommand (include/libvirt/libvirt-qemu.h).
const (
	monitorQMP = 0
	monitorHMP = 1
)

// monitor is the monitor of a domain's QEMU, through the daemon.
type monitor struct{ d *Domain }

var _ qemu.Monitor = monitor{}

// guest is the domain as QEMU knows it.
func (d *Domain) guest() *qemu.Guest {
	return qemu.New(monitor{d}, qemu.Options{
		Name: d.dom.Name, UUID: formatUUID(d.dom.UUID), PIDFile: pidFile(d.conn.target.driver, d.dom.Name),
	})
}

// pidFile is the daemon's own note of a domain's process (stateDir in libvirt's
// src/qemu/qemu_conf.c).
func pidFile(driver, name string) string {
	if strings.HasSuffix(driver, "/session") {
		return filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "libvirt/qemu/run", name+".pid")
	}
	return "/run/libvirt/qemu/" + name + ".pid"
}

// QMP implements qemu.Monitor.
func (m monitor) QMP(ctx context.Context, c qemu.Command) (string, error) {
	if c.File != nil {
		return m.withFile(ctx, c)
	}
	return m.run(ctx, c.Name, c.JSON, monitorQMP)
}

// HMP implements qemu.Monitor.
func (m monitor) HMP(ctx context.Context, command string) (string, error) {
	return m.run(ctx, command, command, monitorHMP)
}

func (m monitor) run(ctx context.Context, name, command string, flags uint32) (string, error) {
	return query(ctx, m.d.conn, fmt.Sprintf("run monitor command %q on domain %q", name, m.d.dom.Name),
		func(l *rpc.Libvirt) (string, error) { return l.QEMUDomainMonitorCommand(m.d.dom, command, flags) })
}

// Shell implements qemu.Monitor.
func (m monitor) Shell(command string) string {
	return fmt.Sprintf("virsh -c %s qemu-monitor-command %s --pretty '%s'", m.d.conn.URI(), m.d.dom.Name, command)
}

// withFile gives QEMU a file along with the command
// (virDomainQemuMonitorCommandWithFiles, libvirt 8.2). It needs a daemon on this
// host, and uses a connection of its own.
func (m monitor) withFile(ctx context.Context, c qemu.Command) (string, error) {
	fail := func(err error) error {
		return fmt.Errorf("run monitor command %q with a file on domain %q: %w", c.Name, m.d.dom.Name, err)
	}
	ctx, cancel := bounded.Within(ctx, m.d.conn.timeout)
	defer cancel()
	s, err := m.d.conn.target.openOn(ctx, func(conn net.Conn) (net.Conn, error) {
		u, ok := conn.(*net.UnixConn)
		if !ok {
			return nil, fmt.Errorf("%w: only a unix socket carries files", hv.ErrUnsupported)
		}
		return &filePasser{u, c.File}, nil
	})
	if err != nil {
		return "", fail(err)
	}
	text, err := run(ctx, s, func(l *rpc.Libvirt) (string, error) {
		return l.QEMUDomainMonitorCommandWithFiles(m.d.dom, c.JSON, monitorQMP)
	})
	if err != nil {
		return "", errors.Join(fail(classify(err)), s.close())
	}
	return text, s.close()
}
