package qemu

import "context"

// Manager is whoever else runs this QEMU, like libvirt: it may have QEMU save the
// guest on its own account, and it, not QEMU, knows who paused the guest. It is
// safe for concurrent use. Errors have the classes of package hv.
type Manager interface {
	// CheckJob fails with hv.ErrBusy while the manager itself has QEMU save or
	// migrate the guest, and with hv.ErrNotRunning if there is no guest any more.
	CheckJob(ctx context.Context) error

	// StoppedByQEMU reports whether the guest stands still and nobody has asked
	// for it: QEMU itself has stopped it, for a migration for one.
	StoppedByQEMU(ctx context.Context) (bool, error)

	// Resume has the guest go on, whoever paused it.
	Resume(ctx context.Context) error

	// Gone reports whether the guest is known to have ended.
	Gone(ctx context.Context) bool
}
