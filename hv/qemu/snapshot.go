package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"snap/hv"
	"snap/hv/internal/bounded"
	"snap/hv/qemu/vmstate"
	"snap/phys"
)

// What a page and all that is no page take in QEMU's stream (migration/ram.c):
// each page has a record of 8 bytes, followed by its content or by one byte for
// all of its zeros.
const (
	recordBytes = 8
	zeroBytes   = recordBytes + 1
	// otherBytes is for devices, section headers and names, and for what the
	// guest populates until the snapshot begins.
	otherBytes = 32 << 20
)

// Bounds on a snapshot.
const (
	// lookEvery is the pause between two looks at how far QEMU is.
	lookEvery = 50 * time.Millisecond
	// awayFor is how long a monitor that doesn't answer is borne with: QEMU goes on
	// without it.
	awayFor = 60 * time.Second
	// undoFor is how long it is tried to end the snapshot, and setUpRate is how fast
	// QEMU at least reads all of the guest's memory, in bytes per second, when it
	// sets one up: it isn't ended before that (cancelSnapshot).
	undoFor   = 60 * time.Second
	setUpRate = 4 << 30
)

// undoWithin is how long it is tried to end a snapshot of a guest with so many bytes
// of memory.
func undoWithin(bytes uint64) time.Duration {
	return undoFor + time.Duration(min(bytes, maxSnapshot)/setUpRate)*time.Second
}

// maxSnapshot bounds what undoWithin reckons with, in bytes.
const maxSnapshot = 1 << 45

// SnapshotSize returns how many bytes of the host's memory a snapshot takes if so
// many pages can hold anything but zeros.
func (g *Guest) SnapshotSize(ctx context.Context, populated uint64) (uint64, error) {
	m, err := g.RAMMap(ctx)
	if err != nil {
		return 0, err
	}
	return m.stream(populated), nil
}

// stream bounds the stream if so many pages have content.
func (m RAMMap) stream(populated uint64) uint64 {
	return streamSize(m.runs.Pages(), populated, m.blocks)
}

// streamSize bounds the stream of a guest with so many pages, of which so many
// have content, in blocks of so many bytes: what of these isn't the guest's memory
// counts as full.
func streamSize(pages, populated, all uint64) uint64 {
	populated = min(pages, populated+populated/16)
	others := all>>phys.PageShift - min(pages, all>>phys.PageShift)
	return pages*zeroBytes + (populated+others)*(recordBytes+phys.PageSize) + otherBytes
}

// Snapshot takes a snapshot of the guest by QEMU's background snapshots: QEMU
// write-protects the guest's memory at one moment, lets the guest go on, and saves
// each page before it is written to. The caller has asked WhyNoSnapshot, and closes
// what it returns. by is who else runs QEMU; k undoes the snapshot should this
// process die, nil if nobody does. When Snapshot returns, all that it changed of
// QEMU is as it was, unless errors.Is(err, hv.ErrStillPaused).
func (g *Guest) Snapshot(ctx context.Context, o hv.SnapshotOptions, by Manager, k hv.Keeper) (hv.Snapshot, error) {
	s, err := g.snapshot(ctx, o, by, k)
	if err != nil {
		return nil, fmt.Errorf("take a snapshot of domain %q: %w", g.o.Name, err)
	}
	return s, nil
}

func (g *Guest) snapshot(ctx context.Context, o hv.SnapshotOptions, by Manager, k hv.Keeper) (_ *savedGuest, err error) {
	m, err := g.RAMMap(ctx)
	if err != nil {
		return nil, err
	}
	size := m.stream(o.Populated)
	if size > o.Room {
		return nil, fmt.Errorf("%w: it takes %d bytes of the host's memory, and only %d are allowed", hv.ErrUnsupported, size, o.Room)
	}
	s, err := newSink(ctx, size, min(o.Room, m.stream(m.runs.Pages())))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	saved, err := g.saveGuarded(ctx, s, undoWithin(m.blocks), o.Progress, by, k)
	if err != nil {
		return nil, err
	}
	return g.open(ctx, s, m, saved)
}

// open makes a snapshot of what QEMU saved to s, of a guest whose RAM map was m.
func (g *Guest) open(ctx context.Context, s *sink, m RAMMap, saved migration) (*savedGuest, error) {
	kvm, err := g.underKVM(ctx)
	if err != nil {
		return nil, err
	}
	b, err := s.contents(ctx)
	if err != nil {
		return nil, err
	}
	st, err := vmstate.Parse(b, vmstate.Options{MaxRAM: m.blocks, MaxCPUs: maxCPUs, KVM: kvm})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hv.ErrFormat, err)
	}
	if again, err := g.RAM(ctx); err != nil || !slices.Equal(again, m.runs) {
		return nil, errors.Join(err, fmt.Errorf("%w: the guest's memory changed size meanwhile", hv.ErrBusy))
	}
	guest, err := newSavedGuest(st, m)
	if err != nil {
		return nil, err
	}
	guest.sink, guest.downtime = s, time.Duration(saved.Downtime*float64(time.Millisecond))
	return guest, nil
}

// saveGuarded has QEMU save the guest, with somebody ready to undo it, which is
// tried for as long as undoing says.
func (g *Guest) saveGuarded(ctx context.Context, s *sink, undoing time.Duration, progress func(done, total uint64), by Manager, k hv.Keeper) (migration, error) {
	if k != nil {
		until, _ := ctx.Deadline()
		if err := k.Hold(ctx, hv.ForSnapshot, until); err != nil {
			return migration{}, err
		}
	}
	t := teller{keeper: k, progress: progress}
	saved, err := g.save(ctx, s, t.hears, by)
	undo, cancel := bounded.Within(context.Background(), undoing)
	defer cancel()
	undone := t.while(func() error { return g.AbandonSnapshot(undo, by) })
	if k != nil && !errors.Is(undone, hv.ErrStillPaused) {
		err = errors.Join(err, k.Freed())
	}
	return saved, errors.Join(err, undone)
}

// tellEvery is how often a keeper hears that a snapshot goes on.
const tellEvery = time.Second

// teller tells how far a snapshot is.
type teller struct {
	keeper   hv.Keeper                // nil for none
	progress func(done, total uint64) // nil for nobody

	done uint64    // as the keeper heard last
	at   time.Time // when it did
}

// hears takes in how far QEMU is. The keeper hears of it when there is progress, and
// while QEMU sets the snapshot up, for which it touches all memory and counts nothing.
func (t *teller) hears(m migration) {
	done := m.RAM.Total - min(m.RAM.Remaining, m.RAM.Total)
	if t.progress != nil && m.RAM.Total > 0 {
		t.progress(done, m.RAM.Total)
	}
	if t.keeper != nil && (done != t.done || m.Status == "setup") && time.Since(t.at) >= tellEvery {
		t.done, t.at = done, time.Now()
		t.keeper.Progressed()
	}
}

// while does what may take long, and that it is being done is progress.
func (t *teller) while(do func() error) error {
	if t.keeper == nil {
		return do()
	}
	var told sync.WaitGroup
	done := make(chan struct{})
	told.Go(func() {
		tick := time.NewTicker(tellEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				t.keeper.Progressed()
			case <-done:
				return
			}
		}
	})
	err := do()
	close(done)
	told.Wait()
	return err
}

// save has QEMU save the guest to s. Whatever comes of it, something may be left
// to undo.
func (g *Guest) save(ctx context.Context, s *sink, hears func(migration), by Manager) (migration, error) {
	w, err := s.writer()
	if err != nil {
		return migration{}, err
	}
	err = g.giveSink(ctx, w)
	_ = w.Close() // QEMU has its own
	if err != nil {
		return migration{}, err
	}
	if err := g.setSnapshotCapability(ctx, true); err != nil {
		return migration{}, impossible(err)
	}
	if err := g.startSnapshot(ctx); err != nil {
		return migration{}, impossible(err)
	}
	for {
		m, err := g.awaitMigration(ctx, by)
		if err != nil {
			return m, err
		}
		switch m.Status {
		case "completed":
			return m, nil
		case "failed":
			return m, fmt.Errorf("%w: QEMU gave up: %s", hv.ErrRefused, m.Error)
		case "cancelled", "cancelling":
			return m, fmt.Errorf("somebody cancelled it: %w", hv.ErrDisturbed)
		}
		hears(m)
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return m, bounded.Ended(ctx)
		}
	}
}

// impossible gives a refusal of QEMU's its class.
func impossible(err error) error {
	if _, ok := errors.AsType[*RefusedError](err); ok {
		return fmt.Errorf("%w: %w", hv.ErrUnsupported, err)
	}
	return err
}

// awaitMigration asks how far QEMU is. It bears with a monitor that is away for a
// while.
func (g *Guest) awaitMigration(ctx context.Context, by Manager) (migration, error) {
	for since := time.Now(); ; {
		m, err := g.migration(ctx)
		if err == nil || ctx.Err() != nil || by.Gone(ctx) || time.Since(since) > awayFor {
			return m, err
		}
		if _, ok := errors.AsType[*RefusedError](err); ok {
			return m, err
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			return m, bounded.Ended(ctx)
		}
	}
}
