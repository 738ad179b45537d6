package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"snap/hv"
	"snap/hv/vmstate"
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

// SnapshotSize implements hv.Snapshotter.
func (d *Domain) SnapshotSize(ctx context.Context, populated uint64) (uint64, error) {
	g, err := d.sizes(ctx)
	if err != nil {
		return 0, err
	}
	return g.stream(populated), nil
}

// guestSizes is what bounds the stream of a guest.
type guestSizes struct {
	ram ramMap
	all uint64 // bytes of all of QEMU's RAM blocks
}

func (d *Domain) sizes(ctx context.Context) (g guestSizes, err error) {
	if g.ram, err = d.ramMap(ctx); err != nil {
		return g, err
	}
	g.all, err = d.blockBytes(ctx)
	return g, err
}

// stream bounds the stream if so many pages have content.
func (g guestSizes) stream(populated uint64) uint64 {
	return streamSize(g.ram.runs.Pages(), populated, g.all)
}

// streamSize bounds the stream of a guest with so many pages, of which so many
// have content, in blocks of so many bytes: what of these isn't the guest's memory
// counts as full.
func streamSize(pages, populated, all uint64) uint64 {
	populated = min(pages, populated+populated/16)
	others := all>>phys.PageShift - min(pages, all>>phys.PageShift)
	return pages*zeroBytes + (populated+others)*(recordBytes+phys.PageSize) + otherBytes
}

// blockBytes returns the size of all of QEMU's RAM blocks.
func (d *Domain) blockBytes(ctx context.Context) (uint64, error) {
	text, err := d.hmp(ctx, "info ramblock")
	if err != nil {
		return 0, err
	}
	blocks, err := parseRAMBlocks(text)
	if err != nil {
		return 0, fmt.Errorf("domain %q: %w", d.dom.Name, err)
	}
	var sum uint64
	for _, b := range blocks {
		if sum += b.used; sum < b.used {
			return 0, fmt.Errorf("domain %q: RAM blocks are larger than any address space", d.dom.Name)
		}
	}
	return sum, nil
}

// Snapshot implements hv.Snapshotter by QEMU's background snapshots: QEMU
// write-protects the guest's memory at one moment, lets the guest go on, and saves
// each page before it is written to.
func (d *Domain) Snapshot(ctx context.Context, o hv.SnapshotOptions) (hv.Snapshot, error) {
	if err := d.CheckSnapshot(ctx); err != nil {
		return nil, err
	}
	g, err := d.snapshot(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("take a snapshot of domain %q: %w", d.dom.Name, err)
	}
	return g, nil
}

func (d *Domain) snapshot(ctx context.Context, o hv.SnapshotOptions) (_ *savedGuest, err error) {
	sizes, err := d.sizes(ctx)
	if err != nil {
		return nil, err
	}
	m, size := sizes.ram, sizes.stream(o.Populated)
	if size > o.Room {
		return nil, fmt.Errorf("%w: it takes %d bytes of the host's memory, and only %d are allowed", hv.ErrUnsupported, size, o.Room)
	}
	s, err := newSink(ctx, size, min(o.Room, sizes.stream(m.runs.Pages())))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	saved, err := d.saveGuarded(ctx, s, o.Progress)
	if err != nil {
		return nil, err
	}
	kvm, err := d.underKVM(ctx)
	if err != nil {
		return nil, err
	}
	b, err := s.contents()
	if err != nil {
		return nil, err
	}
	st, err := vmstate.Parse(b, vmstate.Options{MaxRAM: sizes.all, MaxCPUs: maxCPUs, KVM: kvm})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hv.ErrFormat, err)
	}
	if again, err := d.RAM(ctx); err != nil || !slices.Equal(again, m.runs) {
		return nil, errors.Join(err, fmt.Errorf("%w: the guest's memory changed size meanwhile", hv.ErrBusy))
	}
	g, err := newSavedGuest(st, m)
	if err != nil {
		return nil, err
	}
	g.sink, g.downtime = s, time.Duration(saved.Downtime*float64(time.Millisecond))
	return g, nil
}

// saveGuarded has QEMU save the guest, with somebody ready to undo it.
func (d *Domain) saveGuarded(ctx context.Context, s *sink, progress func(done, total uint64)) (migration, error) {
	if d.kept != nil {
		if err := d.kept.hold(ctx, d, hv.ForSnapshot); err != nil {
			return migration{}, err
		}
	}
	saved, err := d.save(ctx, s, progress)
	undo, cancel := within(context.Background(), d.limits().resumeFor)
	defer cancel()
	undone := d.abandonSnapshot(undo)
	if d.kept != nil && !errors.Is(undone, hv.ErrStillPaused) {
		d.kept.free(d)
	}
	return saved, errors.Join(err, undone)
}

// save has QEMU save the guest to s. Whatever comes of it, something may be left
// to undo.
func (d *Domain) save(ctx context.Context, s *sink, progress func(done, total uint64)) (migration, error) {
	w, err := s.writer()
	if err != nil {
		return migration{}, err
	}
	err = d.giveSink(ctx, w)
	_ = w.Close() // QEMU has its own
	if err != nil {
		return migration{}, err
	}
	if err := d.setSnapshotCapability(ctx, true); err != nil {
		return migration{}, impossible(err)
	}
	if err := d.startSnapshot(ctx); err != nil {
		return migration{}, impossible(err)
	}
	for {
		m, err := d.awaitMigration(ctx)
		if err != nil {
			return m, err
		}
		switch m.Status {
		case "completed":
			return m, nil
		case "failed":
			return m, fmt.Errorf("QEMU gave up: %s", m.Error)
		case "cancelled", "cancelling":
			return m, fmt.Errorf("somebody cancelled it: %w", hv.ErrDisturbed)
		}
		if progress != nil && m.RAM.Total > 0 {
			progress(m.RAM.Total-min(m.RAM.Remaining, m.RAM.Total), m.RAM.Total)
		}
		select {
		case <-time.After(d.limits().pollEvery):
		case <-ctx.Done():
			return m, ended(ctx)
		}
	}
}

// impossible gives a refusal of QEMU's its class.
func impossible(err error) error {
	var q *qmpError
	if errors.As(err, &q) {
		return fmt.Errorf("%w: %w", hv.ErrUnsupported, err)
	}
	return err
}

// awaitMigration asks how far QEMU is. It bears with a daemon that is away for a
// while: QEMU goes on without it.
func (d *Domain) awaitMigration(ctx context.Context) (migration, error) {
	for since := time.Now(); ; {
		m, err := d.migration(ctx)
		if err == nil || ctx.Err() != nil || d.gone(ctx) || time.Since(since) > d.limits().resumeFor {
			return m, err
		}
		var q *qmpError
		if errors.As(err, &q) {
			return m, err
		}
		select {
		case <-time.After(d.limits().pollEvery):
		case <-ctx.Done():
			return m, ended(ctx)
		}
	}
}
