package capture

import (
	"context"
	"errors"
	"fmt"
	"runtime/trace"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"snap/hv"
	"snap/phys"
)

// Pause is the mode in which the guest stands still: while its memory is copied,
// where there is room for that, else until the dump is written.
type Pause struct{}

// Name implements Mode.
func (Pause) Name() string { return "pause" }

// Doc implements Mode.
func (Pause) Doc() string {
	return "the guest stands still while its pages are copied, one point in time"
}

// Auto implements Mode.
func (Pause) Auto() bool { return true }

// Consistent implements Mode.
func (Pause) Consistent() bool { return true }

// Check implements Mode: any guest can be paused.
func (Pause) Check(context.Context, hv.VM) error { return nil }

// ErrPauseTooLong is the class of a pause that would be longer than allowed and
// was not begun, or that became so and was ended. The error is a *PauseError.
var ErrPauseTooLong = errors.New("the guest would stand still for too long")

// PauseError says that a pause doesn't fit its limit.
type PauseError struct {
	Estimate PauseEstimate
	Limit    time.Duration
	Stood    time.Duration // 0 if the pause was not begun
	Ends     time.Duration // how long it would have become, of one that was ended before its limit; 0 if that can't be told
	Err      error         // what was cut short, nil if the pause was not begun
}

func (e *PauseError) Error() string {
	if e.Stood == 0 {
		return fmt.Sprintf("not paused: the guest would stand still for %s (%s), which can be longer than the %s allowed",
			e.Estimate.Total(), e.Estimate, e.Limit)
	}
	what := fmt.Sprintf("the guest stood still for %s, longer than the %s allowed", rounded(e.Stood), e.Limit)
	if e.Stood <= e.Limit {
		what = fmt.Sprintf("the guest stood still for %s and would have for longer than the %s allowed", rounded(e.Stood), e.Limit)
		if e.Ends > 0 {
			what = fmt.Sprintf("the guest stood still for %s and would have for about %s, longer than the %s allowed", rounded(e.Stood), rounded(e.Ends), e.Limit)
		}
	}
	return fmt.Sprintf("%s: the dump is abandoned and the guest runs (the estimate was %s: %s): %v", what, e.Estimate.Total(), e.Estimate, e.Err)
}

// Is reports whether target is ErrPauseTooLong.
func (e *PauseError) Is(target error) bool { return target == ErrPauseTooLong }

// Unwrap returns what was cut short.
func (e *PauseError) Unwrap() error { return e.Err }

// Estimate implements Mode: with a copy where that fits, and without.
func (Pause) Estimate(ctx context.Context, s *Session) ([]Estimate, error) {
	pages, fit, err := s.copyPages(ctx)
	if err != nil {
		return nil, err
	}
	var all []Estimate
	if fit {
		p, err := s.estimateCopy(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, s.pauseEstimate(p, pages))
		if !s.Thorough {
			return all, nil
		}
	}
	p, err := s.estimateHeld(ctx)
	if err != nil {
		return nil, err
	}
	return append(all, s.pauseEstimate(p, pages)), nil
}

// pauseEstimate is the estimate of a pause of a guest with so many populated
// pages.
func (s *Session) pauseEstimate(p *PauseEstimate, populated uint64) Estimate {
	e := Estimate{
		Mode: Pause{}.Name(), Copied: p.Copied, StandsStill: p.Total(), Takes: p.Total().Likely, Consistent: true,
		Pause: p, populated: populated,
	}
	if p.Copied && s.sample != nil {
		e.Takes += s.sample.Duration
	}
	return e
}

// Acquire implements Mode.
func (m Pause) Acquire(ctx context.Context, s *Session, e *Estimate) (*Moment, error) {
	if e == nil {
		all, err := m.Estimate(ctx, s)
		if err != nil {
			return nil, err
		}
		e = &all[0]
	}
	const without = "pages are compressed while the guest stands still"
	acc := s.Account(m)
	switch {
	case e.Copied:
		m, err := acquireCopy(ctx, s, &acc, e)
		if !errors.Is(err, errNoCopy) {
			return m, err
		}
		acc.warn("%v: %s", err, without)
		p, err := s.estimateHeld(ctx)
		if err != nil {
			return nil, err
		}
		held := s.pauseEstimate(p, e.populated)
		e = &held
	case s.Options.MemoryCopy > 0:
		s.warnNoRoom(&acc, e.populated, without)
	}
	if err := acc.expect(e, s.Options.MaxPause); err != nil {
		return nil, err
	}
	return acquireHeld(ctx, s, forWriting, acc)
}

// warnNoRoom says that so many populated pages don't fit what a copy may take,
// and what is done without one.
func (s *Session) warnNoRoom(acc *Account, pages uint64, without string) {
	acc.warn("%s of populated guest memory don't fit a spool of %s: %s", size(pages<<phys.PageShift), size(s.Options.MemoryCopy), without)
}

// expect notes the estimate and fails if it doesn't fit.
func (a *Account) expect(e *Estimate, limit time.Duration) error {
	a.Estimate, a.Copied = *e.Pause, e.Copied
	return e.Reject(limit)
}

// errNoCopy says that there is no memory for a copy, for a reason that was not
// known when it was chosen.
var errNoCopy = errors.New("no spool")

// acquireCopy copies the guest's memory while it stands still. The moment is the
// copy, and the guest runs. What becomes of it is in acc, also if there is no copy.
func acquireCopy(ctx context.Context, s *Session, acc *Account, e *Estimate) (*Moment, error) {
	if err := acc.expect(e, s.Options.MaxPause); err != nil {
		return nil, err
	}
	memory, err := s.reserve(ctx, s.Memory, e.populated)
	if err != nil {
		return nil, err
	}
	c, cpus, err := s.copyPaused(ctx, acc, memory)
	if err != nil {
		return nil, errors.Join(err, memory.free())
	}
	end := func(err error) error { return errors.Join(err, c.Close()) }
	return NewMoment(ctx, c, cpus, *acc, end), nil
}

// copyPaused copies the guest's registers and its populated memory while it
// stands still. memory is the copy's only if there is no error.
func (s *Session) copyPaused(ctx context.Context, acc *Account, memory hostMemory) (*memoryCopy, []phys.Registers, error) {
	defer trace.StartRegion(ctx, "pause").End()
	h, err := s.hold(ctx, forCopy, acc)
	if err != nil {
		return nil, nil, err
	}
	var work copyWork
	stop := h.watch(work.progress, acc.Estimate.Reading.Likely, likelySure, false)
	c, cpus, err := s.copyHeld(h, acc, memory, &work)
	stop()
	if errors.Is(err, errCopyFull) {
		full := fmt.Errorf("%w: %w", errNoCopy, err)
		if err := h.end(nil); err != nil {
			return nil, nil, err
		}
		return nil, nil, full // and only that: the guest runs again
	}
	return c, cpus, h.end(err)
}

// copyHeld is copyPaused of a guest that stands still.
func (s *Session) copyHeld(h *holding, acc *Account, memory hostMemory, work *copyWork) (c *memoryCopy, cpus []phys.Registers, err error) {
	ctx := h.ctx
	// The hypervisor takes a while to answer, and nothing changes meanwhile.
	var mem hv.Memory
	var closeMem func()
	var asked errgroup.Group
	asked.Go(func() (err error) {
		if cpus, err = s.VM.Registers(ctx); err != nil {
			return err
		}
		mem, closeMem, err = s.sameRAM(ctx, acc)
		return err
	})
	trace.WithRegion(ctx, "copy", func() {
		c, err = s.copyNow(ctx, heldMemory{s.Memory, h}, memory, s.Options.copyWorkers(), work)
	})
	if asked := asked.Wait(); asked != nil {
		return nil, nil, asked
	}
	defer closeMem()
	if !slices.Equal(mem.RAM(), s.Memory.RAM()) {
		c, err = s.copyNow(ctx, heldMemory{mem, h}, memory, s.Options.copyWorkers(), work)
	}
	return c, cpus, err
}

// copyNow copies what is populated now to memory. That is all such pages of RAM
// and not only what Windows says is memory: which pages those are is only known
// when the copy is analyzed.
func (s *Session) copyNow(ctx context.Context, mem hv.Memory, memory hostMemory, workers int, work *copyWork) (*memoryCopy, error) {
	set, known, err := mem.Populated(ctx)
	if err != nil {
		return nil, err
	}
	l, err := s.layout(memory, set.Pages())
	if err != nil {
		return nil, fmt.Errorf("%w: %s of the guest's memory are populated by now", err, size(set.Pages()<<phys.PageShift))
	}
	c := newMemoryCopyIn(l, mem, set, known)
	work.done.Store(0)
	work.total.Store(set.Pages())
	return c, c.fillCounted(ctx, mem, workers, &work.done)
}

// copyWork is how much of a copy is done, in pages. total is 0 until it is known.
type copyWork struct{ done, total atomic.Uint64 }

func (w *copyWork) progress() (done, total uint64) { return w.done.Load(), w.total.Load() }
