package libvirt

import (
	"context"
	"fmt"
	"sync"
	"time"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
)

// watchAgain is the pause before a lost subscription is renewed: a daemon that
// was restarted knows none.
const watchAgain = 200 * time.Millisecond

// Watch follows what happens to a domain by libvirt's lifecycle events, on a
// connection of its own that it renews when it is lost. It is safe for
// concurrent use.
type Watch struct {
	d      *Domain
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	held    bool // a suspend was seen since Reset
	resumed bool // and after it a resume
	ended   error
	over    chan struct{} // closed with ended
}

// Watch begins to follow the domain. The caller closes the Watch.
func (d *Domain) Watch(ctx context.Context) (*Watch, error) {
	s, events, err := d.subscribe(ctx)
	if err != nil {
		return nil, fmt.Errorf("watch domain %q: %w", d.dom.Name, err)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &Watch{d: d, cancel: cancel, over: make(chan struct{})}
	w.done.Go(func() { w.follow(life, s, events) })
	return w, nil
}

// Close ends the Watch.
func (w *Watch) Close() {
	w.cancel()
	w.done.Wait()
}

// Reset forgets suspends and resumes: those that count come now.
func (w *Watch) Reset() { w.reset(false) }

// reset is Reset, of a guest that may be suspended already.
func (w *Watch) reset(held bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held, w.resumed = held, false
}

// Resumed reports whether the guest was suspended and resumed since Reset, by
// whomever. What happened while the daemon was away is not known.
func (w *Watch) Resumed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resumed
}

// Ended returns why the domain ended, nil if it is not known to have:
// hv.ErrBusy if it was migrated away or saved, else hv.ErrNotRunning.
func (w *Watch) Ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

// Over is closed when the domain is known to have ended.
func (w *Watch) Over() <-chan struct{} { return w.over }

// subscribe dials the daemon and asks for lifecycle events.
func (d *Domain) subscribe(ctx context.Context) (*session, <-chan rpc.DomainEventLifecycleMsg, error) {
	s, err := d.conn.target.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := within(ctx, d.conn.timeout)
	defer cancel()
	events, err := run(ctx, s, func(l *rpc.Libvirt) (<-chan rpc.DomainEventLifecycleMsg, error) {
		return l.LifecycleEvents(context.Background()) // they end with the connection
	})
	if err != nil {
		_ = s.close() // there is nothing on it
		return nil, nil, classify(err)
	}
	return s, events, nil
}

// follow notes events until ctx ends.
func (w *Watch) follow(ctx context.Context, s *session, events <-chan rpc.DomainEventLifecycleMsg) {
	for {
		stop := context.AfterFunc(ctx, func() { _ = s.close() })
		for e := range events {
			w.note(e)
		}
		stop()
		_ = s.close() // it is over
		for events = nil; events == nil; {
			select {
			case <-time.After(watchAgain):
			case <-ctx.Done():
				return
			}
			var err error
			if s, events, err = w.d.subscribe(ctx); err != nil {
				events = nil
			}
		}
	}
}

// note takes one event in (virDomainEventType and its details,
// include/libvirt/libvirt-domain.h).
func (w *Watch) note(e rpc.DomainEventLifecycleMsg) {
	if e.Dom.UUID != w.d.dom.UUID {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch rpc.DomainEventType(e.Event) {
	case rpc.DomainEventSuspended:
		w.held = true
	case rpc.DomainEventResumed:
		w.resumed = w.resumed || w.held
	case rpc.DomainEventStopped:
		if w.ended != nil {
			return
		}
		defer close(w.over)
		name := w.d.dom.Name
		switch rpc.DomainEventStoppedDetailType(e.Detail) {
		case rpc.DomainEventStoppedMigrated:
			w.ended = fmt.Errorf("domain %q migrated away: %w", name, hv.ErrBusy)
		case rpc.DomainEventStoppedSaved:
			w.ended = fmt.Errorf("domain %q was saved and stopped: %w", name, hv.ErrBusy)
		case rpc.DomainEventStoppedDestroyed:
			w.ended = fmt.Errorf("domain %q was destroyed: %w", name, hv.ErrNotRunning)
		default:
			w.ended = fmt.Errorf("domain %q shut down or crashed: %w", name, hv.ErrNotRunning)
		}
	}
}
