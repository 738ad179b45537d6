package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"

	"snap/hv"
)

// oldestSnapshot is the first major version of QEMU whose background snapshots
// harm no guest when they fail, and keep a paused guest paused: before 8.1 a
// failed one leaves the guest's memory write-protected for ever, before 9.0 a
// guest that is paused meanwhile is started.
const oldestSnapshot = 9

// Check returns why a snapshot isn't known to be harmless, as a sentence for an
// operator, empty if it knows of no reason.
type Check func(ctx context.Context) (why string, err error)

// WhyNoSnapshot returns why a snapshot isn't known to be harmless, empty if it is.
// It changes nothing. QEMU's process must run on this host. What costs least is
// asked first: QEMU's version, then the checks of its manager, then all else.
func (g *Guest) WhyNoSnapshot(ctx context.Context, manager ...Check) (string, error) {
	checks := slices.Concat([]Check{g.oldQEMU}, manager, []Check{g.sharedMemory, g.otherMigration, g.oddProcess})
	for _, check := range checks {
		if why, err := check(ctx); why != "" || err != nil {
			return why, err
		}
	}
	return "", nil
}

func (g *Guest) oldQEMU(ctx context.Context) (string, error) {
	type version struct {
		QEMU struct{ Major, Minor, Micro int } `json:"qemu"`
	}
	v, err := qmp[version](ctx, g, "query-version")
	if err != nil || v.QEMU.Major >= oldestSnapshot {
		return "", err
	}
	return fmt.Sprintf("QEMU %d.%d.%d can hang or restart the guest when a snapshot fails; %d.0 and later don't",
		v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro, oldestSnapshot), nil
}

func (g *Guest) sharedMemory(ctx context.Context) (string, error) {
	type memdev struct {
		ID    string `json:"id"`
		Share bool   `json:"share"`
	}
	devs, err := qmp[[]memdev](ctx, g, "query-memdev")
	for _, m := range devs {
		if m.Share {
			return fmt.Sprintf("memory backend %s is shared with other processes", m.ID), nil
		}
	}
	return "", err
}

func (g *Guest) otherMigration(ctx context.Context) (string, error) {
	m, err := g.migration(ctx)
	if err != nil {
		return "", err
	}
	if !m.over() {
		return "", fmt.Errorf("domain %q: QEMU has a migration in state %s: %w", g.o.Name, m.Status, hv.ErrBusy)
	}
	if len(m.Blocked) > 0 {
		return "QEMU can't save it: " + strings.Join(m.Blocked, "; "), nil
	}
	known, on, err := g.snapshotCapability(ctx)
	switch {
	case err != nil:
		return "", err
	case !known:
		return "QEMU knows no background snapshots", nil
	case on:
		off := `{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"background-snapshot","state":false}]}}`
		return "QEMU's background-snapshot capability is on: another tool takes a snapshot, or left it on; if none does, turn it off with `" +
			g.m.Shell(off) + "`", nil
	}
	return "", nil
}

// oddProcess looks at QEMU's process.
func (g *Guest) oddProcess(ctx context.Context) (string, error) {
	pid, cpus, err := g.process(ctx)
	if err != nil {
		return "", err
	}
	if err := g.verifyProcess(pid, cpus); err != nil {
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

// lostStdin: QEMU 9.1 and later close their descriptor 0 when a snapshot fails
// before it has begun, because it is cancelled then or a disk can't be flushed, and
// close again what has the number then, a disk for one, when a second one does. snap
// cancels none that early (cancelSnapshot); others may, and one failure is all that
// is risked.
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
