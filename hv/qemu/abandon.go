package qemu

import (
	"context"
	"errors"
	"fmt"
	"time"

	"snap/hv"
	"snap/hv/internal/bounded"
)

// Pauses between two attempts to undo a snapshot.
const (
	undoAgain   = 50 * time.Millisecond
	undoLongest = time.Second
)

// AbandonSnapshot ends a background snapshot of QEMU's, if there is one, and puts
// back what it needs changed: the capability, the descriptor, and, if QEMU failed
// after it had stopped the guest, the guest. A guest that somebody else paused
// stays so. There need not be anything to undo, and the snapshot may be another
// process's, which died. It tries until ctx ends; the error is then
// hv.ErrStillPaused. It is hv.ErrNoDomain or hv.ErrNotRunning if the guest is gone.
func (g *Guest) AbandonSnapshot(ctx context.Context, by Manager) error {
	err := bounded.Insist(ctx, undoAgain, undoLongest, func(ctx context.Context) (bool, error) {
		done, err := g.undoSnapshot(ctx, by)
		switch {
		case err != nil && ended(err):
			return true, err
		case err != nil && by.Gone(ctx):
			return true, fmt.Errorf("domain %q: %w", g.o.Name, hv.ErrNotRunning)
		case done:
			return true, nil
		}
		return false, err
	})
	if err == nil || ended(err) {
		return err
	}
	return fmt.Errorf("undo the snapshot of domain %q: %w: %w; `%s` shows whether %s is still on",
		g.o.Name, hv.ErrStillPaused, err, g.m.Shell(`{"execute":"query-migrate-capabilities"}`), capSnapshot)
}

// ended reports whether err says that there is no guest any more.
func ended(err error) bool {
	return errors.Is(err, hv.ErrNoDomain) || errors.Is(err, hv.ErrNotRunning)
}

// undoSnapshot makes one attempt, as far as it gets. The capability can't be turned
// off under a migration, so one that goes on while it is off isn't ours. The
// descriptor goes before the capability: a command to save that a process sent as
// it died then finds either both or no descriptor, and never begins a migration
// proper.
func (g *Guest) undoSnapshot(ctx context.Context, by Manager) (done bool, err error) {
	_, on, err := g.snapshotCapability(ctx)
	if err != nil {
		return false, err
	}
	m, err := g.migration(ctx)
	if err != nil {
		return false, err
	}
	if on && !m.over() {
		return false, g.cancelSnapshot(ctx, by, m)
	}
	if err := g.closeSink(ctx); err != nil {
		return false, err
	}
	if on {
		return false, g.setSnapshotCapability(ctx, false) // and look again
	}
	return g.running(ctx, by, m)
}

// cancelSnapshot asks QEMU to give up, which takes it a moment. A save or dump of
// the manager's that came to be a snapshot because of the capability is let end.
//
// A snapshot that QEMU sets up is let come to its beginning, for which the guest
// need not stand still. QEMU 9.1 and later would fail it as it writes the first
// bytes, and then end the watch over the guest's memory that it had not begun: it
// closes the number of a descriptor that nobody has set yet, its own 0
// (bg_migration_thread in migration/migration.c, ram_write_tracking_stop and
// ram_state_init in migration/ram.c; see lostStdin).
func (g *Guest) cancelSnapshot(ctx context.Context, by Manager, m migration) error {
	if err := by.CheckJob(ctx); err != nil || m.settingUp() || m.Status == "cancelling" {
		return err
	}
	_, err := qmp[nothing](ctx, g, "migrate_cancel")
	return err
}

// running resumes the guest if the failed snapshot m left it stopped.
func (g *Guest) running(ctx context.Context, by Manager, m migration) (bool, error) {
	stopped, err := by.StoppedByQEMU(ctx)
	if err != nil {
		return false, err
	}
	if !stopped || m.Status != "failed" && m.Status != "cancelled" {
		return true, nil
	}
	return false, by.Resume(ctx) // and look again
}
