package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"snap/hv"
	"snap/phys"
)

// ErrPauseTooLong is the class of a pause that would be longer than allowed and
// was not begun, or that became so and was ended. The error is a *PauseError.
var ErrPauseTooLong = errors.New("the guest would stand still for too long")

// PauseError says that a pause doesn't fit its limit.
type PauseError struct {
	Estimate PauseEstimate
	Limit    time.Duration
	Stood    time.Duration // 0 if the pause was not begun
	Err      error         // what was cut short, nil if the pause was not begun
}

func (e *PauseError) Error() string {
	if e.Stood == 0 {
		return fmt.Sprintf("not paused: the guest would stand still for about %s (%s), longer than the %s allowed",
			rounded(e.Estimate.Total()), e.Estimate, e.Limit)
	}
	return fmt.Sprintf("the guest stood still for %s, longer than the %s allowed: the dump is abandoned and the guest runs (the estimate was %s: %s): %v",
		rounded(e.Stood), e.Limit, rounded(e.Estimate.Total()), e.Estimate, e.Err)
}

// Is reports whether target is ErrPauseTooLong.
func (e *PauseError) Is(target error) bool { return target == ErrPauseTooLong }

// Unwrap returns what was cut short.
func (e *PauseError) Unwrap() error { return e.Err }

// errRanOver is the cause with which the context of a pause ends.
var errRanOver = errors.New("the time for the pause is up")

// takePaused writes a dump of the guest while it stands still, or of a copy that
// was made while it did.
func (j *Job) takePaused(ctx context.Context, t *taking) error {
	if pages, ok, err := j.spoolPages(ctx, t.mem); err != nil {
		return err
	} else if ok {
		err := j.takeSpooled(ctx, t, pages)
		if !errors.Is(err, errNoSpool) {
			return err
		}
		t.res.warn("%v: pages are compressed while the guest stands still", err)
	} else if j.Spool > 0 {
		t.res.warn("%s of populated guest memory don't fit a spool of %s: pages are compressed while the guest stands still", size(pages<<phys.PageShift), size(j.Spool))
	}
	o := j.Write
	o.Progress, o.Metadata = nil, nil
	w, err := t.early.Estimate(ctx, t.mem, o)
	if err != nil {
		return err
	}
	e, err := j.estimateUnspooled(ctx, t.early, w)
	if err != nil {
		return err
	}
	if err := j.begin(t.res, e); err != nil {
		return err
	}
	return j.hold(ctx, forWriting, t.res, func(ctx context.Context) error { return j.write(ctx, t) })
}

// begin notes the estimate and fails if it doesn't fit.
func (j *Job) begin(res *Result, e *PauseEstimate) error {
	res.Estimate, res.Spooled = *e, e.Spooled
	if j.MaxPause > 0 && e.Total() > j.MaxPause {
		return &PauseError{Estimate: *e, Limit: j.MaxPause}
	}
	return nil
}

// errNoSpool says that there is no spool, for a reason that was not known when
// it was chosen.
var errNoSpool = errors.New("no spool")

// takeSpooled copies the guest's memory while it stands still, and writes the
// dump of the copy while it runs.
func (j *Job) takeSpooled(ctx context.Context, t *taking, pages uint64) error {
	e, err := j.estimateSpooled(ctx, t.mem)
	if err != nil {
		return err
	}
	if err := j.begin(t.res, e); err != nil {
		return err
	}
	memory, err := j.reserve(ctx, t.mem, pages)
	if err != nil {
		return err
	}
	s, cpus, err := j.copyPaused(ctx, t, memory)
	if err != nil {
		return errors.Join(err, memory.free())
	}
	err = j.writeFrom(ctx, t, s, cpus)
	return errors.Join(err, s.Close())
}

// reserve gets memory for a copy of the guest's pages, of which so many are
// populated now. An error of class errNoSpool says that it has to be done
// without.
func (j *Job) reserve(ctx context.Context, mem hv.Memory, pages uint64) (region, error) {
	// Room for every page that the guest may have by then, as far as it is
	// allowed; but only what is expected is taken from the host beforehand.
	room := min(max(mem.RAM().Pages(), pages), j.Spool>>phys.PageShift)
	memory, err := newRegion(room << phys.PageShift)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoSpool, err)
	}
	if err := memory.fault(ctx, min(withMargin(pages), room)<<phys.PageShift, j.workers()); err != nil {
		if ctx.Err() != nil {
			return nil, errors.Join(err, memory.free())
		}
		return nil, errors.Join(fmt.Errorf("%w: %w", errNoSpool, err), memory.free())
	}
	return memory, nil
}

// copyPaused copies the guest's registers and its populated memory while it
// stands still. memory is the spool's only if there is no error.
func (j *Job) copyPaused(ctx context.Context, t *taking, memory region) (s *spool, cpus []phys.Registers, err error) {
	var full error
	err = j.hold(ctx, forCopy, t.res, func(ctx context.Context) (err error) {
		// The hypervisor takes a while to answer, and nothing changes meanwhile.
		var mem hv.Memory
		var closeMem func()
		var asked errgroup.Group
		asked.Go(func() (err error) {
			if cpus, err = j.VM.Registers(ctx); err != nil {
				return err
			}
			mem, closeMem, err = j.sameRAM(ctx, t.mem, t.res)
			return err
		})
		s, err = j.copyNow(ctx, t.mem, memory)
		if asked := asked.Wait(); asked != nil {
			return asked
		}
		defer closeMem()
		if !slices.Equal(mem.RAM(), t.mem.RAM()) {
			s, err = j.copyNow(ctx, mem, memory)
		}
		if errors.Is(err, errSpoolFull) {
			full = fmt.Errorf("%w: %w", errNoSpool, err)
			return nil
		}
		return err
	})
	if err == nil && full != nil {
		err = full // and only that: the guest runs again
	}
	return s, cpus, err
}

// copyNow copies what is populated now to memory. That is all such pages of RAM
// and not only what Windows says is memory: which pages those are is only known
// when the copy is looked at.
func (j *Job) copyNow(ctx context.Context, mem hv.Memory, memory region) (*spool, error) {
	set, known, err := mem.Populated(ctx)
	if err != nil {
		return nil, err
	}
	s, err := newSpool(memory, mem, set, known)
	if err != nil {
		return nil, fmt.Errorf("%w: %s of the guest's memory are populated by now", err, size(set.Pages()<<phys.PageShift))
	}
	return s, s.fill(ctx, mem, j.workers())
}

// holding is what a guest is held still for.
type holding int

const (
	forCopy    holding = iota // of its memory: for a moment
	forWriting                // of the whole dump
	forOthers                 // somebody else paused it, so that it is no pause of ours
)

// pause stops the guest, for a moment by a job of the hypervisor's where it can:
// what others want of the guest meanwhile then waits and isn't lost.
func (j *Job) pause(ctx context.Context, why holding) (hv.Hold, error) {
	if vm, ok := j.VM.(hv.JobPauser); ok && why == forCopy {
		hold, err := vm.PauseByJob(ctx)
		if err == nil || ctx.Err() != nil || !errors.Is(err, hv.ErrUnsupported) {
			return hold, err
		}
		j.Log.Debug().Err(err).Msg("suspend the guest instead")
	}
	return j.VM.Pause(ctx)
}

// hold calls do while the guest stands still. Where the pause is ours, do's context
// ends when the time for it is up. When hold returns, the guest does what it did
// before, unless errors.Is(err, hv.ErrStillPaused).
func (j *Job) hold(ctx context.Context, why holding, res *Result, do func(context.Context) error) (err error) {
	within, limit := ctx, j.MaxPause
	if why == forOthers {
		limit = 0
	}
	if limit > 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeoutCause(ctx, limit, errRanOver)
		defer cancel()
	}
	began := time.Now()
	var stood time.Duration
	var released error
	defer func() {
		res.Pause += stood
		over := ctx.Err() == nil && errors.Is(context.Cause(within), errRanOver)
		switch {
		case err != nil && over:
			if stood == 0 {
				stood = time.Since(began)
			}
			err = &PauseError{Estimate: res.Estimate, Limit: limit, Stood: stood, Err: err}
		case err == nil && limit > 0 && stood > limit:
			res.warn("the guest stood still for %s, longer than the %s allowed: it took that long to resume it", rounded(stood), limit)
		}
	}()
	hold, err := j.pause(within, why)
	if err != nil {
		return err
	}
	release := sync.OnceFunc(func() { stood, released = hold.Release() })
	// Whatever do hangs in, a destination that takes no more for one, the guest
	// doesn't wait for it.
	stop := context.AfterFunc(within, release)
	defer func() {
		if !stop() && err == nil {
			err = fmt.Errorf("hold the guest still: %w", context.Cause(within))
		}
		release()
		res.Held = false
		if released != nil && !errors.Is(err, hv.ErrStillPaused) {
			err = errors.Join(err, released)
		}
	}()
	res.Consistent, res.Held = true, why != forOthers
	return do(within)
}

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
