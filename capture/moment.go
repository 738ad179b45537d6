package capture

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"snap/dump"
	"snap/hv"
	"snap/manifest"
	"snap/phys"
)

// Moment is a guest's memory and processors as a mode acquired them. Whatever it
// takes to keep them, a guest that is held still or memory of the host, is let go
// by Release.
type Moment struct {
	Memory  hv.Memory
	CPUs    []phys.Registers // empty where a source has none
	Account Account

	// early is what stands in where the guest can't be understood now, nil for
	// nothing.
	early *Analysis
	ctx   context.Context
	held  *holding          // the pause that lasts until the moment is released, nil if none does
	smear smear             // nil where all pages are of one point in time
	kept  *keptMemory       // below Memory where that changes; else nil
	end   func(error) error // nil where there is nothing to let go
}

// NewMoment returns the moment of mem and cpus, for the Acquire of a Mode. end is
// Moment.Release, or nil where there is nothing to let go.
func NewMoment(ctx context.Context, mem hv.Memory, cpus []phys.Registers, acc Account, end func(error) error) *Moment {
	return &Moment{Memory: mem, CPUs: cpus, Account: acc, ctx: ctx, end: end}
}

// Account is how a moment was acquired.
type Account struct {
	Mode      string // that was taken, never ModeAuto
	Mechanism hv.Mechanism
	State     hv.State // of the guest when the dump began

	// Consistency is whether all pages are of one point in time, and ConsistencyFrom
	// where that is known from, or why it isn't; empty where the mode says it.
	Consistency     manifest.Consistency
	ConsistencyFrom string

	Pause     time.Duration // how long this process held the guest still
	Estimate  PauseEstimate // of that, made before; zero if nothing was held
	Copied    bool          // pages were copied first: all else is of the copy
	Smear     *Smear        // how far pages are of different times; nil but in mode live, and until it is known
	Downtime  time.Duration // that the hypervisor held the guest still for a snapshot, as it reports
	Stall     time.Duration // the longest that the guest's own clock was seen to stand still during a snapshot
	StallSeen bool          // Stall is known
	Held      bool          // this process holds the guest still right now
	Warnings  []string

	heldSince time.Time // while Held
}

// Consistent reports whether all pages are known to be of one point in time.
func (a *Account) Consistent() bool { return a.Consistency == manifest.OnePointInTime }

// stood is how long this process has held the guest still so far.
func (a *Account) stood() time.Duration {
	if a.Held {
		return a.Pause + time.Since(a.heldSince)
	}
	return a.Pause
}

func (a *Account) warn(format string, args ...any) {
	a.Warnings = append(a.Warnings, fmt.Sprintf(format, args...))
}

// smear counts what changes in a guest that runs while it is read.
type smear interface {
	// begin is called when it is known which pages are about to be written.
	begin(*dump.Plan, *Account)
	// count is called when all of them are read. It may be called again, and
	// then returns the same.
	count(context.Context, *dump.Plan, *Account) error
}

// Context returns the context for all that is done with the moment: it ends with
// the one that it was acquired under, and when the guest can't be held still any
// longer.
func (m *Moment) Context() context.Context { return m.ctx }

// Release lets the guest and the host's memory go. err is what came of using the
// moment; the result is err, or why the moment could not be kept, which may be
// the reason for err: of class ErrPauseTooLong, hv.ErrDisturbed or
// hv.ErrStillPaused among others. When it returns, the guest does what it did
// before, unless errors.Is(err, hv.ErrStillPaused). Later calls return err.
func (m *Moment) Release(err error) error {
	if m.end == nil {
		return err
	}
	end := m.end
	m.end = nil
	return end(err)
}

// holding is a guest that is held still.
type holding struct {
	ctx    context.Context // of what is done meanwhile
	parent context.Context
	cancel context.CancelFunc
	limit  time.Duration
	letGo  time.Duration // of limit, what it takes to have the guest run again

	begins  func()                  // told when the work begins that leave waits for, nil for nobody
	abandon context.CancelCauseFunc // ends ctx before its time; nil where the pause isn't ours
	began   time.Time
	vm      hv.VM
	opts    *Options
	acc     *Account

	reads     atomic.Uint64 // of the guest's memory meanwhile
	releasing atomic.Bool   // the guest is being let go

	release  func()
	stop     func() bool // the release at the end of ctx; false if it came to that
	stood    time.Duration
	released error
}

// purpose is what a guest is held still for.
type purpose int

const (
	forCopy    purpose = iota // of its memory: for a moment
	forWriting                // of the whole dump
	forOthers                 // it stands still already, so that it is no pause of ours
)

// errRanOver is the cause with which the context of a pause ends.
var errRanOver = errors.New("the time for the pause is up")

// hold holds the guest still. Where the pause is ours, the holding's context ends
// when the time for it is up, and the guest goes on then. The caller ends with
// holding.end. If hold fails, the guest does what it did before, unless
// errors.Is(err, hv.ErrStillPaused).
func (s *Session) hold(ctx context.Context, why purpose, acc *Account) (*holding, error) {
	h := &holding{ctx: ctx, parent: ctx, cancel: func() {}, limit: s.Options.MaxPause, vm: s.VM, opts: &s.Options, acc: acc}
	if why == forOthers {
		h.limit = 0
	}
	if h.limit > 0 {
		h.letGo = min(stopAndStart/2, h.limit/10)
		h.ctx, h.abandon = context.WithCancelCause(ctx)
		h.ctx, h.cancel = context.WithTimeoutCause(h.ctx, h.limit-h.letGo, errRanOver)
	}
	h.began = time.Now()
	hold, err := s.pause(h.ctx, why)
	if err != nil {
		return nil, h.judge(err)
	}
	done := make(chan struct{})
	go h.tellProgress(hold, done)
	h.release = sync.OnceFunc(func() {
		defer close(done)
		h.releasing.Store(true)
		h.stood, h.released = hold.Release()
	})
	// Whatever is done meanwhile hangs in, a destination that takes no more for
	// one, the guest doesn't wait for it.
	h.stop = context.AfterFunc(h.ctx, h.release)
	acc.Consistency, acc.Held, acc.heldSince = manifest.OnePointInTime, why != forOthers, h.began
	if acc.Held {
		h.opts.tell(Event{Phase: PhasePaused, Held: true, Expect: acc.Estimate.Total().Likely})
	}
	return h, nil
}

// progressEvery is how often whoever keeps a pause hears that it goes on.
const progressEvery = time.Second

// tellProgress tells the hold that the guest's memory is being read, as long as that
// is so, until done is closed. It is what the guest is held for: where a destination
// takes nothing, it soon isn't read any more. That the guest is being let go, which
// takes long where the hypervisor's daemon is away, is progress as well.
func (h *holding) tellProgress(hold hv.Hold, done <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var last uint64
	for {
		select {
		case <-tick.C:
			if now := h.reads.Load(); now != last || h.releasing.Load() {
				last = now
				hold.Progressed()
			}
		case <-done:
			return
		}
	}
}

// heldMemory is a guest's memory while it is held still.
type heldMemory struct {
	hv.Memory

	h *holding
}

// ReadPhys implements phys.Reader.
func (m heldMemory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	return m.read(ctx, m.Memory, p, at)
}

// ReadCost implements hv.DearMemory.
func (m heldMemory) ReadCost() hv.ReadCost { return hv.ReadCostOf(m.Memory) }

// Batch implements hv.DearMemory.
func (m heldMemory) Batch() hv.Batch { return batchOver{hv.BatchOf(m.Memory), m.read} }

// read is ReadPhys with below to read the memory.
func (m heldMemory) read(ctx context.Context, below phys.Reader, p []byte, at phys.Addr) error {
	err := below.ReadPhys(ctx, p, at)
	if err == nil {
		m.h.reads.Add(1)
	}
	return err
}

// pause stops the guest, for a moment by a job of the hypervisor's where it can:
// what others want of the guest meanwhile then waits and isn't lost.
func (s *Session) pause(ctx context.Context, why purpose) (hv.Hold, error) {
	if vm, ok := s.VM.(hv.JobPauser); ok && why == forCopy {
		hold, err := vm.PauseByJob(ctx)
		if err == nil || ctx.Err() != nil || !errors.Is(err, hv.ErrUnsupported) {
			return hold, err
		}
		s.Options.debug(ctx, "suspend the guest instead of holding it by a job", "why", err)
	}
	return s.VM.Pause(ctx)
}

// end lets the guest go. err is what came of holding it; see Moment.Release.
func (h *holding) end(err error) error {
	if !h.stop() && err == nil {
		err = fmt.Errorf("hold the guest still: %w", context.Cause(h.ctx))
	}
	h.release()
	if h.acc.Held {
		h.acc.Held = false
		h.opts.tell(Event{Phase: PhaseRunning, Stood: h.stood})
		if h.stood == 0 && h.released == nil {
			h.stoodAlready()
		}
	}
	if h.released != nil && !errors.Is(err, hv.ErrStillPaused) {
		err = errors.Join(err, h.released)
	}
	return h.judge(err)
}

// stoodAlready says so of a guest that stopped by itself, or was paused, after the
// last look at it: holding it was no pause of ours, and letting it go no resume.
func (h *holding) stoodAlready() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.parent), stateFor)
	defer cancel()
	if s, err := h.vm.State(ctx); err == nil {
		h.acc.State = s
	}
	h.acc.warn("the guest stopped before it could be paused: it is %s, was dumped as it stands and is left so", h.acc.State)
}

// stateFor bounds asking for a guest's state when a dump has ended.
const stateFor = 5 * time.Second

// judge says so where err is that the time for the pause was up.
func (h *holding) judge(err error) error {
	defer h.cancel()
	if h.abandon != nil {
		defer h.abandon(nil)
	}
	h.acc.Pause += h.stood
	over := h.parent.Err() == nil && errors.Is(context.Cause(h.ctx), errRanOver)
	switch {
	case errors.Is(err, hv.ErrOverdue):
		return err // which says how long it stood, and that more time would not help
	case err != nil && over:
		if h.stood == 0 {
			h.stood = time.Since(h.began)
		}
		e := &PauseError{Estimate: h.acc.Estimate, Limit: h.limit, Stood: h.stood, Err: err}
		if o, ok := errors.AsType[*overrunError](context.Cause(h.ctx)); ok {
			e.Ends = o.ends
		}
		return e
	case err == nil && h.limit > 0 && h.stood > h.limit:
		h.acc.warn("the guest stood still for %s, longer than the %s allowed: it took that long to resume it", rounded(h.stood), h.limit)
	}
	return err
}

// acquireStill is the moment of a guest that stands still already: there is nothing
// to make short, and nothing to end.
func acquireStill(ctx context.Context, s *Session) (*Moment, error) {
	return acquireHeld(ctx, s, forOthers, s.Account(Pause{}))
}

// acquireHeld holds the guest still until the moment is released.
func acquireHeld(ctx context.Context, s *Session, why purpose, acc Account) (*Moment, error) {
	m := &Moment{Account: acc}
	if err := s.dropAhead(); err != nil { // nothing is copied
		return nil, err
	}
	h, err := s.hold(ctx, why, &m.Account)
	if err != nil {
		return nil, err
	}
	m.ctx, m.end, m.held = h.ctx, h.end, h
	h.leave(acc.Estimate.Reading.Likely)
	if m.CPUs, err = s.VM.Registers(h.ctx); err != nil {
		return nil, m.Release(err)
	}
	mem, closeMem, err := s.sameRAM(h.ctx, &m.Account)
	if err != nil {
		return nil, m.Release(err)
	}
	m.Memory = heldMemory{mem, h}
	m.end = func(err error) error {
		closeMem()
		return h.end(err)
	}
	return m, nil
}
