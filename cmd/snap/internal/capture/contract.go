package capture

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/dustin/go-humanize"

	"snap/hv"
	"snap/phys"
)

// stopAndStart is what stopping and starting a guest is assumed to take. It
// can't be measured without doing it: QEMU answers when the guest's disks are
// flushed (do_vm_stop in system/cpus.c). Idle ones take a few milliseconds.
const stopAndStart = 30 * time.Millisecond

// PauseEstimate says how long a guest would stand still.
type PauseEstimate struct {
	Spooled bool          // pages are only copied meanwhile; else compressed and written as well
	Pages   uint64        // to be read meanwhile
	Reading time.Duration // of all these pages, from a sample of them that was read for it
	Looking time.Duration // for what Windows has in its memory, measured on the running guest
	State   time.Duration // of asking for registers and RAM map, measured as well
	Switch  time.Duration // of stopping and starting the guest, assumed
}

// Total is how long the guest would stand still in all.
func (e PauseEstimate) Total() time.Duration {
	if e.Spooled { // pages are copied while the hypervisor is asked
		return max(e.Reading, e.State) + e.Switch
	}
	return e.Reading + e.Looking + e.State + e.Switch
}

// String tells what the pause is made of.
func (e PauseEstimate) String() string {
	doing := "compress"
	if e.Spooled {
		doing = "copy"
	}
	rate := "once"
	if e.Reading > 0 {
		rate = size(uint64(float64(e.Pages<<phys.PageShift)/e.Reading.Seconds())) + "/s"
	}
	return fmt.Sprintf("%s to %s at %s take %s, all else %s", size(e.Pages<<phys.PageShift), doing, rate,
		rounded(e.Reading), rounded(e.Total()-e.Reading))
}

func size(n uint64) string { return humanize.IBytes(n) }

// PauseEstimates says how long the guest of s would stand still with a spool
// and without; w is what s.Estimate made of it. The first is nil where the guest
// doesn't fit the spool. A sample of the guest's pages is read for it.
func (j *Job) PauseEstimates(ctx context.Context, mem hv.Memory, s *Survey, w *Estimate) (spooled, unspooled *PauseEstimate, err error) {
	_, ok, err := j.spoolPages(ctx, mem)
	if err != nil {
		return nil, nil, err
	}
	if ok {
		if spooled, err = j.estimateSpooled(ctx, mem); err != nil {
			return nil, nil, err
		}
	}
	unspooled, err = j.estimateUnspooled(ctx, s, w)
	return spooled, unspooled, err
}

// withMargin is how many pages a spool is made ready for: a running guest
// populates more of them until it stands still.
func withMargin(pages uint64) uint64 { return pages + pages/16 + 4096 }

// spoolPages returns how many pages are populated, and whether they fit the
// spool.
func (j *Job) spoolPages(ctx context.Context, mem hv.Memory) (pages uint64, fit bool, err error) {
	set, _, err := mem.Populated(ctx)
	if err != nil {
		return 0, false, err
	}
	pages = set.Pages()
	return pages, min(withMargin(pages), mem.RAM().Pages()) <= j.Spool>>phys.PageShift, nil
}

func (j *Job) workers() int {
	if j.Write.Workers > 0 {
		return j.Write.Workers
	}
	return runtime.GOMAXPROCS(0)
}

// estimateSpooled copies a sample of the populated pages, as the pause will.
func (j *Job) estimateSpooled(ctx context.Context, mem hv.Memory) (*PauseEstimate, error) {
	e := &PauseEstimate{Spooled: true, Switch: stopAndStart}
	if err := j.measureState(ctx, e); err != nil {
		return nil, err
	}
	start := time.Now()
	set, _, err := mem.Populated(ctx)
	if err != nil {
		return nil, err
	}
	scan := time.Since(start)
	if e.Pages = set.Pages(); e.Pages == 0 {
		return e, nil
	}
	sample := sampleOf(set)
	memory, err := newRegion(sample.Pages() << phys.PageShift)
	if err != nil {
		return nil, err
	}
	defer func() { _ = memory.free() }() // a sample of what is in the guest
	if err := memory.fault(ctx, uint64(len(memory)), j.workers()); err != nil {
		return nil, err
	}
	s, err := newSpool(memory, mem, sample, true)
	if err != nil {
		return nil, err
	}
	start = time.Now()
	if err := s.fill(ctx, mem, j.workers()); err != nil {
		return nil, fmt.Errorf("probe how fast the guest's memory can be read: %w", err)
	}
	e.Reading = scan + time.Duration(float64(time.Since(start))*float64(e.Pages)/float64(sample.Pages()))
	return e, nil
}

// estimateUnspooled counts on the whole dump being written meanwhile.
func (j *Job) estimateUnspooled(ctx context.Context, s *Survey, w *Estimate) (*PauseEstimate, error) {
	e := &PauseEstimate{Pages: w.Populated, Reading: w.Duration, Switch: stopAndStart, Looking: s.Took}
	return e, j.measureState(ctx, e)
}

// measureState asks the hypervisor what it is asked for during a pause.
func (j *Job) measureState(ctx context.Context, e *PauseEstimate) error {
	start := time.Now()
	if _, err := j.VM.Registers(ctx); err != nil {
		return err
	}
	if _, err := j.VM.RAM(ctx); err != nil {
		return err
	}
	e.State = time.Since(start)
	return nil
}
