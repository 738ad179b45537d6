package capture

import (
	"context"
	"fmt"
	"time"
)

// How it is judged while a guest is held still whether it will be for too long.
const (
	lookEvery  = 10 * time.Millisecond
	window     = 20   // part of the limit, one in so many, over which the rate of late is taken
	minLooks   = 5    // in a window
	likelySure = 1.25 // by how much what is left must exceed the time left: by the rates so far
	bestRate   = 4.0  // and where the rest doesn't fit at so many times the best rate that was seen, it is certain
	patience   = 8    // part of the limit, one in so many, for which it must be very likely
)

// overrun judges from how far the work is whether a pause will be longer than it may
// be, so that it can be ended long before its time is up. It is a function of what it
// is told, and asks no clock.
//
// One of two things ends a pause. It is as good as certain to be too long: even if the
// rest went four times as fast as the fastest window so far, it wouldn't fit. Or it is
// very likely: for an eighth of the limit on end, neither the rate of all the work nor
// that of the last window has sufficed by a quarter. A look at which one of them
// sufficed begins the count anew, so that a stretch that is slow, or a host that is
// busy for a moment, ends nothing.
//
// Work that waits for others (patient) may stand still for a while, as a destination
// does that takes nothing: that says nothing of how long the rest takes. Such a pause
// is ended when the rest wouldn't fit any more at the best rate that is known.
type overrun struct {
	limit time.Duration // from the request to stop the guest until it is to run
	after time.Duration // of that, what it takes to have it run when the work is done
	begun time.Duration // when the work began
	total uint64        // of the work

	slack   float64 // in place of likelySure, if the work is uneven
	patient bool    // the work may stand still for reasons of others
	prior   float64 // rate that was estimated, 0 for none

	looks    []progressed // those of the last window, and one before
	best     float64      // rate of the best window
	hopeless time.Duration
	doubted  bool // since hopeless
}

// progressed is how much was done at a time, both since the request to stop the guest.
type progressed struct {
	at   time.Duration
	done uint64
}

// fits reports whether work that is estimated to take so long fits, before it begins.
func (o *overrun) fits(work time.Duration) bool { return o.limit-o.after-o.begun >= work }

// look takes in how much is done at a time, and returns when the guest would run
// again, and whether the pause is to be ended.
func (o *overrun) look(at time.Duration, done uint64) (ends time.Duration, over bool) {
	now := progressed{at, done}
	o.looks = append(o.looks, now)
	width := max(o.limit/window, minLooks*lookEvery)
	for len(o.looks) > 2 && at-o.looks[1].at >= width {
		o.looks = o.looks[1:]
	}
	all := rateBetween(progressed{at: o.begun}, now)
	late := rateBetween(o.looks[0], now)
	full := at-o.looks[0].at >= width
	if full {
		o.best = max(o.best, late)
	}
	left, rest := o.limit-o.after-at, float64(o.total-min(o.total, done))
	need := min(timeFor(rest, all), timeFor(rest, late))
	ends = at + need + o.after
	if ends < at { // more than there is
		ends = 1<<63 - 1
	}
	switch best := max(o.best, o.prior); {
	case rest == 0:
		return at + o.after, false
	case o.patient && late == 0:
		o.doubted = false
		return ends, best > 0 && timeFor(rest, best) > left
	case full && o.best > 0 && timeFor(rest, o.best*bestRate) > left:
		return ends, true
	case float64(need) <= float64(max(left, 0))*max(o.slack, likelySure):
		o.doubted = false
	case !o.doubted:
		o.doubted, o.hopeless = true, at
	case full && at-o.hopeless >= max(o.limit/patience, width):
		return ends, true
	}
	return ends, false
}

// rateBetween is how much was done in a nanosecond.
func rateBetween(a, b progressed) float64 {
	if b.at <= a.at || b.done <= a.done {
		return 0
	}
	return float64(b.done-a.done) / float64(b.at-a.at)
}

// timeFor is how long the rest takes at a rate.
func timeFor(rest, rate float64) time.Duration {
	if rest == 0 {
		return 0
	}
	if rate <= 0 {
		return 1<<63 - 1
	}
	return duration(rest / rate)
}

// overrunError is the cause with which the context of a pause ends that would have
// become too long. errors.Is finds errRanOver.
type overrunError struct {
	ends time.Duration // when the guest would have run again, 0 if it can't be told
	why  string
}

func (e *overrunError) Error() string { return e.why }
func (e *overrunError) Unwrap() error { return errRanOver }

// leave ends the pause of h, if it is one, as soon as it is too late for work that is
// likely to take so long and hasn't begun by then; watch is its beginning.
func (h *holding) leave(work time.Duration) {
	if h.limit <= 0 || h.abandon == nil {
		return
	}
	late := time.AfterFunc(h.limit-h.letGo-work-time.Since(h.began), func() {
		h.abandon(&overrunError{h.limit + work, fmt.Sprintf("after %s, the work had not begun", rounded(time.Since(h.began)))})
	})
	context.AfterFunc(h.ctx, func() { late.Stop() })
	h.begins = func() { late.Stop() }
}

// watch follows the work of h's pause until ctx ends or the work is done, and ends the
// pause as soon as it is known to become too long. estimate is what the work is likely
// to take. The caller calls the result when the work is done.
func (h *holding) watch(work func() (done, total uint64), estimate time.Duration, slack float64, patient bool) (stop func()) {
	if h.limit <= 0 || h.abandon == nil {
		return func() {}
	}
	if h.begins != nil {
		h.begins()
	}
	o := &overrun{limit: h.limit, after: h.letGo, begun: time.Since(h.began), slack: slack, patient: patient}
	if !o.fits(estimate) {
		h.abandon(&overrunError{
			ends: o.begun + estimate + o.after,
			why:  fmt.Sprintf("it took %s to stop the guest, and what was to come would not have fitted any more", rounded(o.begun)),
		})
		return func() {}
	}
	ctx, cancel := context.WithCancel(h.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			var done uint64
			if done, o.total = work(); o.total == 0 {
				continue // it isn't known yet
			}
			o.prior = rateBetween(progressed{}, progressed{estimate, o.total})
			at := time.Since(h.began)
			if ends, over := o.look(at, done); over {
				h.abandon(&overrunError{ends, fmt.Sprintf("after %s, %d %% of the work was done", rounded(at), done*100/o.total)})
				return
			}
		}
	}()
	return func() { cancel(); <-ended }
}
