package hv

import (
	"context"
	"time"

	"snap/phys"
)

// Snapshotter is a VM whose memory of one moment can be had while it runs on.
type Snapshotter interface {
	VM

	// CheckSnapshot fails with ErrUnsupported, and says why, unless a snapshot
	// is known to do this guest on this host no harm. It changes nothing.
	CheckSnapshot(ctx context.Context) error

	// SnapshotSize returns how many bytes of the host's memory a snapshot takes
	// if so many pages of the guest can hold anything but zeros.
	SnapshotSize(ctx context.Context, populated uint64) (uint64, error)

	// Snapshot takes a snapshot, and fails as CheckSnapshot does, without
	// having changed anything, where it must not. When it returns, all that it
	// changed of the hypervisor is as it was, unless
	// errors.Is(err, ErrStillPaused). The caller closes what it returns.
	Snapshot(ctx context.Context, o SnapshotOptions) (Snapshot, error)
}

// SnapshotOptions say what a snapshot may take.
type SnapshotOptions struct {
	// Populated is how many pages can hold anything but zeros, as far as it is
	// known: memory for them is taken from the host before the snapshot begins.
	Populated uint64
	// Room is the most bytes of the host's memory that the snapshot may take. One
	// that would take more is given up.
	Room uint64
	// Progress, if it isn't nil, is called now and then with the bytes of the
	// guest's memory that are saved, of so many.
	Progress func(done, total uint64)
}

// Snapshot is a guest's memory and processors of one moment, kept on the host.
type Snapshot interface {
	Memory

	// Registers returns the state of every processor, in the hypervisor's order.
	Registers() []phys.Registers

	// Downtime is how long the guest stood still for it, as the hypervisor
	// reports.
	Downtime() time.Duration
}
