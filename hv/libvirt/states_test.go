package libvirt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
)

// conditions are all states and reasons of libvirt's (include/libvirt/libvirt-domain.h),
// and one of each that it doesn't have yet, with what may be done.
var conditions = []struct {
	name          string
	state, reason int
	want          hv.State
	use           hv.Use
	class         error
}{
	{"no state", int(rpc.DomainNostate), 0, hv.StateOther, hv.UseNothing, hv.ErrUnsupported},
	{"running", int(rpc.DomainRunning), int(rpc.DomainRunningUnknown), hv.StateRunning, hv.UseRunning, nil},
	{"booted", int(rpc.DomainRunning), int(rpc.DomainRunningBooted), hv.StateRunning, hv.UseRunning, nil},
	{"migrated", int(rpc.DomainRunning), int(rpc.DomainRunningMigrated), hv.StateRunning, hv.UseRunning, nil},
	{"restored", int(rpc.DomainRunning), int(rpc.DomainRunningRestored), hv.StateRunning, hv.UseRunning, nil},
	{"reverted", int(rpc.DomainRunning), int(rpc.DomainRunningFromSnapshot), hv.StateRunning, hv.UseRunning, nil},
	{"unpaused", int(rpc.DomainRunning), int(rpc.DomainRunningUnpaused), hv.StateRunning, hv.UseRunning, nil},
	{"migration cancelled", int(rpc.DomainRunning), int(rpc.DomainRunningMigrationCanceled), hv.StateRunning, hv.UseRunning, nil},
	{"save cancelled", int(rpc.DomainRunning), int(rpc.DomainRunningSaveCanceled), hv.StateRunning, hv.UseRunning, nil},
	{"woken", int(rpc.DomainRunning), int(rpc.DomainRunningWakeup), hv.StateRunning, hv.UseRunning, nil},
	{"resumed after a crash", int(rpc.DomainRunning), int(rpc.DomainRunningCrashed), hv.StateRunning, hv.UseRunning, nil},
	{"post-copy", int(rpc.DomainRunning), int(rpc.DomainRunningPostcopy), hv.StateMoving, hv.UseNothing, hv.ErrBusy},
	{"post-copy failed", int(rpc.DomainRunning), int(rpc.DomainRunningPostcopyFailed), hv.StateSplit, hv.UseNothing, hv.ErrBusy},
	{"running for a reason to come", int(rpc.DomainRunning), 99, hv.StateRunning, hv.UseRunning, nil},
	{"blocked", int(rpc.DomainBlocked), 0, hv.StateRunning, hv.UseRunning, nil},
	{"paused", int(rpc.DomainPaused), int(rpc.DomainPausedUnknown), hv.StatePaused, hv.UseStill, nil},
	{"paused by a user", int(rpc.DomainPaused), int(rpc.DomainPausedUser), hv.StatePaused, hv.UseStill, nil},
	{"paused by a migration", int(rpc.DomainPaused), int(rpc.DomainPausedMigration), hv.StateMoving, hv.UseNothing, hv.ErrBusy},
	{"paused by a save", int(rpc.DomainPaused), int(rpc.DomainPausedSave), hv.StateSaving, hv.UseNothing, hv.ErrBusy},
	{"paused by a dump", int(rpc.DomainPaused), int(rpc.DomainPausedDump), hv.StateSaving, hv.UseNothing, hv.ErrBusy},
	{"paused by an I/O error", int(rpc.DomainPaused), int(rpc.DomainPausedIoerror), hv.StateIOError, hv.UseStill, nil},
	{"paused by a watchdog", int(rpc.DomainPaused), int(rpc.DomainPausedWatchdog), hv.StateWatchdog, hv.UseStill, nil},
	{"paused since a revert", int(rpc.DomainPaused), int(rpc.DomainPausedFromSnapshot), hv.StatePaused, hv.UseStill, nil},
	{"shutting down", int(rpc.DomainPaused), int(rpc.DomainPausedShuttingDown), hv.StateShutdown, hv.UseStill, nil},
	{"paused by a snapshot", int(rpc.DomainPaused), int(rpc.DomainPausedSnapshot), hv.StateSaving, hv.UseNothing, hv.ErrBusy},
	{"paused by a crash", int(rpc.DomainPaused), int(rpc.DomainPausedCrashed), hv.StateCrashed, hv.UseStill, nil},
	{"starting", int(rpc.DomainPaused), int(rpc.DomainPausedStartingUp), hv.StateStarting, hv.UseNothing, hv.ErrBusy},
	{"paused by post-copy", int(rpc.DomainPaused), int(rpc.DomainPausedPostcopy), hv.StateMoving, hv.UseNothing, hv.ErrBusy},
	{"paused as post-copy failed", int(rpc.DomainPaused), int(rpc.DomainPausedPostcopyFailed), hv.StateSplit, hv.UseNothing, hv.ErrBusy},
	{"paused by an API error", int(rpc.DomainPaused), int(rpc.DomainPausedAPIError), hv.StatePaused, hv.UseStill, nil},
	{"paused for a reason to come", int(rpc.DomainPaused), 99, hv.StatePaused, hv.UseStill, nil},
	{"in shutdown", int(rpc.DomainShutdown), int(rpc.DomainShutdownUnknown), hv.StateShutdown, hv.UseStill, nil},
	{"in shutdown by a user", int(rpc.DomainShutdown), int(rpc.DomainShutdownUser), hv.StateShutdown, hv.UseStill, nil},
	{"off", int(rpc.DomainShutoff), int(rpc.DomainShutoffUnknown), hv.StateOff, hv.UseNothing, hv.ErrNotRunning},
	{"shut down", int(rpc.DomainShutoff), int(rpc.DomainShutoffShutdown), hv.StateOff, hv.UseNothing, hv.ErrNotRunning},
	{"destroyed", int(rpc.DomainShutoff), int(rpc.DomainShutoffDestroyed), hv.StateOff, hv.UseNothing, hv.ErrNotRunning},
	{"ended by a crash", int(rpc.DomainShutoff), int(rpc.DomainShutoffCrashed), hv.StateOffCrashed, hv.UseNothing, hv.ErrNotRunning},
	{"migrated away", int(rpc.DomainShutoff), int(rpc.DomainShutoffMigrated), hv.StateOff, hv.UseNothing, hv.ErrNotRunning},
	{"saved", int(rpc.DomainShutoff), int(rpc.DomainShutoffSaved), hv.StateSaved, hv.UseNothing, hv.ErrNotRunning},
	{"failed to start", int(rpc.DomainShutoff), int(rpc.DomainShutoffFailed), hv.StateOff, hv.UseNothing, hv.ErrNotRunning},
	{"reverted to off", int(rpc.DomainShutoff), int(rpc.DomainShutoffFromSnapshot), hv.StateOff, hv.UseNothing, hv.ErrNotRunning},
	{"ended with the daemon", int(rpc.DomainShutoff), int(rpc.DomainShutoffDaemon), hv.StateOff, hv.UseNothing, hv.ErrNotRunning},
	{"crashed", int(rpc.DomainCrashed), int(rpc.DomainCrashedUnknown), hv.StateCrashed, hv.UseStill, nil},
	{"panicked", int(rpc.DomainCrashed), int(rpc.DomainCrashedPanicked), hv.StateCrashed, hv.UseStill, nil},
	{"asleep", int(rpc.DomainPmsuspended), int(rpc.DomainPmsuspendedUnknown), hv.StateAsleep, hv.UseLive, hv.ErrUnsupported},
	{"in a state to come", 8, 0, hv.StateOther, hv.UseNothing, hv.ErrUnsupported},
}

// TestConditions has a domain in every state and demands of all who ask for it what
// the table says: State, the list, the memory, both ways to hold it.
func TestConditions(t *testing.T) {
	for _, tt := range conditions {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			d, _, _ := p.kept()
			p.dumps(t, true)
			p.set(uint32(tt.state), uint32(tt.reason))
			got, err := d.State(t.Context())
			if c := got.Condition(); err != nil || got != tt.want || c.Use != tt.use || !errors.Is(c.Err, tt.class) {
				t.Fatalf("State() = %q (%+v), %v; want %q, of use %d and class %v", got, c, err, tt.want, tt.use, tt.class)
			}
			list, err := p.dial().info(t.Context(), peerDomain)
			if err != nil || list.State != tt.want {
				t.Errorf("the list says %q, %v; want %q", list.State, err, tt.want)
			}
			if err := d.CheckJob(t.Context()); (err == nil) != (tt.use != hv.UseNothing) || err != nil && !errors.Is(err, tt.class) {
				t.Errorf("CheckJob() = %v; want class %v", err, tt.class)
			}
			p.tryToHold(t, "Pause", d.Pause, tt.use, tt.class)
			p.tryToHold(t, "PauseByJob", d.PauseByJob, tt.use, tt.class)
			if now := p.now(); now != uint32(tt.state) && tt.use != hv.UseRunning {
				t.Errorf("state afterwards = %d; want %d as before", now, tt.state)
			}
		})
	}
}

// tryToHold holds the domain, and demands that one that stands still is left alone.
func (p *peer) tryToHold(t *testing.T, name string, pause func(context.Context) (hv.Hold, error), use hv.Use, class error) {
	t.Helper()
	calls := p.count(procSuspend) + p.count(procResume) + p.count(procCoreDump)
	h, err := pause(t.Context())
	if use == hv.UseRunning || use == hv.UseStill {
		if err != nil {
			t.Fatalf("%s() failed: %v", name, err)
		}
		if _, err := h.Release(); err != nil {
			t.Errorf("Release() after %s() failed: %v", name, err)
		}
	} else if !errors.Is(err, class) || errors.Is(err, hv.ErrStillPaused) {
		t.Errorf("%s() = %v; want %v", name, err, class)
	}
	if now := p.count(procSuspend) + p.count(procResume) + p.count(procCoreDump); use != hv.UseRunning && now != calls {
		t.Errorf("%s() and its Release() suspended, dumped or resumed the guest %d times; want 0", name, now-calls)
	}
}

// itself are run states in which QEMU stays whatever it is told from outside.
var itself = []string{"guest-panicked", "io-error", "watchdog", "internal-error", "shutdown", "suspended"}

// runState has QEMU say what its guest does.
func (p *peer) runState(running bool, status string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.monitor[queryStatus] = fmt.Sprintf(`{"return":{"running":%t,"singlestep":false,"status":%q}}`, running, status)
}

// TestStopsBeforeSuspend: a guest that stops by itself between snap's look and its
// suspend, whatever libvirt calls it then, is never resumed, and is held as what it is.
func TestStopsBeforeSuspend(t *testing.T) {
	for _, how := range itself {
		for _, after := range []struct {
			name          string
			state, reason uint32
		}{
			{"as by a user", statePaused, pausedByUser},
			{"unknown yet", statePaused, uint32(rpc.DomainPausedUnknown)},
			{"known", uint32(rpc.DomainCrashed), uint32(rpc.DomainCrashedPanicked)},
		} {
			t.Run(how+" "+after.name, func(t *testing.T) {
				p := newPeer(t)
				d, n, _ := p.kept()
				p.on(procSuspend, func(int, []byte) *answer {
					p.runState(false, how)
					p.set(after.state, after.reason)
					return &answer{}
				})
				h, err := d.Pause(t.Context())
				if err != nil {
					t.Fatalf("Pause() failed: %v", err)
				}
				if stood, err := h.Release(); stood != 0 || err != nil {
					t.Errorf("Release() = %v, %v; want 0 of a guest that stopped by itself", stood, err)
				}
				if p.count(procResume) != 0 || p.now() != after.state {
					t.Errorf("%d resumes, and the state is %d; want none, and %d", p.count(procResume), p.now(), after.state)
				}
				if last := n.said[len(n.said)-1]; !strings.HasPrefix(last, "freed") {
					t.Errorf("the keeper was last told %q; want freed", last)
				}
			})
		}
	}
}

// TestNobodyResumesACrash: whoever comes to undo a dump that died finds the guest
// stopped by itself, in whatever words libvirt has for it, and leaves it.
func TestNobodyResumesACrash(t *testing.T) {
	states := []struct {
		name          string
		state, reason uint32
	}{
		{"as by a user", statePaused, pausedByUser},
		{"unknown yet", statePaused, uint32(rpc.DomainPausedUnknown)},
		{"by a dump", statePaused, pausedByDump},
		{"paused by a crash", statePaused, uint32(rpc.DomainPausedCrashed)},
		{"crashed", uint32(rpc.DomainCrashed), uint32(rpc.DomainCrashedPanicked)},
	}
	for _, why := range []hv.Reason{hv.ForPause, hv.ForJob, hv.ForSnapshot} {
		for _, s := range states {
			if s.reason == pausedByDump && s.state == statePaused && why != hv.ForJob {
				continue // then somebody dumps it
			}
			t.Run(string(why)+" "+s.name, func(t *testing.T) {
				p := newPeer(t)
				d := p.domain()
				m := hv.Marker{Run: "run", PID: 1, Why: why, Was: hv.StateRunning}
				if err := d.setMarker(t.Context(), m); err != nil {
					t.Fatal(err)
				}
				p.noSnapshot("failed")
				p.runState(false, "guest-panicked")
				p.set(s.state, s.reason)
				_, err := d.Undo(t.Context(), hv.Left{Run: "run", Why: why})
				if err != nil && !errors.Is(err, hv.ErrDisturbed) {
					t.Errorf("Undo() = %v; want nil or %v", err, hv.ErrDisturbed)
				}
				if p.count(procResume) != 0 || p.now() != s.state {
					t.Errorf("%d resumes, and the state is %d; want none, and %d", p.count(procResume), p.now(), s.state)
				}
			})
		}
	}
}

// noSnapshot has QEMU say that a migration ended in the given way, with nothing of a
// snapshot left.
func (p *peer) noSnapshot(status string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.monitor[`{"execute":"query-migrate-capabilities"}`] = `{"return":[{"capability":"background-snapshot","state":false}]}`
	p.monitor[`{"execute":"query-migrate"}`] = fmt.Sprintf(`{"return":{"status":%q}}`, status)
	p.monitor[`{"execute":"closefd","arguments":{"fdname":"snap-snapshot"}}`] = `{"error":{"class":"GenericError","desc":"File descriptor named 'snap-snapshot' not found"}}`
}

// TestHeldThenCrashed: a guest that crashes before libvirt has a word for it is one
// that stood still; one that was paused, resumed and crashed isn't.
func TestHeldThenCrashed(t *testing.T) {
	tests := []struct {
		name   string
		reason uint32 // of the pause that was found
		resume bool   // seen
		want   error
	}{
		{"at once", uint32(rpc.DomainPausedUnknown), false, nil},
		{"after a resume", uint32(rpc.DomainPausedUnknown), true, hv.ErrDisturbed},
		{"after an operator's pause", pausedByUser, false, hv.ErrDisturbed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			d, _, w := p.kept()
			p.set(statePaused, tt.reason)
			h, err := d.Pause(t.Context())
			if err != nil {
				t.Fatalf("Pause() failed: %v", err)
			}
			if tt.resume {
				p.event(rpc.DomainEventResumed, 0)
				sees(t, "a resume", w.Resumed)
			}
			p.set(uint32(rpc.DomainCrashed), uint32(rpc.DomainCrashedPanicked))
			if _, err := h.Release(); !errors.Is(err, tt.want) {
				t.Errorf("Release() = %v; want %v", err, tt.want)
			}
			if n := p.count(procSuspend) + p.count(procResume); n != 0 {
				t.Errorf("%d suspends and resumes; want none", n)
			}
		})
	}
}

// TestLibvirtIsBehind: a guest that QEMU runs isn't said to stand still, before or
// after, whatever libvirt says.
func TestLibvirtIsBehind(t *testing.T) {
	p := newPeer(t)
	d, _, _ := p.kept()
	p.set(uint32(rpc.DomainCrashed), uint32(rpc.DomainCrashedPanicked))
	p.runState(true, "running")
	if _, err := d.Pause(t.Context()); !errors.Is(err, hv.ErrBusy) {
		t.Errorf("Pause() of a crashed guest that runs = %v; want %v", err, hv.ErrBusy)
	}
	p.runState(false, "guest-panicked")
	h, err := d.Pause(t.Context())
	if err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	p.runState(true, "running")
	if _, err := h.Release(); !errors.Is(err, hv.ErrDisturbed) {
		t.Errorf("Release() of a guest that runs by then = %v; want %v", err, hv.ErrDisturbed)
	}
}
