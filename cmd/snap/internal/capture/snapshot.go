package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"snap/hv"
	"snap/phys"
)

// What a background snapshot is assumed to take. None of it can be measured
// without taking one.
const (
	// snapshotRate is how many pages QEMU saves in a second: it polls for faults,
	// writes and unprotects them one by one (ram_save_host_page and
	// ram_save_release_protection in migration/ram.c), zero ones too.
	snapshotRate = 120_000
	// protectGiB is how long QEMU takes to write-protect a GiB of memory that the
	// host maps in small pages, while the guest stands still.
	protectGiB = 25 * time.Millisecond
)

// SnapshotEstimate says what mode snapshot would take.
type SnapshotEstimate struct {
	Why       error         // that it can't be taken, an hv.ErrUnsupported; nil if it can
	Populated uint64        // pages that can hold anything but zeros
	Bytes     uint64        // of the host's memory
	Saving    time.Duration // until QEMU has saved the guest, which runs meanwhile
	Downtime  time.Duration // that the guest stands still
}

// SnapshotEstimate says what a snapshot of the guest in mem would take, or why
// there can be none. It changes nothing.
func (j *Job) SnapshotEstimate(ctx context.Context, mem hv.Memory) (*SnapshotEstimate, error) {
	vm, ok := j.VM.(hv.Snapshotter)
	if !ok {
		return &SnapshotEstimate{Why: fmt.Errorf("no snapshot: %w: this hypervisor takes none", hv.ErrUnsupported)}, nil
	}
	err := vm.CheckSnapshot(ctx)
	if errors.Is(err, hv.ErrUnsupported) {
		return &SnapshotEstimate{Why: err}, nil
	}
	if err != nil {
		return nil, err
	}
	set, _, err := mem.Populated(ctx)
	if err != nil {
		return nil, err
	}
	pages := mem.RAM().Pages()
	e := &SnapshotEstimate{
		Populated: set.Pages(),
		Saving:    time.Duration(float64(pages) / snapshotRate * float64(time.Second)),
		Downtime:  stopAndStart + time.Duration(float64(pages<<phys.PageShift)/(1<<30)*float64(protectGiB)),
	}
	if e.Bytes, err = vm.SnapshotSize(ctx, e.Populated); err != nil {
		return nil, err
	}
	if e.Bytes > j.Spool {
		e.Why = fmt.Errorf("no snapshot: %w: it takes %s of the host's memory, more than a spool of %s", hv.ErrUnsupported, size(e.Bytes), size(j.Spool))
	}
	return e, nil
}

// takeSnapshot writes a dump of a snapshot that is taken of the guest while it
// runs.
func (j *Job) takeSnapshot(ctx context.Context, t *taking) error {
	e, err := j.SnapshotEstimate(ctx, t.mem)
	switch {
	case err != nil:
		return err
	case e.Why != nil:
		return e.Why
	case j.MaxPause > 0 && e.Downtime > j.MaxPause:
		return fmt.Errorf("no snapshot: %w: about %s, and %s are allowed", ErrPauseTooLong, rounded(e.Downtime), j.MaxPause)
	}
	t.res.Mode = ModeSnapshot
	clock := followClock(ctx, t.mem, t.early.System)
	s, err := j.VM.(hv.Snapshotter).Snapshot(ctx, hv.SnapshotOptions{Populated: e.Populated, Room: j.Spool, Progress: j.Saving})
	stall, seen := clock.end()
	if err != nil {
		return err
	}
	t.res.Mechanism, t.res.Consistent, t.res.Downtime = s.Mechanism(), true, s.Downtime()
	if t.res.StallSeen = seen; seen {
		t.res.Stall = stall
	}
	if j.MaxPause > 0 && s.Downtime() > j.MaxPause {
		t.res.warn("QEMU stopped the guest for %s, longer than the %s allowed: it can't be told before, nor ended", rounded(s.Downtime()), j.MaxPause)
	}
	return errors.Join(j.writeFrom(ctx, t, s, s.Registers()), s.Close())
}

// takeBest takes the dump by pause if its estimate fits, else by a snapshot if
// one can be taken, else not at all.
func (j *Job) takeBest(ctx context.Context, t *taking) error {
	before := slices.Clone(t.res.Warnings)
	err := j.takePaused(ctx, t)
	tooLong, ok := errors.AsType[*PauseError](err)
	if !ok || tooLong.Stood > 0 {
		return err
	}
	t.res.Estimate, t.res.Spooled, t.res.Warnings = PauseEstimate{}, false, before
	instead := j.takeSnapshot(ctx, t)
	if errors.Is(instead, hv.ErrUnsupported) || errors.Is(instead, ErrPauseTooLong) {
		return fmt.Errorf("%w; and %w", err, instead)
	}
	return instead
}
