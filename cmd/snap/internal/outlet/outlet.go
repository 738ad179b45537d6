// Package outlet keeps a program from waiting for who reads its standard output
// and standard error: a pager that is stopped, a terminal after Ctrl-S, a log
// collector that hangs. What it says must not hold up what it does.
package outlet

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Bounds on a reader's patience with us, and ours with it.
const (
	// maxHeld is how many bytes of messages wait for a reader; more are lost, and
	// counted.
	maxHeld = 1 << 20
	// piece is how much is written at once, to see a slow reader go on. No write of
	// so much is torn in a pipe (PIPE_BUF, limits.h).
	piece = 4096
	// keepUp is how long a message waits for the reader once, to stand before what
	// the program prints next elsewhere.
	keepUp = 50 * time.Millisecond
	// afterEnd is how long results are still offered when the program was told to
	// end.
	afterEnd = time.Second
)

// File returns the file that w writes to, nil if it is none.
func File(w io.Writer) *os.File {
	switch w := w.(type) {
	case *os.File:
		return w
	case interface{ Unwrap() io.Writer }:
		return File(w.Unwrap())
	}
	return nil
}

// Messages is a stream of messages. It is safe for concurrent use.
type Messages struct {
	w    io.Writer
	file bool // w may have readers that don't read

	mu    sync.Mutex
	wake  *sync.Cond
	held  []byte
	lost  int // messages, since the last that was told
	moved int // pieces that were taken so far
	busy  bool
	slow  bool // the reader doesn't keep up: nobody waits for it
	note  func(lost int) string
}

// NewMessages returns a stream of messages to w. What is no file takes them at once.
func NewMessages(w io.Writer) *Messages {
	m := &Messages{w: w, file: File(w) != nil, note: func(lost int) string {
		return fmt.Sprintf("%d messages were lost: nobody read them\n", lost)
	}}
	m.wake = sync.NewCond(&m.mu)
	if m.file {
		go m.pump()
	}
	return m
}

// Note sets what stands in place of messages that were lost, a line.
func (m *Messages) Note(text func(lost int) string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note = text
}

// Unwrap returns what the messages go to.
func (m *Messages) Unwrap() io.Writer { return m.w }

// Write implements io.Writer, of one message or more. It waits for no reader, but a
// moment for one that has kept up so far, and fails only where the messages go to no
// file.
func (m *Messages) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.file {
		return m.w.Write(p)
	}
	if len(m.held)+len(p) > maxHeld {
		m.lost++
		return len(p), nil
	}
	if m.lost > 0 {
		m.held = append(m.held, m.note(m.lost)...)
		m.lost = 0
	}
	m.held = append(m.held, p...)
	m.wake.Broadcast()
	if !m.slow {
		m.slow = !m.idleWithin(keepUp)
	}
	return len(p), nil
}

// idleWithin waits until all messages were taken, as long as some are, and reports
// whether they were: it gives up when none was for so long. m.mu is held.
func (m *Messages) idleWithin(patience time.Duration) bool {
	giveUp := time.AfterFunc(patience, m.broadcast)
	defer giveUp.Stop()
	until, seen := time.Now().Add(patience), m.moved
	for m.busy || len(m.held) > 0 {
		if m.moved != seen {
			until, seen = time.Now().Add(patience), m.moved
		}
		left := time.Until(until)
		if left <= 0 {
			return false
		}
		giveUp.Reset(left)
		m.wake.Wait()
	}
	return true
}

// broadcast wakes who waits, and nobody who is about to.
func (m *Messages) broadcast() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wake.Broadcast()
}

// pump writes what is held, for as long as the program runs.
func (m *Messages) pump() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		for len(m.held) == 0 {
			m.busy, m.slow = false, false
			m.wake.Broadcast()
			m.wake.Wait()
		}
		m.busy = true
		next := m.held[:min(len(m.held), piece)]
		m.mu.Unlock()
		_, _ = m.w.Write(next) // there is nowhere else to say that it failed
		m.mu.Lock()
		m.moved++
		m.wake.Broadcast()
		if m.held = m.held[len(next):]; len(m.held) == 0 {
			m.held = nil // what was appended to meanwhile has moved on
		}
	}
}

// Drain waits until all messages were taken, as long as some are: it gives up when
// none was for so long. What a pipe or a terminal holds for its reader was taken.
func (m *Messages) Drain(patience time.Duration) {
	if !m.file {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.idleWithin(patience)
}

// Results is a stream of results, which are written in full or not at all: it waits
// for its reader until a context ends. It is not safe for concurrent use.
type Results struct {
	ctx context.Context
	w   io.Writer
	err error // of the write that was given up
}

// NewResults returns a stream of results to w.
func NewResults(ctx context.Context, w io.Writer) *Results { return &Results{ctx: ctx, w: w} }

// Unwrap returns what the results go to.
func (r *Results) Unwrap() io.Writer { return r.w }

// Write implements io.Writer. Once it was given up all further writes fail.
func (r *Results) Write(p []byte) (int, error) {
	if r.err != nil || File(r.w) == nil {
		if r.err != nil {
			return 0, r.err
		}
		return r.w.Write(p)
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	own := append([]byte(nil), p...) // p is the caller's again if this is given up
	go func() {
		n, err := r.w.Write(own)
		done <- result{n, err}
	}()
	select {
	case got := <-done:
		return got.n, got.err
	case <-r.ctx.Done():
	}
	select {
	case got := <-done:
		return got.n, got.err
	case <-time.After(afterEnd):
	}
	r.err = fmt.Errorf("write to standard output, which nobody reads: %w", r.ctx.Err())
	return 0, r.err
}
