package libvirt

import (
	"context"
	"fmt"
	"sync"
	"time"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
	"snap/hv/internal/bounded"
)

// watchAgain is the pause before a lost subscription is renewed: a daemon that
// was restarted knows none.
const watchAgain = 200 * time.Millisecond

// watch follows what happens to a domain by libvirt's lifecycle events, on a
// connection of its own that it renews when it is lost. It is safe for
// concurrent use.
type watch struct {
	d      *Domain
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	held    bool // a suspend was seen since Reset
	resumed bool // and after it a resume
	ended   error
	over    chan struct{} // closed with ended
}

var _ hv.Watch = (*watch)(nil)

// Watch implements hv.Guardable.
func (d *Domain) Watch(ctx context.Context) (hv.Watch, error) {
	s, events, err := d.subscribe(ctx)
	if err != nil {
		return nil, fmt.Errorf("watch domain %q: %w", d.dom.Name, err)
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w := &watch{d: d, cancel: cancel, over: make(chan struct{})}
	w.done.Go(func() { w.follow(life, s, events) })
	return w, nil
}

// Close implements hv.Watch.
func (w *watch) Close() {
	w.cancel()
	w.done.Wait()
}

// Reset implements hv.Watch.
func (w *watch) Reset(paused bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held, w.resumed = paused, false
}

// Resumed implements hv.Watch. What happened while the daemon was away is not known.
func (w *watch) Resumed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resumed
}

// Ended implements hv.Watch.
func (w *watch) Ended() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

// Over implements hv.Watch.
func (w *watch) Over() <-chan struct{} { return w.over }

// subscribe dials the daemon and asks for lifecycle events.
func (d *Domain) subscribe(ctx context.Context) (*session, <-chan rpc.DomainEventLifecycleMsg, error) {
	s, err := d.conn.target.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := bounded.Within(ctx, d.conn.timeout)
	defer cancel()
	// The client ends the events when it loses the connection, but not if that
	// happens just before it has noted that there is somebody to tell.
	life, end := context.WithCancel(context.Background())
	go func() {
		<-s.conn.gone
		end()
	}()
	events, err := run(ctx, s, func(l *rpc.Libvirt) (<-chan rpc.DomainEventLifecycleMsg, error) {
		return l.LifecycleEvents(life)
	})
	if err != nil {
		_ = s.close() // there is nothing on it
		return nil, nil, classify(err)
	}
	return s, events, nil
}

// follow notes events until ctx ends.
func (w *watch) follow(ctx context.Context, s *session, events <-chan rpc.DomainEventLifecycleMsg) {
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
func (w *watch) note(e rpc.DomainEventLifecycleMsg) {
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
