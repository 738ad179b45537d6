package libvirt

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	rpc "github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"

	"snap/hv"
)

func selfThread() string { return strconv.Itoa(unix.Getpid()) }

// mustRun fails the test unless the guest runs.
func mustRun(t *testing.T, p *peer) {
	t.Helper()
	if s := p.now(); s != stateRunning {
		t.Errorf("state afterwards = %d; want %d (running)", s, stateRunning)
	}
}

func TestPauseAndRelease(t *testing.T) {
	p := newPeer(t)
	h, err := p.domain().Pause(t.Context())
	if err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	if s := p.now(); s != statePaused {
		t.Fatalf("state after Pause() = %d; want %d (paused)", s, statePaused)
	}
	stood, err := h.Release()
	if err != nil || stood <= 0 {
		t.Errorf("Release() = %v, %v; want the time it stood", stood, err)
	}
	mustRun(t, p)
	if again, err := h.Release(); again != stood || err != nil {
		t.Errorf("second Release() = %v, %v; want %v", again, err, stood)
	}
	if n := p.count(procResume); n != 1 {
		t.Errorf("the daemon was told %d times to resume; want 1", n)
	}
}

// TestPauseOfPaused: a guest that somebody paused stays paused.
func TestPauseOfPaused(t *testing.T) {
	for _, s := range []struct{ state, reason uint32 }{
		{statePaused, pausedByUser},
		{statePaused, uint32(rpc.DomainPausedIoerror)},
		{uint32(rpc.DomainCrashed), 0},
	} {
		p := newPeer(t)
		p.set(s.state, s.reason)
		h, err := p.domain().Pause(t.Context())
		if err != nil {
			t.Fatalf("Pause() in state %v failed: %v", s, err)
		}
		if stood, err := h.Release(); stood != 0 || err != nil {
			t.Errorf("Release() in state %v = %v, %v; want 0", s, stood, err)
		}
		if got := p.now(); got != s.state {
			t.Errorf("state afterwards = %d; want %d", got, s.state)
		}
		if n := p.count(procSuspend) + p.count(procResume); n != 0 {
			t.Errorf("the daemon was told %d times to suspend or resume; want 0", n)
		}
	}
}

func TestPauseRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*peer)
		want   error
	}{
		{"off", func(p *peer) { p.state = stateOff }, hv.ErrNotRunning},
		{"asleep", func(p *peer) { p.state = uint32(rpc.DomainPmsuspended) }, hv.ErrUnsupported},
		{"migrating", func(p *peer) { p.job = uint32(rpc.DomainJobUnbounded) }, hv.ErrBusy},
		{"paused by a dump", func(p *peer) { p.state, p.reason = statePaused, uint32(rpc.DomainPausedDump) }, hv.ErrBusy},
	}
	for _, tt := range tests {
		p := newPeer(t)
		tt.change(p)
		if _, err := p.domain().Pause(t.Context()); !errors.Is(err, tt.want) {
			t.Errorf("Pause() of a guest that is %s = %v; want %v", tt.name, err, tt.want)
		}
		if n := p.count(procSuspend); n != 0 {
			t.Errorf("Pause() of a guest that is %s asked for a suspend", tt.name)
		}
	}
}

// TestPauseFails: the daemon says no, and the guest goes on.
func TestPauseFails(t *testing.T) {
	p := newPeer(t)
	p.on(procSuspend, func(int, []byte) *answer {
		return &answer{code: rpc.ErrOperationTimeout, text: "cannot acquire state change lock"}
	})
	_, err := p.domain().Pause(t.Context())
	if !errors.Is(err, hv.ErrBusy) || errors.Is(err, hv.ErrStillPaused) {
		t.Errorf("Pause() = %v; want %v", err, hv.ErrBusy)
	}
	mustRun(t, p)
	if n := p.count(procResume); n != 0 {
		t.Errorf("the daemon was told to resume a guest that it didn't pause")
	}
}

// TestPauseCut: suspends without an answer, which may have done their work or may
// still do it.
func TestPauseCut(t *testing.T) {
	tests := []struct {
		name   string
		script func(p *peer, cancel func()) func(int, []byte) *answer
	}{
		{"after it paused", func(p *peer, _ func()) func(int, []byte) *answer {
			return func(int, []byte) *answer {
				p.set(statePaused, pausedByUser)
				return &answer{cut: true}
			}
		}},
		{"before it paused", func(*peer, func()) func(int, []byte) *answer {
			return func(int, []byte) *answer { return &answer{cut: true} }
		}},
		{"pausing later", func(p *peer, _ func()) func(int, []byte) *answer {
			return func(int, []byte) *answer {
				p.later()
				return &answer{cut: true}
			}
		}},
		{"context ends, answer comes", func(p *peer, cancel func()) func(int, []byte) *answer {
			return func(int, []byte) *answer {
				cancel()
				return nil
			}
		}},
		{"context ends, no answer, paused", func(p *peer, cancel func()) func(int, []byte) *answer {
			return func(int, []byte) *answer {
				cancel()
				p.set(statePaused, pausedByUser)
				return &answer{hang: true}
			}
		}},
		{"context ends, no answer, pausing later", func(p *peer, cancel func()) func(int, []byte) *answer {
			return func(int, []byte) *answer {
				cancel()
				p.later()
				return &answer{hang: true}
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			d := p.domain()
			if tt.name == "context ends, answer comes" {
				bounds := quick
				bounds.suspendGrace = soon // however slowly it comes
				d.bounds = &bounds
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p.on(procSuspend, tt.script(p, cancel))
			err := promptly(t, "Pause", func() error {
				_, err := d.Pause(ctx)
				return err
			})
			if err == nil || errors.Is(err, hv.ErrStillPaused) {
				t.Errorf("Pause() = %v; want an error, and the guest running", err)
			}
			if strings.HasPrefix(tt.name, "context") && !errors.Is(err, context.Canceled) {
				t.Errorf("Pause() = %v; want %v", err, context.Canceled)
			}
			// The one that the guest was looked up on, and the pause's own.
			if n := p.connections(); tt.name == "context ends, answer comes" && n != 2 {
				t.Errorf("there were %d connections; want 2: a suspend that is being answered isn't cut", n)
			}
			p.pausing.Wait()
			mustRun(t, p)
		})
	}
}

// later makes a suspend take effect only after a while, during which the domain
// runs and has a job, as when the guest's disks are flushed first.
func (p *peer) later() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.control = uint32(rpc.DomainControlJob)
	p.pausing.Go(func() {
		time.Sleep(2 * quick.calmFor)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.control = uint32(rpc.DomainControlOk)
		p.state, p.reason = statePaused, pausedByUser
	})
}

// TestReleaseInsists: whatever goes wrong once on the way is tried again.
func TestReleaseInsists(t *testing.T) {
	tests := []struct {
		name   string
		resume func(n int) *answer
	}{
		{"error", func(n int) *answer {
			if n == 1 {
				return &answer{code: rpc.ErrOperationTimeout, text: "cannot acquire state change lock"}
			}
			return nil
		}},
		{"lost connection", func(n int) *answer {
			if n <= 2 {
				return &answer{cut: true}
			}
			return nil
		}},
		{"resume without effect", func(n int) *answer {
			if n == 1 {
				return &answer{}
			}
			return nil
		}},
		{"no answer", func(n int) *answer {
			if n == 1 {
				return &answer{hang: true}
			}
			return nil
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			p.on(procResume, func(n int, _ []byte) *answer { return tt.resume(n) })
			ctx, cancel := context.WithCancel(t.Context())
			h, err := p.domain().Pause(ctx)
			if err != nil {
				t.Fatalf("Pause() failed: %v", err)
			}
			cancel() // Release works all the same
			err = promptly(t, "Release", func() error {
				_, err := h.Release()
				return err
			})
			if err != nil {
				t.Errorf("Release() failed: %v", err)
			}
			mustRun(t, p)
		})
	}
}

// TestReleaseAfterDaemonRestart: all connections are gone when it is time to resume.
func TestReleaseAfterDaemonRestart(t *testing.T) {
	p := newPeer(t)
	h, err := p.domain().Pause(t.Context())
	if err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	if _, err := h.Release(); err != nil {
		t.Errorf("Release() failed: %v", err)
	}
	mustRun(t, p)
}

// TestReleaseGivesUp: what can't be resumed is said loudly, with the way out.
func TestReleaseGivesUp(t *testing.T) {
	p := newPeer(t)
	p.on(procResume, func(int, []byte) *answer {
		return &answer{code: rpc.ErrOperationFailed, text: "disk is gone"}
	})
	d := p.domain()
	bounds := quick
	bounds.resumeFor = time.Second
	d.bounds = &bounds
	h, err := d.Pause(t.Context())
	if err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	err = promptly(t, "Release", func() error {
		_, err := h.Release()
		return err
	})
	if !errors.Is(err, hv.ErrStillPaused) {
		t.Fatalf("Release() = %v; want %v", err, hv.ErrStillPaused)
	}
	for _, part := range []string{"virsh -c " + p.uri() + " resume guest", "disk is gone"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("Release() = %q; want it to say %q", err, part)
		}
	}
}

// TestReleaseOfOthers: a pause that isn't ours any more is left alone, and a guest
// that is gone isn't called paused.
func TestReleaseOfOthers(t *testing.T) {
	p := newPeer(t)
	h, err := p.domain().Pause(t.Context())
	if err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	p.set(statePaused, uint32(rpc.DomainPausedMigration))
	if _, err := h.Release(); !errors.Is(err, errTakenOver) || !errors.Is(err, hv.ErrStillPaused) {
		t.Errorf("Release() of a guest that a migration paused = %v; want %v", err, errTakenOver)
	}
	if n := p.count(procResume); n != 0 {
		t.Errorf("the daemon was told to resume a guest that a migration paused")
	}

	p = newPeer(t)
	if h, err = p.domain().Pause(t.Context()); err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	p.set(stateOff, 0)
	if _, err := h.Release(); !errors.Is(err, hv.ErrNotRunning) || errors.Is(err, hv.ErrStillPaused) {
		t.Errorf("Release() of a guest that went off = %v; want %v", err, hv.ErrNotRunning)
	}

	p = newPeer(t)
	if h, err = p.domain().Pause(t.Context()); err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	p.set(stateRunning, 0)
	if _, err := h.Release(); err != nil {
		t.Errorf("Release() of a guest that somebody resumed = %v; want nil", err)
	}
	if n := p.count(procResume); n != 0 {
		t.Errorf("the daemon was told to resume a guest that runs")
	}
}
