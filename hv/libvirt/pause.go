package libvirt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
	"snap/hv/internal/bounded"
)

// Bounds on stopping and starting a guest.
const (
	// suspendGrace is how long a suspend may go on after its context ended. QEMU
	// flushes the guest's disks before it answers; a call that is cut before the
	// answer leaves open whether it will still stop the guest.
	suspendGrace = 10 * time.Second
	// resumeFor is how long Release tries to resume a guest.
	resumeFor = 60 * time.Second
	// resumeTry bounds one attempt of these.
	resumeTry = 15 * time.Second
	// jobWait is how long the daemon lets a call wait for another job on the
	// domain (QEMU_JOB_WAIT_TIME in src/conf/virdomainjob.c is 30 s).
	jobWait = 31 * time.Second
	// calmFor is how long a running guest must be seen without a job before a
	// suspend without an answer is held to be over.
	calmFor = 500 * time.Millisecond
	// pollEvery is the pause between two looks at a domain.
	pollEvery = 50 * time.Millisecond
	// resumeAgain is the longest pause between two attempts to resume: a daemon
	// that is back finds the guest running soon.
	resumeAgain = 250 * time.Millisecond
)

// limits are the bounds above, so that tests need not wait for them.
type limits struct {
	suspendGrace, resumeFor, resumeTry, jobWait, calmFor, pollEvery time.Duration
}

var defaultLimits = limits{suspendGrace, resumeFor, resumeTry, jobWait, calmFor, pollEvery}

// Pause implements hv.VM. It uses a connection of its own, which the Hold keeps,
// so that nothing else that goes wrong stands between the guest and its resume.
// When ctx ends while the daemon is stopping the guest, Pause waits for the
// answer before it undoes it.
func (d *Domain) Pause(ctx context.Context) (hv.Hold, error) {
	var w hv.Watch
	if d.kept != nil {
		w = d.kept.Watch
		w.Reset(true) // before the state is asked for: a resume after it counts
	}
	now, err := d.mayPause(ctx)
	if err != nil {
		return nil, err
	}
	if now.hv().Still() {
		return d.asItStands(ctx, now, w)
	}
	s, err := d.conn.target.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("pause domain %q: %w", d.dom.Name, err)
	}
	h := &hold{d: d, session: s, limits: d.limits()}
	if d.kept != nil {
		if err := d.kept.hold(ctx, d, hv.ForPause); err != nil {
			return nil, errors.Join(fmt.Errorf("pause domain %q: %w", d.dom.Name, err), s.close())
		}
		h.kept, h.watch = d.kept, w
	}
	// Getting ready takes a while, over ssh seconds. Whoever paused the guest
	// meanwhile has it: a suspend of ours would change nothing, but a resume would.
	still, err := h.standsStill(ctx)
	if err != nil {
		h.drop()
		return nil, fmt.Errorf("pause domain %q: %w", d.dom.Name, err)
	}
	if still {
		h.drop()
		return d.Pause(ctx)
	}
	h.began = time.Now()
	err = h.suspend(ctx)
	if err == nil && ctx.Err() == nil {
		var stopped bool
		if stopped, err = h.tooLate(ctx); stopped {
			h.drop()
			return d.Pause(ctx)
		}
		if err == nil {
			return h, nil
		}
	}
	if err == nil {
		err = bounded.Ended(ctx)
	}
	err = fmt.Errorf("pause domain %q: %w", d.dom.Name, err)
	if undo := h.giveUp(); undo != nil {
		return nil, errors.Join(undo, err)
	}
	return nil, err
}

func (d *Domain) limits() limits {
	if d.bounds != nil {
		return *d.bounds
	}
	return defaultLimits
}

// mayPause returns the state of a guest that runs or stands still already, and fails
// if it must not be paused.
func (d *Domain) mayPause(ctx context.Context) (status, error) {
	if err := d.CheckJob(ctx); err != nil {
		return status{}, err
	}
	s, err := d.status(ctx)
	if err == nil {
		err = s.hv().Check(d.Identity(), false)
	}
	if err != nil {
		return status{}, fmt.Errorf("pause domain %q: %w", d.dom.Name, err)
	}
	return s, nil
}

// hold is a pause that we made, or may have made.
type hold struct {
	d       *Domain
	session *session
	began   time.Time
	unsure  bool // suspend had no answer
	refused bool // the daemon said that it didn't suspend
	asked   bool // for a resume
	limits  limits

	kept  *keeping // what else undoes it, nil if nothing does
	watch hv.Watch // sees resumes by others, nil if nobody looks
	run   string   // whose marker the guest must bear, if h is adopted

	once  sync.Once
	stood time.Duration
	err   error
}

// suspend stops the guest. The call isn't cut when ctx ends, only later.
func (h *hold) suspend(ctx context.Context) error {
	call, cancel := bounded.Within(context.WithoutCancel(ctx), h.d.conn.timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(h.limits.suspendGrace, cancel)
		context.AfterFunc(call, func() { timer.Stop() })
	})
	defer stop()
	_, err := run(call, h.session, func(l *rpc.Libvirt) (struct{}, error) {
		return struct{}{}, l.DomainSuspend(h.d.dom)
	})
	if err == nil {
		return nil
	}
	if isAnswer(err) {
		h.refused = true
		return classify(err)
	}
	h.unsure = true
	if ctx.Err() != nil {
		return bounded.Ended(ctx)
	}
	return err
}

// giveUp undoes a suspend that failed or came too late.
func (h *hold) giveUp() error {
	if h.refused {
		h.drop()
		return nil
	}
	_, err := h.Release()
	return err
}

// drop lets go of a pause that was not made.
func (h *hold) drop() {
	_ = h.session.close() // nothing was done on it
	if h.kept != nil {
		_ = h.kept.free(h.d) // nothing was held for too long
	}
}

// Release implements hv.Hold.
func (h *hold) Release() (time.Duration, error) {
	h.once.Do(func() {
		ctx, cancel := bounded.Within(context.Background(), h.limits.resumeFor)
		defer cancel()
		h.err = h.resume(ctx)
		if h.err != nil && !nothingLeft(h.err) {
			h.err = fmt.Errorf("resume domain %q: %w: %w; run `virsh -c %s resume %s`",
				h.d.dom.Name, hv.ErrStillPaused, h.err, h.d.conn.URI(), h.d.dom.Name)
		}
		if h.stood == 0 {
			h.stood = time.Since(h.began)
		}
		if h.session != nil {
			_ = h.session.close() // its work is done
		}
		if h.kept != nil && (h.err == nil || nothingLeft(h.err)) {
			h.overdue(h.kept.free(h.d))
		}
	})
	return h.stood, h.err
}

// overdue takes in that the keeper let the guest go: what looks as if somebody else
// had resumed it was that.
func (h *hold) overdue(err error) {
	if e, ok := errors.AsType[*hv.OverdueError](err); ok {
		h.stood = e.Held
		h.err = fmt.Errorf("pause domain %q: %w", h.d.dom.Name, err)
	}
}

// Progressed implements hv.Hold.
func (h *hold) Progressed() {
	if h.kept != nil {
		h.kept.Keeper.Progressed()
	}
}

// nothingLeft reports whether err, of a resume, says that there is nothing to resume.
func nothingLeft(err error) bool {
	return errors.Is(err, hv.ErrNoDomain) || errors.Is(err, hv.ErrNotRunning) || errors.Is(err, hv.ErrDisturbed)
}

// resume tries until the guest is seen to run, or ctx ends.
func (h *hold) resume(ctx context.Context) error {
	return bounded.Insist(ctx, h.limits.pollEvery, resumeAgain, h.try)
}

// try makes one attempt. done says that another one would change nothing.
func (h *hold) try(ctx context.Context) (done bool, err error) {
	ctx, cancel := bounded.Within(ctx, h.limits.resumeTry)
	defer cancel()
	if h.session == nil || h.session.lost() {
		if h.session, err = h.d.conn.target.open(ctx); err != nil {
			return false, err
		}
	}
	if h.unsure {
		err = h.resolve(ctx)
	} else {
		err = h.start(ctx)
	}
	return err == nil || nothingLeft(err) || errors.Is(err, errTakenOver), err
}

// errTakenOver is a guest that stands still for a reason that isn't ours any
// more: a resume would undo somebody else's pause.
var errTakenOver = errors.New("something else paused it meanwhile")

// start resumes the guest and looks whether it runs.
func (h *hold) start(ctx context.Context) error {
	s, err := h.status(ctx)
	if err != nil {
		return err
	}
	if st := s.hv(); !st.Off() {
		if err := h.ours(ctx, st); err != nil {
			return err
		}
	}
	if rpc.DomainState(s.state) == rpc.DomainPaused {
		if r := rpc.DomainPausedReason(s.reason); r != rpc.DomainPausedUser && r != rpc.DomainPausedUnknown {
			return fmt.Errorf("%w (libvirt's reason %d)", errTakenOver, r)
		}
		if err := h.d.stopped(ctx); err != nil {
			return err
		}
		h.asked = true
		_, err = run(ctx, h.session, func(l *rpc.Libvirt) (struct{}, error) {
			return struct{}{}, l.DomainResume(h.d.dom)
		})
		// OPERATION_INVALID says that it runs already: somebody else was faster.
		if err != nil && !hasCode(err, rpc.ErrOperationInvalid) {
			return classify(err)
		}
		h.stood = time.Since(h.began)
		if s, err = h.status(ctx); err != nil {
			return err
		}
	}
	switch st := s.hv(); {
	case st == hv.StatePaused:
		return fmt.Errorf("it is paused again (libvirt's reason %d)", s.reason)
	case st.Off():
		return fmt.Errorf("domain %q went off while it was paused: %w", h.d.dom.Name, hv.ErrNotRunning)
	}
	return nil
}

// resolve undoes a suspend that had no answer: the daemon may carry it out at any
// time until its job is over.
func (h *hold) resolve(ctx context.Context) error {
	calm := time.Now()
	for {
		s, err := h.status(ctx)
		if err != nil {
			return err
		}
		if rpc.DomainState(s.state) == rpc.DomainPaused || s.hv().Off() {
			h.unsure = false
			return h.start(ctx)
		}
		pending, err := h.pending(ctx)
		if err != nil {
			return err
		}
		if pending {
			calm = time.Now()
		}
		if time.Since(calm) > h.limits.calmFor {
			return nil
		}
		select {
		case <-time.After(h.limits.pollEvery):
		case <-ctx.Done():
			return bounded.Ended(ctx)
		}
	}
}

// pending reports whether the domain has a job that may be our suspend, or may
// be what it waits for.
func (h *hold) pending(ctx context.Context) (bool, error) {
	is, err := run(ctx, h.session, func(l *rpc.Libvirt) (bool, error) { return h.d.readPending(l, h.began) })
	return is, classify(err)
}

// readPending reports whether the domain has a job that may be, or may be waited
// for by, a call that was made before the given time. Such a call waits for so
// long and no longer.
func (d *Domain) readPending(l *rpc.Libvirt, before time.Time) (bool, error) {
	state, _, ms, err := l.DomainGetControlInfo(d.dom, 0)
	if err != nil || rpc.DomainControlState(state) == rpc.DomainControlOk {
		return false, err
	}
	since := time.Duration(min(ms, uint64(time.Hour/time.Millisecond))) * time.Millisecond
	return time.Since(before)-since < d.limits().jobWait, nil
}

func (h *hold) status(ctx context.Context) (status, error) {
	s, err := run(ctx, h.session, h.d.readStatus)
	return s, classify(err)
}
