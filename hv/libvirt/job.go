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

var _ hv.JobPauser = (*Domain)(nil)

// PauseByJob implements hv.JobPauser by a dump of the guest's memory that libvirt
// makes into a pipe which nobody reads (hv.Gate). libvirt pauses the guest for it and
// has a job meanwhile (VIR_ASYNC_JOB_DUMP), for which suspends, resumes, saves and
// migrations wait. When the pipe is closed, which the kernel does if this process
// dies or holds the guest for too long, the dump fails, and libvirt resumes the guest
// (qemuDomainCoreDumpWithFormat in src/qemu/qemu_driver.c). Queries, monitor
// commands and destroying the domain don't wait.
//
// libvirt is told the pipe by a path below /proc: it has no name in any file system
// that could be left behind, or be another file to libvirt than to snap, and opening
// it doesn't wait for a reader. A path that leads nowhere ends libvirt's call, and
// nothing can be made there. It means what it should only in one PID namespace.
func (d *Domain) PauseByJob(ctx context.Context) (hv.Hold, error) {
	fail := func(err error) error { return fmt.Errorf("pause domain %q by a job: %w", d.dom.Name, err) }
	if !d.conn.target.local || d.kept == nil || d.kept.Gate == nil {
		return nil, fail(fmt.Errorf("%w: it needs a daemon on this host, and a keeper", hv.ErrUnsupported))
	}
	d.kept.Watch.Reset(true) // before the state is asked for: a resume after it counts
	now, err := d.mayPause(ctx)
	if err != nil {
		return nil, err
	}
	if now.hv().Still() {
		return d.asItStands(ctx, now, d.kept.Watch)
	}
	h := &jobHold{d: d, call: make(chan answered, 1)}
	if err := h.prepare(ctx); err != nil {
		return nil, fail(errors.Join(err, h.drop()))
	}
	err = h.begin(ctx)
	if err == nil {
		return h, nil
	}
	if _, undo := h.Release(); undo != nil && !errors.Is(undo, hv.ErrDisturbed) {
		return nil, fail(errors.Join(err, undo))
	}
	return nil, fail(err)
}

// jobHold is a guest that a job of libvirt's holds still.
type jobHold struct {
	d       *Domain
	session *session // of the call
	gate    hv.Gate
	call    chan answered
	called  bool // the call was made, and its result not taken
	began   time.Time
	held    bool // the guest was seen to be held

	once  sync.Once
	stood time.Duration
	err   error
}

// answered is what came of the call.
type answered struct{ err error }

// prepare gets ready what the call needs. Nothing is done to the guest.
func (h *jobHold) prepare(ctx context.Context) (err error) {
	if h.session, err = h.d.conn.target.open(ctx); err != nil {
		return err
	}
	if err := sharesProc(procRoot, h.session.peer); err != nil {
		return fmt.Errorf("%w: libvirt's daemon can't be shown a pipe: %w", hv.ErrUnsupported, err)
	}
	if h.gate, err = h.d.kept.Gate(ctx); err != nil {
		return fmt.Errorf("%w: %w", hv.ErrUnsupported, err)
	}
	return h.d.kept.hold(ctx, h.d, hv.ForJob)
}

// drop takes away what prepare got ready.
func (h *jobHold) drop() error {
	if h.gate != nil {
		h.gate.Shut()
		h.gate.Free() // nobody knows its path
	}
	if h.session != nil {
		return h.session.close()
	}
	return nil
}

// begin has libvirt begin to dump, and returns when the guest stands still. What
// it did is undone by Release, also if it fails.
func (h *jobHold) begin(ctx context.Context) error {
	until, _ := ctx.Deadline()
	if err := h.gate.Arm(until); err != nil {
		return fmt.Errorf("%w: %w", hv.ErrUnsupported, err)
	}
	h.began, h.called = time.Now(), true
	go func() {
		// It lasts as long as the guest is held.
		_, err := run(context.Background(), h.session, func(l *rpc.Libvirt) (struct{}, error) {
			return struct{}{}, l.DomainCoreDumpWithFormat(h.d.dom, h.gate.Path(), uint32(rpc.DomainCoreDumpFormatRaw), rpc.DumpMemoryOnly)
		})
		h.call <- answered{err}
	}()
	err := h.await(ctx)
	if err != nil && !until.IsZero() && !time.Now().Before(until) {
		// A process that was stopped meanwhile finds all of this at once, in any order:
		// the clock tells, not ctx, whose timer may come last. That the guest may have
		// been held for too long is what has to be told.
		if late := h.gate.Overdue(); late != nil {
			return late
		}
	}
	return err
}

// await waits until libvirt has the pipe open, and its dump has come to write to it:
// before, the dump may still fail, and the guest go on.
func (h *jobHold) await(ctx context.Context) error {
	select {
	case <-h.gate.Written():
	case a := <-h.call:
		h.called = false
		return fmt.Errorf("%w: libvirt didn't dump it: %w", hv.ErrUnsupported, classify(a.err))
	case <-h.gate.Closed():
		return fmt.Errorf("%w: the pipe was closed: %w", hv.ErrUnsupported, h.gate.Overdue())
	case <-ctx.Done():
		return bounded.Ended(ctx)
	}
	s, err := h.d.status(ctx)
	if err != nil {
		return err
	}
	if h.held = byDump(s); !h.held {
		return fmt.Errorf("%w: libvirt dumps it, but its state is %s", hv.ErrUnsupported, s.hv())
	}
	return nil
}

// byDump reports whether s is that of a guest which libvirt dumps.
func byDump(s status) bool {
	return rpc.DomainState(s.state) == rpc.DomainPaused && rpc.DomainPausedReason(s.reason) == rpc.DomainPausedDump
}

// Progressed implements hv.Hold.
func (h *jobHold) Progressed() {
	h.gate.Progressed()
	h.d.kept.Keeper.Progressed()
}

// Release implements hv.Hold.
func (h *jobHold) Release() (time.Duration, error) {
	h.once.Do(func() {
		ctx, cancel := bounded.Within(context.Background(), h.d.limits().resumeFor)
		defer cancel()
		unbroken := h.unbroken(ctx)
		h.gate.Shut()
		var err error
		if h.end(ctx) {
			err = h.d.afterJob(ctx, func(context.Context) (bool, error) { return true, nil })
		} else {
			err = fmt.Errorf("pause domain %q by a job: %w: libvirt doesn't answer", h.d.dom.Name, hv.ErrStillPaused)
		}
		if !h.began.IsZero() {
			h.stood = time.Since(h.began)
		}
		if !errors.Is(err, hv.ErrStillPaused) {
			if late := h.d.kept.free(h.d); unbroken == nil && h.held && late != nil {
				unbroken = fmt.Errorf("pause domain %q by a job: %w", h.d.dom.Name, late)
			}
		}
		if e, ok := errors.AsType[*hv.OverdueError](unbroken); ok {
			h.stood = min(h.stood, e.Held)
		}
		h.err = errors.Join(err, unbroken)
	})
	return h.stood, h.err
}

// unbroken fails unless the guest stood still from when it was seen to until now:
// with hv.ErrOverdue if the pipe was closed, by which libvirt lets the guest go, with
// hv.ErrDisturbed if the guest isn't held any more, and with hv.ErrUnreachable if the
// daemon is away, or was, as it may have let it go: one that starts ends the jobs of
// the one before. The session is the call's own, so that it is the same daemon; and
// as long as its call isn't answered, the guest is in its hands.
func (h *jobHold) unbroken(ctx context.Context) error {
	if !h.held {
		return nil
	}
	ctx, cancel := bounded.Within(ctx, h.d.limits().resumeTry)
	defer cancel()
	s, err := run(ctx, h.session, h.d.readStatus)
	if late := h.gate.Overdue(); late != nil {
		return fmt.Errorf("pause domain %q by a job: %w", h.d.dom.Name, late)
	}
	switch {
	case err == nil && s.hv().Off():
		return nil // which afterJob finds as well
	case err != nil:
		return fmt.Errorf("domain %q: whether it stood still all the time can't be told, as libvirt held it: %w", h.d.dom.Name, err)
	case !byDump(s), len(h.call) > 0:
		return fmt.Errorf("domain %q: somebody resumed it: %w", h.d.dom.Name, hv.ErrDisturbed)
	}
	return nil
}

// end waits until libvirt's call is over: the pipe is closed, so that it fails. over
// is false if libvirt gave no answer until ctx ended; then it may still come to open
// the pipe's path, which stays this process's.
func (h *jobHold) end(ctx context.Context) (over bool) {
	if h.called {
		select {
		case <-h.call: // it fails, as it must
			h.called = false
		case <-ctx.Done():
			return false
		}
	}
	h.gate.Free()
	_ = h.session.close() // its work is done
	return true
}

// abandonJob sees to it that a job is over by which a process that died, or holds
// the guest for too long, held it still, or was about to: its pipe is closed, so that
// libvirt ends it by itself. If libvirt left the guest paused after the job, it is
// resumed; if somebody else paused it, it stays so. It tries until ctx ends; the
// error is then hv.ErrStillPaused.
func (d *Domain) abandonJob(ctx context.Context) error {
	began := time.Now()
	calm := began
	return d.afterJob(ctx, func(ctx context.Context) (bool, error) {
		pending, err := query(ctx, d.conn, fmt.Sprintf("ask for the calls on domain %q", d.dom.Name), func(l *rpc.Libvirt) (bool, error) {
			return d.readPending(l, began)
		})
		if pending {
			calm = time.Now()
		}
		return time.Since(calm) > d.limits().calmFor, err
	})
}

// afterJob waits until the guest is as it shall be and over says that nothing will
// change that any more.
func (d *Domain) afterJob(ctx context.Context, over func(context.Context) (bool, error)) error {
	err := bounded.Insist(ctx, time.Millisecond, d.limits().pollEvery, func(ctx context.Context) (bool, error) {
		is, err := over(ctx)
		if err != nil {
			return false, err
		}
		done, err := d.lookAfterJob(ctx)
		return done && is || err != nil && nothingLeft(err), err
	})
	if err == nil || nothingLeft(err) {
		return err
	}
	return fmt.Errorf("resume domain %q: %w: %w; run `virsh -c %s resume %s`",
		d.dom.Name, hv.ErrStillPaused, err, d.conn.URI(), d.dom.Name)
}

// lookAfterJob looks once whether the guest is as it shall be, and resumes it if
// libvirt forgot to.
func (d *Domain) lookAfterJob(ctx context.Context) (done bool, err error) {
	s, err := d.status(ctx)
	if err != nil {
		return false, err
	}
	switch st := s.hv(); {
	case st.Off():
		return false, fmt.Errorf("domain %q went off while it was paused: %w", d.dom.Name, hv.ErrNotRunning)
	case rpc.DomainState(s.state) != rpc.DomainPaused:
		return true, nil // it runs, or it crashed or sleeps: not by a pause
	}
	reason := rpc.DomainPausedReason(s.reason)
	if reason != rpc.DomainPausedDump && reason != rpc.DomainPausedUnknown {
		return true, nil // somebody else's
	}
	job, err := d.jobType(ctx)
	if err != nil || job != rpc.DomainJobNone {
		return false, err // libvirt is at it
	}
	return false, d.resume(ctx) // and look again
}
