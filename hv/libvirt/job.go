package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	rpc "github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/hv/internal/bounded"
)

var _ hv.JobPauser = (*Domain)(nil)

// PauseByJob implements hv.JobPauser by a dump of the guest's memory that libvirt
// makes into a FIFO which nobody reads. libvirt pauses the guest for it and has a
// job meanwhile (VIR_ASYNC_JOB_DUMP), for which suspends, resumes, saves and
// migrations wait. When the FIFO's reading end is closed, which the kernel does if
// this process dies, the dump fails, and libvirt resumes the guest
// (qemuDomainCoreDumpWithFormat in src/qemu/qemu_driver.c). Queries, monitor
// commands and destroying the domain don't wait.
func (d *Domain) PauseByJob(ctx context.Context) (hv.Hold, error) {
	fail := func(err error) error { return fmt.Errorf("pause domain %q by a job: %w", d.dom.Name, err) }
	if !d.conn.target.local || d.kept == nil {
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
	if err := d.kept.hold(ctx, d, hv.ForJob); err != nil {
		return nil, fail(err)
	}
	h := &jobHold{d: d, call: make(chan answered, 1)}
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
	fifo    *os.File // its reading end, of which nothing is read
	session *session // of the call
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

// begin has libvirt begin to dump, and returns when the guest stands still. What
// it did is undone by Release, also if it fails.
func (h *jobHold) begin(ctx context.Context) (err error) {
	path := h.d.kept.Gate
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return fmt.Errorf("%w: make the FIFO %s: %w", hv.ErrUnsupported, path, err)
	}
	if h.fifo, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err != nil {
		return fmt.Errorf("%w: %w", hv.ErrUnsupported, err)
	}
	if h.session, err = h.d.conn.target.open(ctx); err != nil {
		return err
	}
	h.began, h.called = time.Now(), true
	go func() {
		// It lasts as long as the guest is held.
		_, err := run(context.Background(), h.session, func(l *rpc.Libvirt) (struct{}, error) {
			return struct{}{}, l.DomainCoreDumpWithFormat(h.d.dom, path, uint32(rpc.DomainCoreDumpFormatRaw), rpc.DumpMemoryOnly)
		})
		h.call <- answered{err}
	}()
	return h.await(ctx)
}

// await waits until libvirt says that the guest stands still for the dump, which is
// before anything is dumped.
func (h *jobHold) await(ctx context.Context) error {
	for {
		dumped := readable(h.fifo, time.Millisecond)
		s, err := h.d.status(ctx)
		if err != nil {
			return err
		}
		if h.held = byDump(s); h.held {
			return nil
		}
		if dumped {
			return fmt.Errorf("%w: libvirt dumps it, but its state is %s", hv.ErrUnsupported, s.hv())
		}
		select {
		case a := <-h.call:
			h.called = false
			return fmt.Errorf("%w: libvirt didn't dump it: %w", hv.ErrUnsupported, classify(a.err))
		case <-ctx.Done():
			return bounded.Ended(ctx)
		default:
		}
	}
}

// byDump reports whether s is that of a guest which libvirt dumps.
func byDump(s status) bool {
	return rpc.DomainState(s.state) == rpc.DomainPaused && rpc.DomainPausedReason(s.reason) == rpc.DomainPausedDump
}

// Release implements hv.Hold.
func (h *jobHold) Release() (time.Duration, error) {
	h.once.Do(func() {
		ctx, cancel := bounded.Within(context.Background(), h.d.limits().resumeFor)
		defer cancel()
		disturbed := h.disturbed(ctx)
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
			h.d.kept.free(h.d)
		}
		h.err = errors.Join(err, disturbed)
	})
	return h.stood, h.err
}

// disturbed fails with hv.ErrDisturbed if the guest isn't held any more, and with
// hv.ErrUnreachable if the daemon is away, or was, as it may have let it go: one
// that starts ends the jobs of the one before.
func (h *jobHold) disturbed(ctx context.Context) error {
	if !h.held {
		return nil
	}
	ctx, cancel := bounded.Within(ctx, h.d.limits().resumeTry)
	defer cancel()
	s, err := run(ctx, h.session, h.d.readStatus)
	switch {
	case err == nil && s.hv().Off():
		return nil // which abandonJob finds as well
	case err != nil:
		return fmt.Errorf("domain %q: whether it stood still all the time can't be told, as libvirt held it: %w", h.d.dom.Name, err)
	case !byDump(s):
		return fmt.Errorf("domain %q: somebody resumed it: %w", h.d.dom.Name, hv.ErrDisturbed)
	}
	return nil
}

// end has the dump fail, and waits for that. Until it is seen that libvirt has
// opened the FIFO, there must be somebody who reads it: without a reader the opening
// would never end, and without the FIFO libvirt would make a file. over is false if
// libvirt gave no answer until ctx ended.
func (h *jobHold) end(ctx context.Context) (over bool) {
	if h.fifo == nil {
		return true
	}
	wait := time.NewTicker(time.Millisecond)
	defer wait.Stop()
	for open := true; h.called && ctx.Err() == nil; {
		if open && readable(h.fifo, 0) {
			_ = h.fifo.Close()
			open = false
		}
		select {
		case <-h.call: // it fails, as it must
			h.called = false
		case <-wait.C:
		}
	}
	if h.called {
		return false
	}
	_ = h.fifo.Close() // it may be closed
	_ = os.Remove(h.d.kept.Gate)
	if h.session != nil {
		_ = h.session.close() // its work is done
	}
	return true
}

// readable waits until there is something to be read from f.
func readable(f *os.File, wait time.Duration) bool {
	poll := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, int(wait.Milliseconds()))
	return err == nil && n > 0 && poll[0].Revents&unix.POLLIN != 0
}

// abandonJob ends the job, if there is one, by which a process that died held the
// guest still, or was about to: its FIFO was at the given path and is removed. If
// libvirt left the guest paused after the job, it is resumed; if somebody else
// paused it, it stays so. It tries until ctx ends; the error is then
// hv.ErrStillPaused.
func (d *Domain) abandonJob(ctx context.Context, fifo string) error {
	// A libvirt that has come to open it goes on as soon as somebody reads.
	f, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err == nil {
		defer func() {
			_ = f.Close() // it may be closed
			_ = os.Remove(fifo)
		}()
	}
	began := time.Now()
	calm, open := began, err == nil
	return d.afterJob(ctx, func(ctx context.Context) (bool, error) {
		if open && readable(f, 0) {
			_ = f.Close()
			open = false
		}
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
