package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	rpc "github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"

	"snap/hv"
)

const (
	procCoreDump = 334
	pausedByDump = uint32(rpc.DomainPausedDump)
)

// dumps has the peer dump its domain as libvirt does: it pauses it, writes to the
// file until that fails, and resumes it, unless it isn't as it left it by then.
func (p *peer) dumps(t *testing.T, resumes bool) {
	p.on(procCoreDump, p.dump(t, resumes))
}

func (p *peer) dump(t *testing.T, resumes bool) func(int, []byte) *answer {
	return func(_ int, args []byte) *answer {
		_, rest := xdrString(args)
		path, _ := xdrString(rest[16+4:])
		p.mu.Lock()
		p.state, p.reason, p.job = statePaused, pausedByDump, uint32(rpc.DomainJobUnbounded)
		gone := p.gone
		p.mu.Unlock()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil && !gone {
			t.Errorf("open the pipe: %v", err)
		}
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		_ = f.Close() // it may not be open
		p.mu.Lock()
		defer p.mu.Unlock()
		p.job = 0
		if p.state == statePaused && p.reason == pausedByDump && resumes {
			p.state, p.reason = stateRunning, uint32(rpc.DomainRunningUnpaused)
		}
		return &answer{code: rpc.ErrOperationFailed, text: "iohelper died: " + err.Error()}
	}
}

// pipeGate is a gate of the test's own process.
type pipeGate struct {
	r, w *os.File
	path string

	mu      sync.Mutex
	armed   time.Time
	late    error
	shut    bool
	freed   bool
	written chan struct{}
	closed  chan struct{}
	waited  sync.WaitGroup
}

// openGate is a hv.Guard's Gate. The peer keeps the last one.
func (p *peer) openGate(context.Context) (hv.Gate, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	g := &pipeGate{r: r, w: w, path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), w.Fd()), written: make(chan struct{}), closed: make(chan struct{})}
	g.waited.Go(func() {
		for {
			poll := []unix.PollFd{{Fd: int32(r.Fd()), Events: unix.POLLIN}}
			if _, err := unix.Poll(poll, 10); err == nil && poll[0].Revents&unix.POLLIN != 0 {
				close(g.written)
				return
			}
			select {
			case <-g.closed:
				return
			default:
			}
		}
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gate = g
	return g, nil
}

func (g *pipeGate) Path() string { return g.path }

func (g *pipeGate) Arm(until time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed = until
	return nil
}

func (g *pipeGate) Progressed()              {}
func (g *pipeGate) Written() <-chan struct{} { return g.written }
func (g *pipeGate) Closed() <-chan struct{}  { return g.closed }

func (g *pipeGate) Overdue() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.late
}

func (g *pipeGate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return
	}
	g.shut = true
	close(g.closed)
	g.waited.Wait()
	_, _ = g.r.Close(), g.w.Close()
}

func (g *pipeGate) Free() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.freed = true
}

// expire closes the pipe as its process does when its time is up.
func (g *pipeGate) expire(late error) {
	g.mu.Lock()
	g.late = late
	g.mu.Unlock()
	g.Shut()
}

// nothingLeft demands that the gate is closed and given away, that the marker isn't
// there, and that the keeper knows.
func (p *peer) nothingLeft(t *testing.T, n *notes) {
	t.Helper()
	p.mu.Lock()
	g := p.gate
	p.mu.Unlock()
	if g != nil && (!g.shut || !g.freed) {
		t.Errorf("the gate is closed %v, given away %v; want both", g.shut, g.freed)
	}
	if last := n.said[len(n.said)-1]; !strings.HasPrefix(last, "freed") || strings.Contains(last, "marked") {
		t.Errorf("the keeper was last told %q; want freed, of a guest without a mark", last)
	}
}

// heldByJob returns the peer's domain while a job holds it, which resumes it or
// doesn't.
func (p *peer) heldByJob(t *testing.T, resumes bool) (*Domain, *notes, hv.Hold) {
	t.Helper()
	d, n, _ := p.kept()
	p.dumps(t, resumes)
	h, err := d.PauseByJob(t.Context())
	if err != nil {
		t.Fatalf("PauseByJob() failed: %v", err)
	}
	return d, n, h
}

func TestPauseByJob(t *testing.T) {
	for _, resumes := range []bool{true, false} {
		p := newPeer(t)
		d, n, h := p.heldByJob(t, resumes)
		if p.now() != statePaused {
			t.Error("the guest isn't held")
		}
		if m, err := d.Marker(t.Context()); err != nil || m == nil || m.Why != hv.ForJob {
			t.Errorf("Marker() = %+v, %v; want one that says why", m, err)
		}
		stood, err := h.Release()
		if err != nil || stood <= 0 {
			t.Errorf("Release() = %v, %v; want no error", stood, err)
		}
		if again, err := h.Release(); again != stood || err != nil {
			t.Errorf("Release() again = %v, %v; want %v", again, err, stood)
		}
		// A libvirt that forgot to resume it is helped.
		if want := map[bool]int{true: 0, false: 1}[resumes]; p.now() != stateRunning || p.count(procResume) != want || p.count(procSuspend) != 0 {
			t.Errorf("the guest's state is %d after %d resumes of ours; want %d after %d", p.now(), p.count(procResume), stateRunning, want)
		}
		p.nothingLeft(t, n)
	}
}

// TestPauseByJobOthers: who does something to the guest meanwhile has it.
func TestPauseByJobOthers(t *testing.T) {
	tests := []struct {
		name          string
		state, reason uint32
		want          error
	}{
		{"resumed", stateRunning, uint32(rpc.DomainRunningUnpaused), hv.ErrDisturbed},
		{"resumed and paused", statePaused, pausedByUser, hv.ErrDisturbed},
		{"destroyed", stateOff, 0, hv.ErrNotRunning},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			_, n, h := p.heldByJob(t, true)
			p.set(tt.state, tt.reason)
			if _, err := h.Release(); !errors.Is(err, tt.want) {
				t.Errorf("Release() = %v; want %v", err, tt.want)
			}
			if p.now() != tt.state || p.count(procResume) != 0 {
				t.Errorf("the guest's state is %d after %d resumes; want %d after none", p.now(), p.count(procResume), tt.state)
			}
			p.nothingLeft(t, n)
		})
	}
}

// TestPauseByJobPausedAfter: a pause that waited for the job stays.
func TestPauseByJobPausedAfter(t *testing.T) {
	p := newPeer(t)
	_, n, h := p.heldByJob(t, true)
	p.on(procJobInfo, nil)
	p.on(procGetState, func(int, []byte) *answer {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.job == 0 { // as soon as the job is over
			p.state, p.reason = statePaused, pausedByUser
		}
		return nil
	})
	if _, err := h.Release(); err != nil {
		t.Errorf("Release() = %v; want no error", err)
	}
	if p.now() != statePaused || p.count(procResume) != 0 {
		t.Errorf("the guest's state is %d after %d resumes of ours; want %d after none", p.now(), p.count(procResume), statePaused)
	}
	p.nothingLeft(t, n)
}

// TestPauseByJobRefused: where it can't be, the guest runs as before, and there is
// another way.
func TestPauseByJobRefused(t *testing.T) {
	t.Run("by libvirt", func(t *testing.T) {
		p := newPeer(t)
		d, n, _ := p.kept()
		p.on(procCoreDump, func(int, []byte) *answer {
			return &answer{code: rpc.ErrOperationFailed, text: "Failed to open file: Permission denied"}
		})
		if _, err := d.PauseByJob(t.Context()); !errors.Is(err, hv.ErrUnsupported) {
			t.Errorf("PauseByJob() = %v; want hv.ErrUnsupported", err)
		}
		p.nothingLeft(t, n)
	})
	t.Run("without a keeper", func(t *testing.T) {
		p := newPeer(t)
		if _, err := p.domain().PauseByJob(t.Context()); !errors.Is(err, hv.ErrUnsupported) {
			t.Errorf("PauseByJob() = %v; want hv.ErrUnsupported", err)
		}
	})
	t.Run("of a paused guest", func(t *testing.T) {
		p := newPeer(t)
		p.set(statePaused, pausedByUser)
		d, _, _ := p.kept()
		h, err := d.PauseByJob(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if stood, err := h.Release(); stood != 0 || err != nil || p.count(procCoreDump) != 0 {
			t.Errorf("Release() = %v, %v after %d dumps; want 0 after none", stood, err, p.count(procCoreDump))
		}
	})
	t.Run("in time", func(t *testing.T) {
		p := newPeer(t)
		d, n, _ := p.kept()
		p.gone = true
		ctx, timeUp := context.WithCancelCause(t.Context())
		p.on(procCoreDump, func(n int, args []byte) *answer { // waits for another job
			timeUp(context.DeadlineExceeded)
			p.mu.Lock()
			g := p.gate
			p.mu.Unlock()
			<-g.Closed()
			return p.dump(t, true)(n, args)
		})
		if _, err := d.PauseByJob(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("PauseByJob() = %v; want context.DeadlineExceeded", err)
		}
		if p.now() != stateRunning {
			t.Error("the guest is still held")
		}
		p.nothingLeft(t, n)
	})
}

// lateContext is a context whose time is up, and whose timer hasn't come yet.
type lateContext struct {
	context.Context
	until time.Time
}

func (c lateContext) Deadline() (time.Time, bool) { return c.until, true }

// TestPauseByJobStopped: a process that was stopped before it saw its guest held finds
// at once that the gate's time is up, that libvirt's dump failed, and later that its own
// time is up. It says the first, whichever comes first.
func TestPauseByJobStopped(t *testing.T) {
	p := newPeer(t)
	d, n, _ := p.kept()
	late := &hv.OverdueError{Held: time.Second, Why: "the test says so"}
	until := time.Now().Add(2 * time.Second)
	p.on(procCoreDump, func(int, []byte) *answer {
		time.Sleep(time.Until(until))
		p.mu.Lock()
		g := p.gate
		p.mu.Unlock()
		g.mu.Lock()
		g.late = late
		g.mu.Unlock()
		return &answer{code: rpc.ErrOperationFailed, text: "iohelper died: fatal signal 13"}
	})
	_, err := d.PauseByJob(lateContext{t.Context(), until})
	if e, ok := errors.AsType[*hv.OverdueError](err); !ok || *e != *late || errors.Is(err, hv.ErrUnsupported) {
		t.Errorf("PauseByJob() = %v; want %v, and no word of another way", err, late)
	}
	p.nothingLeft(t, n)
}

// TestPauseByJobBroken: a guest that was let go before Release isn't said to have
// stood still, whoever knows of it.
func TestPauseByJobBroken(t *testing.T) {
	late := &hv.OverdueError{Held: time.Microsecond, Why: "the test says so"}
	tests := []struct {
		name   string
		breaks func(t *testing.T, p *peer, n *notes, h *jobHold)
		want   error
		stood  time.Duration // 0 is any
	}{
		{"the gate's time is up", func(_ *testing.T, p *peer, _ *notes, _ *jobHold) { p.gate.expire(late) }, hv.ErrOverdue, late.Held},
		{"the keeper's patience is", func(_ *testing.T, _ *peer, n *notes, _ *jobHold) { n.late = late }, hv.ErrOverdue, late.Held},
		{"libvirt ended it, and another holds it", func(t *testing.T, p *peer, _ *notes, h *jobHold) {
			p.gate.Shut()
			sees(t, "the end of the dump", func() bool { return len(h.call) > 0 })
			p.set(statePaused, pausedByDump)
		}, hv.ErrDisturbed, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			_, n, h := p.heldByJob(t, true)
			tt.breaks(t, p, n, h.(*jobHold))
			stood, err := h.Release()
			if !errors.Is(err, tt.want) || tt.stood != 0 && stood != tt.stood {
				t.Errorf("Release() = %v, %v; want %v, %v", stood, err, tt.stood, tt.want)
			}
			if p.now() != stateRunning {
				t.Error("the guest is still held")
			}
			p.nothingLeft(t, n)
		})
	}
}

// TestPauseByJobArmed: the gate knows when the guest is to be let go.
func TestPauseByJobArmed(t *testing.T) {
	p := newPeer(t)
	d, _, _ := p.kept()
	p.dumps(t, true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	h, err := d.PauseByJob(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := ctx.Deadline(); !p.gate.armed.Equal(want) {
		t.Errorf("the gate closes at %v; want %v", p.gate.armed, want)
	}
	if _, err := h.Release(); err != nil {
		t.Error(err)
	}
}

// TestAbandonJob: a job of a dead process's, whose pipe is closed, is waited for,
// whenever libvirt comes to it.
func TestAbandonJob(t *testing.T) {
	for name, wait := range map[string]bool{"held": false, "not yet held": true} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			d := p.domain()
			g, err := p.openGate(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			// The dead process's call: libvirt carries it out all the same.
			begun := make(chan struct{})
			p.mu.Lock()
			p.control = 1 // another job that it waits for
			p.mu.Unlock()
			var call sync.WaitGroup
			call.Go(func() {
				<-begun
				p.mu.Lock()
				p.gone = wait // the pipe's path leads nowhere
				p.mu.Unlock()
				p.dump(t, true)(1, xdrAppend(nil, peerDomain, g.Path()))
				p.mu.Lock()
				p.control = 0
				p.mu.Unlock()
			})
			if wait {
				time.AfterFunc(2*quick.calmFor, func() { close(begun) })
			} else {
				close(begun)
				<-g.Written()
			}
			g.Shut()
			if err := d.abandonJob(t.Context()); err != nil {
				t.Errorf("abandonJob() = %v; want no error", err)
			}
			call.Wait()
			if p.now() != stateRunning {
				t.Error("the guest is still held")
			}
		})
	}
}
