package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"snap/hv"
)

// CheckSnapshot implements hv.Snapshotter.
func (d *Domain) CheckSnapshot(ctx context.Context) error {
	why, err := d.whyNoSnapshot(ctx)
	if err != nil {
		return err
	}
	if why != "" {
		return fmt.Errorf("no snapshot of domain %q: %w: %s", d.dom.Name, hv.ErrUnsupported, why)
	}
	return nil
}

// whyNoSnapshot returns why a snapshot isn't known to be harmless, empty if it is.
// What costs least is asked first.
func (d *Domain) whyNoSnapshot(ctx context.Context) (string, error) {
	if !d.conn.target.local {
		return "QEMU is handed a file, which needs a daemon on this host and a unix socket to it", nil
	}
	if err := d.CheckJob(ctx); err != nil {
		return "", err
	}
	state, err := d.State(ctx)
	if err != nil {
		return "", err
	}
	if state != hv.StateRunning {
		return fmt.Sprintf("the guest is %s and not running", state), nil
	}
	c, err := d.Config(ctx)
	if err != nil {
		return "", err
	}
	if err := c.Check(); err != nil {
		return "", fmt.Errorf("domain %q: %w", d.dom.Name, err)
	}
	configured := func(context.Context) (string, error) { return c.whyNoSnapshot(), nil }
	why, err := d.qemu.WhyNoSnapshot(ctx, configured, d.lockManager)
	if errors.Is(err, hv.ErrBusy) {
		err = fmt.Errorf("%w; %s", err, d.howToSeeJob())
	}
	return why, err
}

// whyNoSnapshot returns what in the configuration forbids a snapshot, empty if
// nothing does.
func (c Config) whyNoSnapshot() string {
	switch {
	case c.Backing != "anonymous" || c.Shared:
		return fmt.Sprintf("its memory is %s: a snapshot would allocate all of it for good, and only private anonymous memory is known to be safe", c.Backing)
	case len(c.Foreign) > 0:
		return fmt.Sprintf("%s: what it writes to the guest's memory meanwhile would tear the snapshot", strings.Join(c.Foreign, ", "))
	case len(c.MemoryDevices) > 0:
		return fmt.Sprintf("memory devices (%s) are not tried", strings.Join(c.MemoryDevices, ", "))
	case c.Leases:
		return "it holds leases, which libvirt gives up when QEMU stops for a snapshot and doesn't take back"
	}
	return ""
}

// lockManagerLine is the setting of libvirt's qemu.conf.
var lockManagerLine = regexp.MustCompile(`(?m)^\s*lock_manager\s*=\s*"([^"]*)"`)

// lockManager: libvirt lets go of a guest's disk leases when QEMU stops for a
// snapshot, but doesn't take them back when it goes on (qemuProcessHandleStop and
// qemuProcessHandleResume in src/qemu/qemu_process.c).
func (d *Domain) lockManager(context.Context) (string, error) {
	path := "/etc/libvirt/qemu.conf"
	if strings.HasSuffix(d.conn.target.driver, "/session") {
		dir, err := os.UserConfigDir()
		if err != nil {
			return "", err
		}
		path = filepath.Join(dir, "libvirt", "qemu.conf")
	}
	return lockManagerIn(path), nil
}

func lockManagerIn(path string) string {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "" // libvirt's own defaults have none
	}
	if err != nil {
		return fmt.Sprintf("whether libvirt uses a lock manager can't be told: %v", err)
	}
	if m := lockManagerLine.FindSubmatch(b); m != nil && string(m[1]) != "" && string(m[1]) != "nop" {
		return fmt.Sprintf("libvirt's lock manager is %s: the guest's disk leases would be lost", m[1])
	}
	return ""
}
