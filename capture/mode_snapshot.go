package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"snap/dump"
	"snap/hv"
	"snap/manifest"
	"snap/phys"
)

// Snapshot is the mode in which the guest runs on while the hypervisor saves it
// as it was at one moment.
type Snapshot struct{}

// Name implements Mode.
func (Snapshot) Name() string { return "snapshot" }

// Doc implements Mode.
func (Snapshot) Doc() string {
	return "it runs while QEMU (9.0 or later) saves it, one point in time"
}

// Auto implements Mode.
func (Snapshot) Auto() bool { return true }

// Consistent implements Mode.
func (Snapshot) Consistent() bool { return true }

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
	// snapshotMost is how many times longer than likely that may be.
	snapshotMost = 2
)

// Check implements Mode.
func (Snapshot) Check(ctx context.Context, vm hv.VM) error {
	sv, ok := vm.(hv.Snapshotter)
	if !ok {
		return fmt.Errorf("no snapshot: %w: this hypervisor takes none", hv.ErrUnsupported)
	}
	return sv.CheckSnapshot(ctx)
}

// Estimate implements Mode.
func (Snapshot) Estimate(ctx context.Context, s *Session) ([]Estimate, error) {
	e := Estimate{Mode: Snapshot{}.Name(), Consistent: true}
	err := Snapshot{}.Check(ctx, s.VM)
	if err == nil && s.Options.NoSwap {
		err = fmt.Errorf("no snapshot: %w: QEMU saves the guest to memory that can't be kept off the host's swap disks meanwhile", hv.ErrUnsupported)
	}
	if errors.Is(err, hv.ErrUnsupported) {
		e.Why = err
		return []Estimate{e}, nil
	}
	if err != nil {
		return nil, err
	}
	set, _, err := s.Memory.Populated(ctx)
	if err != nil {
		return nil, err
	}
	pages := s.Memory.RAM().Pages()
	e.populated = set.Pages()
	e.Takes = time.Duration(float64(pages) / snapshotRate * float64(time.Second))
	if s.sample != nil {
		e.Takes += s.sample.Duration
	}
	down := stopAndStart + time.Duration(float64(pages<<phys.PageShift)/(1<<30)*float64(protectGiB))
	e.StandsStill = Span{down, down * snapshotMost}
	bytes, err := s.VM.(hv.Snapshotter).SnapshotSize(ctx, e.populated)
	if err != nil {
		return nil, err
	}
	if room := s.Options.MemoryCopy; bytes > room {
		e.Why = fmt.Errorf("no snapshot: %w: it takes %s of the host's memory, more than a spool of %s", hv.ErrUnsupported, size(bytes), size(room))
	}
	return []Estimate{e}, nil
}

// Acquire implements Mode.
func (Snapshot) Acquire(ctx context.Context, s *Session, e *Estimate) (*Moment, error) {
	if e == nil {
		all, err := Snapshot{}.Estimate(ctx, s)
		if err != nil {
			return nil, err
		}
		e = &all[0]
	}
	limit := s.Options.MaxPause
	if err := e.Reject(limit); err != nil {
		return nil, err
	}
	if err := s.dropAhead(); err != nil { // QEMU writes to memory of its own
		return nil, err
	}
	progress := new(dump.Progress)
	s.Options.tell(Event{Phase: PhaseSave, Progress: progress, Expect: e.Takes})
	clock := followClock(ctx, s.Memory, s.Analysis.System)
	saved, err := s.VM.(hv.Snapshotter).Snapshot(ctx, hv.SnapshotOptions{
		Populated: e.populated, Room: s.Options.MemoryCopy,
		Progress: func(done, total uint64) {
			progress.Total.Store(total)
			progress.Done.Store(done)
		},
	})
	stall, seen := clock.end()
	if err != nil {
		return nil, err
	}
	progress.Done.Store(progress.Total.Load())
	acc := s.Account(Snapshot{})
	acc.Mechanism, acc.Consistency, acc.Downtime = saved.Mechanism(), manifest.OnePointInTime, saved.Downtime()
	if acc.StallSeen = seen; seen {
		acc.Stall = stall
	}
	if limit > 0 && acc.Downtime > limit {
		acc.warn("QEMU stopped the guest for %s, longer than the %s allowed: it can't be told before, nor ended", rounded(acc.Downtime), limit)
	}
	end := func(err error) error { return errors.Join(err, saved.Close()) }
	return NewMoment(ctx, saved, saved.Registers(), acc, end), nil
}
