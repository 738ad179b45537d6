package guardian

import (
	"context"
	"errors"
	"sync"
	"time"

	"snap/hv"
)

const (
	// promiseGrace is how long after its time the guest is let go: longer than
	// that of a gate, which needs nobody for it, and long enough for a snap that
	// is just letting the guest go itself.
	promiseGrace = 3 * time.Second
	// snapshotPatience is that with a snapshot, for which the guest doesn't stand
	// still: QEMU's monitor may be away for a while (awayFor in hv/qemu).
	snapshotPatience = 90 * time.Second
)

// patienceOf is how long there may be no progress.
func patienceOf(why hv.Reason) time.Duration {
	if why == hv.ForSnapshot {
		return snapshotPatience
	}
	return hv.Patience
}

// promise is what snap says about how long it holds the guest. It is safe for
// concurrent use.
type promise struct {
	mu       sync.Mutex
	made     int // how many, so that a timer of an earlier one is known
	stands   bool
	began    time.Time
	patience time.Duration
	late     *time.Timer // at the latest
	quiet    *time.Timer // without progress
	broken   *overdue    // it wasn't kept

	undoing bool // something is being done about that
	cancel  context.CancelFunc
	undone  sync.WaitGroup
}

// make begins a promise: to let the guest go after the time within, 0 for no time in
// particular, and to make progress until then, with so much patience. If it isn't
// kept, undo is called, once.
func (p *promise) make(within, patience time.Duration, undo func(context.Context, overdue)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.undoing {
		return errors.New("the guest is still being let go: it was held for longer than promised before")
	}
	p.made++
	made := p.made
	p.stands, p.began, p.patience, p.broken = true, time.Now(), patience, nil
	breaks := func(how func(held time.Duration) *hv.OverdueError) func() {
		return func() { p.breaks(made, how, undo) }
	}
	p.late = nil
	if within > 0 {
		p.late = time.AfterFunc(within+promiseGrace, breaks(func(held time.Duration) *hv.OverdueError { return overdueBy(held, within) }))
	}
	p.quiet = time.AfterFunc(patience+promiseGrace, breaks(func(held time.Duration) *hv.OverdueError { return overdueQuiet(held, patience) }))
	return nil
}

// breaks ends the promise that was made as that number, and begins to undo what was
// done under it. From then on it is known as broken.
func (p *promise) breaks(made int, how func(held time.Duration) *hv.OverdueError, undo func(context.Context, overdue)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if made != p.made || !p.stands {
		return // it was kept just now
	}
	e := how(time.Since(p.began))
	o := overdue{Held: e.Held, Why: e.Why}
	p.broken = &o
	p.stop()
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	p.undoing = true
	p.undone.Go(func() {
		undo(ctx, o)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.undoing = false
	})
}

// progressed begins the time without progress anew.
func (p *promise) progressed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stands {
		p.quiet.Reset(p.patience + promiseGrace)
	}
}

// kept ends the promise, and returns how it was broken, nil if it was kept. What is
// being done about that goes on.
func (p *promise) kept() *overdue {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stop()
	return p.broken
}

// end ends the promise and what is being done about it.
func (p *promise) end() {
	p.mu.Lock()
	p.stop()
	if p.cancel != nil {
		p.cancel()
	}
	p.mu.Unlock()
	p.undone.Wait()
}

func (p *promise) stop() {
	if !p.stands {
		return
	}
	p.stands = false
	p.quiet.Stop()
	if p.late != nil {
		p.late.Stop()
	}
}
