package capture

import (
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"snap/phys"
)

// stopAndStart is what stopping and starting a guest is assumed to take. It
// can't be measured without doing it: QEMU answers when the guest's disks are
// flushed (do_vm_stop in system/cpus.c). Idle ones take a few milliseconds.
const stopAndStart = 30 * time.Millisecond

// PauseEstimate says how long a guest would stand still.
type PauseEstimate struct {
	Copied    bool          // pages are only copied meanwhile; else compressed and written as well
	Pages     uint64        // to be read meanwhile
	Reading   time.Duration // of all these pages, from a sample of them that was read for it
	Analyzing time.Duration // what Windows has in its memory, measured on the running guest
	State     time.Duration // of asking for registers and RAM map, measured as well
	Switch    time.Duration // of stopping and starting the guest, assumed
}

// Total is how long the guest would stand still in all.
func (e PauseEstimate) Total() time.Duration {
	if e.Copied { // pages are copied while the hypervisor is asked
		return max(e.Reading, e.State) + e.Switch
	}
	return e.Reading + e.Analyzing + e.State + e.Switch
}

// String tells what the pause is made of.
func (e PauseEstimate) String() string {
	doing := "compress"
	if e.Copied {
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

// rounded is d for people.
func rounded(d time.Duration) time.Duration {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond)
	case d < 10*time.Second:
		return d.Round(time.Millisecond)
	default:
		return d.Round(100 * time.Millisecond)
	}
}

// estimateCopy copies a sample of the populated pages, as the pause will. It is
// done once in a session.
func (s *Session) estimateCopy(ctx context.Context) (*PauseEstimate, error) {
	if s.copied != nil {
		return s.copied, nil
	}
	s.Options.tell(Event{Phase: PhaseEstimate})
	e := &PauseEstimate{Copied: true, Switch: stopAndStart}
	if err := s.measureState(ctx, e); err != nil {
		return nil, err
	}
	start := time.Now()
	set, _, err := s.Memory.Populated(ctx)
	if err != nil {
		return nil, err
	}
	scan := time.Since(start)
	if e.Pages = set.Pages(); e.Pages > 0 {
		reading, err := s.timeCopy(ctx, sampleOf(set))
		if err != nil {
			return nil, err
		}
		e.Reading = scan + time.Duration(float64(reading)*float64(e.Pages))
	}
	s.copied = e
	return e, nil
}

// timeCopy returns how many nanoseconds a page takes, from copying the pages of
// the sample.
func (s *Session) timeCopy(ctx context.Context, sample phys.Runs) (nanoseconds float64, err error) {
	memory, err := newHostMemory(sample.Pages() << phys.PageShift)
	if err != nil {
		return 0, err
	}
	defer func() { _ = memory.free() }() // a sample of what is in the guest
	if err := memory.fault(ctx, uint64(len(memory)), s.Options.workers()); err != nil {
		return 0, err
	}
	c, err := newMemoryCopy(memory, s.Memory, sample, true)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := c.fill(ctx, s.Memory, s.Options.workers()); err != nil {
		return 0, fmt.Errorf("probe how fast the guest's memory can be read: %w", err)
	}
	return float64(time.Since(start)) / float64(sample.Pages()), nil
}

// estimateHeld counts on the whole dump being written meanwhile.
func (s *Session) estimateHeld(ctx context.Context) (*PauseEstimate, error) {
	w, err := s.Sample(ctx)
	if err != nil {
		return nil, err
	}
	e := &PauseEstimate{Pages: w.Populated, Reading: w.Duration, Switch: stopAndStart, Analyzing: s.Analysis.Took}
	return e, s.measureState(ctx, e)
}

// measureState asks the hypervisor what it is asked for during a pause.
func (s *Session) measureState(ctx context.Context, e *PauseEstimate) error {
	start := time.Now()
	if _, err := s.VM.Registers(ctx); err != nil {
		return err
	}
	if _, err := s.VM.RAM(ctx); err != nil {
		return err
	}
	e.State = time.Since(start)
	return nil
}
