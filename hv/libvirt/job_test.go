package libvirt

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
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
		p.mu.Unlock()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Errorf("open the FIFO: %v", err)
			return &answer{cut: true}
		}
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		_ = f.Close()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.job = 0
		if p.state == statePaused && p.reason == pausedByDump && resumes {
			p.state, p.reason = stateRunning, uint32(rpc.DomainRunningUnpaused)
		}
		return &answer{code: rpc.ErrOperationFailed, text: "iohelper died: " + err.Error()}
	}
}

// nothingLeft demands that neither FIFO nor marker are there and that the keeper
// knows.
func (p *peer) nothingLeft(t *testing.T, d *Domain, n *notes) {
	t.Helper()
	if _, err := os.Lstat(d.kept.Gate); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the FIFO is still there (%v)", err)
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
		p.nothingLeft(t, d, n)
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
			d, n, h := p.heldByJob(t, true)
			p.set(tt.state, tt.reason)
			if _, err := h.Release(); !errors.Is(err, tt.want) {
				t.Errorf("Release() = %v; want %v", err, tt.want)
			}
			if p.now() != tt.state || p.count(procResume) != 0 {
				t.Errorf("the guest's state is %d after %d resumes; want %d after none", p.now(), p.count(procResume), tt.state)
			}
			p.nothingLeft(t, d, n)
		})
	}
}

// TestPauseByJobPausedAfter: a pause that waited for the job stays.
func TestPauseByJobPausedAfter(t *testing.T) {
	p := newPeer(t)
	d, n, h := p.heldByJob(t, true)
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
	p.nothingLeft(t, d, n)
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
		p.nothingLeft(t, d, n)
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
		tooLate := make(chan struct{})
		p.on(procCoreDump, func(n int, args []byte) *answer { // waits for another job
			<-tooLate
			return p.dump(t, true)(n, args)
		})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		context.AfterFunc(ctx, func() { time.AfterFunc(100*time.Millisecond, func() { close(tooLate) }) })
		if _, err := d.PauseByJob(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("PauseByJob() = %v; want context.DeadlineExceeded", err)
		}
		if p.now() != stateRunning {
			t.Error("the guest is still held")
		}
		p.nothingLeft(t, d, n)
	})
}

// TestAbandonJob: who undoes a job of a dead process's has it end, whenever libvirt
// comes to it.
func TestAbandonJob(t *testing.T) {
	for name, wait := range map[string]bool{"held": false, "not yet held": true} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t)
			d := p.domain()
			fifo := filepath.Join(t.TempDir(), "hold")
			if err := unix.Mkfifo(fifo, 0o600); err != nil {
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
				p.dump(t, true)(1, xdrAppend(nil, peerDomain, fifo))
				p.mu.Lock()
				p.control = 0
				p.mu.Unlock()
			})
			if wait {
				time.AfterFunc(2*quick.calmFor, func() { close(begun) })
			} else {
				close(begun)
			}
			if err := d.abandonJob(t.Context(), fifo); err != nil {
				t.Errorf("abandonJob() = %v; want no error", err)
			}
			call.Wait()
			if p.now() != stateRunning {
				t.Error("the guest is still held")
			}
			if _, err := os.Lstat(fifo); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the FIFO is still there (%v)", err)
			}
		})
	}
}
