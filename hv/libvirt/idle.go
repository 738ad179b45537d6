package libvirt

import (
	"context"
	"fmt"
	"sync"
	"time"

	"snap/hv"
	"snap/hv/internal/bounded"
)

// idleHold is the Hold of a guest that somebody else paused: it leaves it so,
// and notices if that somebody resumes it meanwhile.
type idleHold struct {
	d     *Domain
	was   hv.State
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
	switch now := stateOf(s.state); {
	case err != nil:
		return fmt.Errorf("ask whether somebody resumed domain %q: %w", h.d.dom.Name, err)
	case now == hv.StateOff:
		return fmt.Errorf("domain %q went off while it was paused: %w", h.d.dom.Name, hv.ErrNotRunning)
	case now != h.was, h.watch != nil && h.watch.Resumed():
		return fmt.Errorf("domain %q: somebody resumed it: %w", h.d.dom.Name, hv.ErrDisturbed)
	}
	return nil
}

// standsStill reports whether the guest doesn't run any more.
func (h *hold) standsStill(ctx context.Context) (bool, error) {
	ctx, cancel := bounded.Within(ctx, h.d.conn.timeout)
	defer cancel()
	s, err := h.status(ctx)
	return stateOf(s.state) != hv.StateRunning, err
}
