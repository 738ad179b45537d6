package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"snap/hv"
)

// oldestSnapshot is the first major version of QEMU whose background snapshots
// harm no guest when they fail, and keep a paused guest paused: before 8.1 a
// failed one leaves the guest's memory write-protected for ever, before 9.0 a
// guest that is paused meanwhile is started.
const oldestSnapshot = 9

// capSysPtrace is the number of CAP_SYS_PTRACE (Linux include/uapi/linux/capability.h).
const capSysPtrace = 19

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
	for _, check := range []func(context.Context) (string, error){
		d.oldQEMU,
		func(context.Context) (string, error) { return c.whyNoSnapshot(), nil },
		d.sharedMemory,
		d.otherMigration,
		d.lockManager,
		d.oddProcess,
	} {
		if why, err := check(ctx); why != "" || err != nil {
			return why, err
		}
	}
	return "", nil
}

func (d *Domain) oldQEMU(ctx context.Context) (string, error) {
	type version struct {
		QEMU struct{ Major, Minor, Micro int } `json:"qemu"`
	}
	v, err := qmp[version](ctx, d, "query-version")
	if err != nil || v.QEMU.Major >= oldestSnapshot {
		return "", err
	}
	return fmt.Sprintf("QEMU %d.%d.%d can hang or restart the guest when a snapshot fails; %d.0 and later don't",
		v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro, oldestSnapshot), nil
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

func (d *Domain) sharedMemory(ctx context.Context) (string, error) {
	type memdev struct {
		ID    string `json:"id"`
		Share bool   `json:"share"`
	}
	devs, err := qmp[[]memdev](ctx, d, "query-memdev")
	for _, m := range devs {
		if m.Share {
			return fmt.Sprintf("memory backend %s is shared with other processes", m.ID), nil
		}
	}
	return "", err
}

func (d *Domain) otherMigration(ctx context.Context) (string, error) {
	m, err := d.migration(ctx)
	if err != nil {
		return "", err
	}
	if !m.over() {
		return "", d.busy(fmt.Sprintf("QEMU has a migration in state %s", m.Status))
	}
	if len(m.Blocked) > 0 {
		return "QEMU can't save it: " + strings.Join(m.Blocked, "; "), nil
	}
	known, on, err := d.snapshotCapability(ctx)
	switch {
	case err != nil:
		return "", err
	case !known:
		return "QEMU knows no background snapshots", nil
	case on:
		return "QEMU's background-snapshot capability is on: another tool takes a snapshot, or left it on; if none does, turn it off with " +
			fmt.Sprintf("`virsh -c %s qemu-monitor-command %s", d.conn.URI(), d.dom.Name) +
			` '{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"background-snapshot","state":false}]}}'` + "`", nil
	}
	return "", nil
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

// oddProcess looks at QEMU's process.
func (d *Domain) oddProcess(ctx context.Context) (string, error) {
	cpus, err := qmp[[]vcpu](ctx, d, "query-cpus-fast")
	if err != nil {
		return "", err
	}
	pid, err := processOf(cpus)
	if err != nil {
		return "", err
	}
	if err := d.verifyProcess(pid, cpus); err != nil {
		return "", err
	}
	why, err := oddity(os.DirFS("/proc"), os.DirFS(fmt.Sprintf("/proc/%d", pid)))
	if err != nil {
		return fmt.Sprintf("QEMU's process can't be looked at: %v", err), nil
	}
	return why, nil
}

// oddity returns what about QEMU's process, proc of the host's, forbids a
// snapshot.
func oddity(host, proc fs.FS) (string, error) {
	if why, err := foreignArguments(proc); why != "" || err != nil {
		return why, err
	}
	if why, err := lostStdin(proc); why != "" || err != nil {
		return why, err
	}
	return noUserfaultfd(host, proc)
}

// foreignDevice is what QEMU's arguments name devices that write guest memory
// behind its back.
var foreignDevice = regexp.MustCompile(`vhost-user|vhost-vdpa|vfio|ivshmem`)

// foreignArguments looks for such devices where libvirt's configuration doesn't
// tell of them.
func foreignArguments(proc fs.FS) (string, error) {
	b, err := fs.ReadFile(proc, "cmdline")
	if err != nil {
		return "", err
	}
	args := strings.Split(string(b), "\x00")
	for i, a := range args[:len(args)-1] {
		if slices.Contains([]string{"-device", "-netdev", "-object"}, a) {
			if m := foreignDevice.FindString(args[i+1]); m != "" {
				return fmt.Sprintf("QEMU has a %s device: what it writes to the guest's memory meanwhile would tear the snapshot", m), nil
			}
		}
	}
	return "", nil
}

// lostStdin: QEMU 9.1 and later may close its descriptor 0 when a snapshot fails
// early, and close again what has the number then, a disk for one, when a second
// one does. So one failure is all that is risked.
func lostStdin(proc fs.FS) (string, error) {
	to, err := fs.ReadLink(proc, "fd/0")
	if errors.Is(err, fs.ErrNotExist) || err == nil && to != os.DevNull {
		return "an earlier snapshot seems to have failed in this QEMU: its descriptor 0 is not " + os.DevNull + ", and another failure could close a file that it needs", nil
	}
	return "", err
}

// noUserfaultfd tells whether the kernel lets QEMU watch its memory being written
// by the kernel as well as by itself (userfaultfd(2)).
func noUserfaultfd(host, proc fs.FS) (string, error) {
	if b, err := fs.ReadFile(host, "sys/vm/unprivileged_userfaultfd"); err != nil || strings.TrimSpace(string(b)) == "1" {
		return "", err
	}
	status, err := fs.ReadFile(proc, "status")
	if err != nil {
		return "", err
	}
	who, err := parseCredentials(status)
	if err != nil {
		return "", err
	}
	if who.effective&(1<<capSysPtrace) != 0 {
		return "", nil
	}
	// QEMU sees the file system as libvirt made it for the guest.
	info, err := fs.Stat(proc, "root/dev/userfaultfd")
	if err == nil && who.mayReadWrite(info) {
		return "", nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return "the kernel lets no unprivileged QEMU watch its memory: allow it with `sysctl vm.unprivileged_userfaultfd=1`, or give QEMU /dev/userfaultfd (libvirt 10.1 and later do)", nil
}

// credentials are a process's, from /proc/PID/status.
type credentials struct {
	uid       uint64
	gids      []uint64
	effective uint64 // capabilities
}

var credentialLine = regexp.MustCompile(`(?m)^(Uid|Gid|Groups|CapEff):\t(.*)$`)

func parseCredentials(status []byte) (credentials, error) {
	var c credentials
	seen := 0
	for _, m := range credentialLine.FindAllSubmatch(status, -1) {
		seen++
		base := 10
		if string(m[1]) == "CapEff" {
			base = 16
		}
		var values []uint64
		for _, f := range strings.Fields(string(m[2])) {
			v, err := strconv.ParseUint(f, base, 64)
			if err != nil {
				return c, err
			}
			values = append(values, v)
		}
		switch string(m[1]) {
		case "Groups":
			c.gids = append(c.gids, values...)
			continue
		case "Gid":
			if len(values) == 4 {
				c.gids = append(c.gids, values[1])
				continue
			}
		case "Uid":
			if len(values) == 4 {
				c.uid = values[1]
				continue
			}
		case "CapEff":
			if len(values) == 1 {
				c.effective = values[0]
				continue
			}
		}
		return c, fmt.Errorf("process status: line %q is of an unknown form", m[0])
	}
	if seen != 4 {
		return c, errors.New("process status lacks ids or capabilities")
	}
	return c, nil
}

// mayReadWrite reports whether the file's mode lets the process read and write it.
func (c credentials) mayReadWrite(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	mode := info.Mode().Perm()
	switch {
	case !ok:
		return false
	case uint64(st.Uid) == c.uid:
		return mode&0o600 == 0o600
	case slices.Contains(c.gids, uint64(st.Gid)):
		return mode&0o060 == 0o060
	}
	return mode&0o006 == 0o006
}
