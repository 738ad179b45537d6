package libvirt

import (
	"context"
	"time"

	"snap/hv"
	"snap/hv/qemu"
)

var _ hv.Snapshotter = (*Domain)(nil)

// SnapshotSize implements hv.Snapshotter.
func (d *Domain) SnapshotSize(ctx context.Context, populated uint64) (uint64, error) {
	return d.qemu.SnapshotSize(ctx, populated)
}

// Snapshot implements hv.Snapshotter by QEMU's background snapshots.
func (d *Domain) Snapshot(ctx context.Context, o hv.SnapshotOptions) (hv.Snapshot, error) {
	if err := d.CheckSnapshot(ctx); err != nil {
		return nil, err
	}
	var k hv.Keeper
	if d.kept != nil {
		k = marking{d}
	}
	return d.qemu.Snapshot(ctx, o, manager{d}, k)
}

// abandonSnapshot ends a snapshot of this process's or of one that died (see
// qemu.Guest).
func (d *Domain) abandonSnapshot(ctx context.Context) error {
	return d.qemu.AbandonSnapshot(ctx, manager{d})
}

// marking is the domain's Keeper, which also sees to its marker.
type marking struct{ d *Domain }

// Hold implements hv.Keeper. That it is undone at ctx's deadline is what hold says.
func (k marking) Hold(ctx context.Context, why hv.Reason, _ time.Time) error {
	return k.d.kept.hold(ctx, k.d, why)
}

// Progressed implements hv.Keeper.
func (k marking) Progressed() { k.d.kept.Keeper.Progressed() }

// Freed implements hv.Keeper.
func (k marking) Freed() error { return k.d.kept.free(k.d) }

// manager is libvirt as a qemu.Manager.
type manager struct{ d *Domain }

var _ qemu.Manager = manager{}

// CheckJob implements qemu.Manager.
func (m manager) CheckJob(ctx context.Context) error { return m.d.CheckJob(ctx) }

// StoppedByQEMU implements qemu.Manager. libvirt has no reason for such a stop; it
// has one for that of an operator, and for that of a guest that crashed if not at
// once.
func (m manager) StoppedByQEMU(ctx context.Context) (bool, error) {
	s, err := m.d.status(ctx)
	if err != nil || !s.crashing() {
		return false, err
	}
	return m.d.stopped(ctx) == nil, nil
}

// Resume implements qemu.Manager.
func (m manager) Resume(ctx context.Context) error { return m.d.resume(ctx) }

// Gone implements qemu.Manager.
func (m manager) Gone(ctx context.Context) bool { return m.d.gone(ctx) }
