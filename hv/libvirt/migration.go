package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
)

// Names that QEMU knows (qapi/migration.json).
const (
	capSnapshot = "background-snapshot"
	fdSnapshot  = "snap-snapshot" // ours, of the descriptor that it saves to
)

// migration is what QMP query-migrate returns of an outgoing migration, which a
// background snapshot is to QEMU.
type migration struct {
	Status   string   `json:"status"` // empty if there was none
	Error    string   `json:"error-desc"`
	Blocked  []string `json:"blocked-reasons"`
	Downtime float64  `json:"downtime"` // milliseconds
	RAM      struct {
		Total     uint64 `json:"total"`     // bytes
		Remaining uint64 `json:"remaining"` // bytes
	} `json:"ram"`
}

// over reports whether QEMU has nothing more to do for the migration.
func (m migration) over() bool {
	return slices.Contains([]string{"", "none", "completed", "failed", "cancelled"}, m.Status)
}

// capability is an entry of QMP query-migrate-capabilities.
type capability struct {
	Name string `json:"capability"`
	On   bool   `json:"state"`
}

func (d *Domain) migration(ctx context.Context) (migration, error) {
	return qmp[migration](ctx, d, "query-migrate")
}

// snapshotCapability reports whether QEMU knows background snapshots and whether
// migrations are to be some.
func (d *Domain) snapshotCapability(ctx context.Context) (known, on bool, err error) {
	caps, err := qmp[[]capability](ctx, d, "query-migrate-capabilities")
	for _, c := range caps {
		if c.Name == capSnapshot {
			known, on = true, c.On
		}
	}
	return known, on, err
}

func (d *Domain) setSnapshotCapability(ctx context.Context, on bool) error {
	_, err := qmpWith[nothing](ctx, d, "migrate-set-capabilities", map[string]any{
		"capabilities": []map[string]any{{"capability": capSnapshot, "state": on}},
	})
	return err
}

// giveSink hands QEMU what it shall save to.
func (d *Domain) giveSink(ctx context.Context, f *os.File) error {
	return qmpWithFile(ctx, d, "getfd", map[string]any{"fdname": fdSnapshot}, f)
}

// startSnapshot has QEMU begin to save to the sink that it was given.
func (d *Domain) startSnapshot(ctx context.Context) error {
	_, err := qmpWith[nothing](ctx, d, "migrate", map[string]any{"uri": "fd:" + fdSnapshot})
	var refused *qmpError
	if err == nil || !errors.As(err, &refused) {
		return err
	}
	// The call may have been made twice, if its connection was lost.
	if m, merr := d.migration(ctx); merr == nil && !m.over() {
		return nil
	}
	return err
}

// abandonSnapshot ends a background snapshot of QEMU's, if there is one, and puts
// back what it needs changed: the capability, the descriptor, and, if QEMU failed
// after it had stopped the guest, the guest. A guest that somebody else paused
// stays so. There need not be anything to undo. It tries until ctx ends; the error
// is then hv.ErrStillPaused.
func (d *Domain) abandonSnapshot(ctx context.Context) error {
	err := insist(ctx, d.limits().pollEvery, time.Second, func(ctx context.Context) (bool, error) {
		done, err := d.undoSnapshot(ctx)
		switch {
		case err != nil && settled(err):
			return true, err
		case err != nil && d.gone(ctx):
			return true, fmt.Errorf("domain %q: %w", d.dom.Name, hv.ErrNotRunning)
		case done:
			return true, nil
		}
		return false, err
	})
	if err == nil || settled(err) {
		return err
	}
	return fmt.Errorf("undo the snapshot of domain %q: %w: %w; `virsh -c %s qemu-monitor-command %s --pretty '{\"execute\":\"query-migrate-capabilities\"}'` shows whether %s is still on",
		d.dom.Name, hv.ErrStillPaused, err, d.conn.URI(), d.dom.Name, capSnapshot)
}

// undoSnapshot makes one attempt, as far as it gets. The capability can't be turned
// off under a migration, so one that goes on while it is off isn't ours.
func (d *Domain) undoSnapshot(ctx context.Context) (done bool, err error) {
	_, on, err := d.snapshotCapability(ctx)
	if err != nil {
		return false, err
	}
	m, err := d.migration(ctx)
	if err != nil {
		return false, err
	}
	switch {
	case on && m.over():
		return false, d.setSnapshotCapability(ctx, false) // and look again
	case on:
		return false, d.cancelSnapshot(ctx, m)
	}
	// There may be none: QEMU takes it when it begins.
	if _, err := qmpWith[nothing](ctx, d, "closefd", map[string]any{"fdname": fdSnapshot}); err != nil && !refused(err, "not found") {
		return false, err
	}
	return d.running(ctx, m)
}

// cancelSnapshot asks QEMU to give up, which takes it a moment. A save or dump of
// libvirt's that came to be a snapshot because of the capability is let end.
func (d *Domain) cancelSnapshot(ctx context.Context, m migration) error {
	if err := d.CheckJob(ctx); err != nil || m.Status == "cancelling" {
		return err
	}
	_, err := qmp[nothing](ctx, d, "migrate_cancel")
	return err
}

// refused reports whether QEMU refused a command with a text that contains word.
func refused(err error, word string) bool {
	var q *qmpError
	return errors.As(err, &q) && strings.Contains(q.Desc, word)
}

// running resumes the guest if the failed snapshot m left it stopped. libvirt has
// no reason for such a stop; it has one for that of an operator.
func (d *Domain) running(ctx context.Context, m migration) (bool, error) {
	s, err := d.status(ctx)
	if err != nil {
		return false, err
	}
	stopped := rpc.DomainState(s.state) == rpc.DomainPaused && rpc.DomainPausedReason(s.reason) == rpc.DomainPausedUnknown
	if !stopped || m.Status != "failed" && m.Status != "cancelled" {
		return true, nil
	}
	return false, d.resume(ctx) // and look again
}

// resume has libvirt resume the guest, whoever paused it.
func (d *Domain) resume(ctx context.Context) error {
	_, err := query(ctx, d.conn, fmt.Sprintf("resume domain %q", d.dom.Name), func(l *rpc.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainResume(d.dom)
	})
	return err
}
