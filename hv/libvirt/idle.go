package libvirt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"snap/hv"
	"snap/hv/internal/bounded"
)

// asItStands returns the Hold of a guest that stands still already.
func (d *Domain) asItStands(ctx context.Context, was status, w hv.Watch) (hv.Hold, error) {
	if err := d.stands(ctx); err != nil {
		return nil, fmt.Errorf("pause domain %q: %w", d.dom.Name, err)
	}
	return &idleHold{d: d, was: was, watch: w}, nil
}

// idleHold is the Hold of a guest that stood still already: somebody else paused
// it, or it stopped by itself. It leaves it so, and notices if somebody resumes it
// meanwhile.
type idleHold struct {
	d     *Domain
	was   status
	watch hv.Watch // nil if nobody looks: then only the end counts

	once sync.Once
	err  error
}

// Release implements hv.Hold. It touches nothing. The error is hv.ErrDisturbed
// unless the guest stood still all the time, as far as that is known, and
// hv.ErrNotRunning if it is gone.
func (h *idleHold) Release() (time.Duration, error) {
	h.once.Do(func() { h.err = h.check() })
	return 0, h.err
}

// Progressed implements hv.Hold: it takes as long as it takes.
func (h *idleHold) Progressed() {}

func (h *idleHold) check() error {
	l := h.d.limits()
	ctx, cancel := bounded.Within(context.Background(), l.resumeTry)
	defer cancel()
	s, err := h.d.status(ctx)
	// A daemon that is away can't have resumed the guest, but who knows what one
	// that is back has done: it is worth waiting for.
	for err != nil && !nothingLeft(err) && ctx.Err() == nil {
		select {
		case <-time.After(l.pollEvery):
		case <-ctx.Done():
		}
		s, err = h.d.status(ctx)
	}
	switch now := s.hv(); {
	case err != nil:
		return fmt.Errorf("ask whether somebody resumed domain %q: %w", h.d.dom.Name, err)
	case now.Off():
		return fmt.Errorf("domain %q went off while it was paused: %w", h.d.dom.Name, hv.ErrNotRunning)
	case h.watch != nil && h.watch.Resumed(), h.moved(s), errors.Is(h.d.stands(ctx), hv.ErrBusy):
		return fmt.Errorf("domain %q: somebody resumed it: %w", h.d.dom.Name, hv.ErrDisturbed)
	}
	return nil
}

// moved reports whether the guest must have run between h's state and now. One that
// had just crashed was only paused until libvirt knew.
func (h *idleHold) moved(now status) bool {
	if h.was.crashing() && now.hv().Still() {
		return false
	}
	return now.hv() != h.was.hv()
}

// tooLate reports whether the guest had stopped by itself when it was suspended,
// which then changed nothing, or nothing but libvirt's word for it: it isn't h's to
// resume.
func (h *hold) tooLate(ctx context.Context) (bool, error) {
	s, err := h.status(ctx)
	if err != nil {
		return false, err
	}
	st := s.hv()
	return st.Still() && st != hv.StatePaused || errors.Is(h.d.stopped(ctx), hv.ErrDisturbed), nil
}

// standsStill reports whether the guest doesn't run any more.
func (h *hold) standsStill(ctx context.Context) (bool, error) {
	ctx, cancel := bounded.Within(ctx, h.d.conn.timeout)
	defer cancel()
	s, err := h.status(ctx)
	return s.hv() != hv.StateRunning, err
}
