// Package progress tells a person, a log or a program how far a long job is: which
// phase begins, and what is left of it.
package progress

import (
	"io"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Counter is what a phase exposes: bytes done so far and in all. The total may
// be 0 while it is not known yet. Both are called from another goroutine.
type Counter interface {
	Done() uint64
	Total() uint64
}

// Writer is a Counter that also knows how many bytes came out.
type Writer interface {
	Counter
	Written() uint64
}

// Style says how progress is shown.
type Style int

// Styles of progress.
const (
	None Style = iota
	Bar        // a line for each phase that redraws itself, for terminals
	Log        // a line as a phase begins, after 1 s and every 10 s
	JSON       // the same as records with fields
)

// Phase is a part of a job.
type Phase struct {
	Name string // for programs, such as "compressing"
	Text string // for people, such as "compressing web01"

	Counter Counter       // nil if nothing is counted
	Expect  time.Duration // how long it is expected to take, 0 if nothing is known
	Held    bool          // a guest is held still until it ends
	// Stood makes the phase one that is over as it begins: a guest goes on after it
	// stood still for so long.
	Stood time.Duration
	Once  bool // it is over as it begins
}

// Show shows the phases of one job, one after the other. Its methods never wait for
// whoever reads what is shown, but for End. It is safe for concurrent use.
type Show struct {
	mu     sync.Mutex
	queue  []begun
	closed bool
	wake   chan struct{} // of capacity 1
	done   chan struct{} // closed when all is shown
}

// begun is a phase with when it began.
type begun struct {
	Phase
	at time.Time
}

// reporter shows phases in one style. It is for one goroutine.
type reporter interface {
	begin(p begun)
	tick(now time.Time) // every interval while a phase lasts
	end(now time.Time)  // of the phase
	finish()            // of the job
}

// New returns a Show, of which End must be called.
func New(w io.Writer, log zerolog.Logger, style Style) *Show {
	s := &Show{wake: make(chan struct{}, 1), done: make(chan struct{})}
	var r reporter
	interval := time.Second
	switch style {
	case Bar:
		r, interval = newBarReporter(w), barInterval
	case Log, JSON:
		r = &logReporter{log: log, fields: style == JSON}
	default:
		s.closed = true
		close(s.done)
		return s
	}
	go s.run(r, interval)
	return s
}

// Begin shows that a phase begins, which ends the one before. A phase that goes on
// under the same name and text is not begun again.
func (s *Show) Begin(p Phase) { s.push(begun{p, time.Now()}) }

func (s *Show) push(p begun) {
	s.mu.Lock()
	if !s.closed {
		s.queue = append(s.queue, p)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// End ends the last phase and returns when everything is shown.
func (s *Show) End() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	<-s.done
}

// run shows what is begun until the end.
func (s *Show) run(r reporter, interval time.Duration) {
	defer close(s.done)
	t := time.NewTicker(interval)
	defer t.Stop()
	var last *begun // the phase that lasts, nil if none does
	for {
		select {
		case <-s.wake:
		case now := <-t.C:
			if last != nil {
				r.tick(now)
			}
		}
		s.mu.Lock()
		queue, closed := s.queue, s.closed
		s.queue = nil
		s.mu.Unlock()
		for _, p := range queue {
			if last != nil && last.Name == p.Name && last.Text == p.Text && !p.Once {
				continue
			}
			if last != nil {
				r.end(p.at)
			}
			r.begin(p)
			if last = &p; p.Once {
				last = nil
			}
		}
		if closed {
			if last != nil {
				r.end(time.Now())
			}
			r.finish()
			return
		}
	}
}
