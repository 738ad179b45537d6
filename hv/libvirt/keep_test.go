package libvirt

import (
	"context"
	"errors"
	"testing"
	"time"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
)

// notes is a Keeper that writes down what it is told, and in what state the guest
// was then.
type notes struct {
	p    *peer
	said []string
	fail error // of Hold
	late error // of Freed
}

func (n *notes) Hold(context.Context, hv.Reason, time.Time) error { n.note("hold"); return n.fail }
func (n *notes) Progressed()                                      { n.note("progressed") }
func (n *notes) Freed() error                                     { n.note("freed"); return n.late }

func (n *notes) note(what string) {
	n.p.mu.Lock()
	defer n.p.mu.Unlock()
	if n.p.state == statePaused {
		what += " paused"
	}
	if n.p.marker != "" {
		what += " marked"
	}
	n.said = append(n.said, what)
}

// kept returns the peer's domain under a Keeper.
func (p *peer) kept() (*Domain, *notes, hv.Watch) {
	p.t.Helper()
	d := p.domain()
	w, err := d.Watch(p.t.Context())
	if err != nil {
		p.t.Fatalf("Watch() failed: %v", err)
	}
	p.t.Cleanup(w.Close)
	n := &notes{p: p}
	d.Guard(hv.Guard{Keeper: n, Marker: hv.Marker{Run: "run", PID: 1}, Watch: w, Gate: p.openGate})
	return d, n, w
}

// sees waits until the Watch has seen what was sent.
func sees(t *testing.T, what string, is func() bool) {
	t.Helper()
	_ = promptly(t, what, func() error { // it fails the test itself
		for !is() {
			time.Sleep(time.Millisecond)
		}
		return nil
	})
}

// event sends a lifecycle event to every connection, as
// remote_domain_event_callback_lifecycle_msg has it.
func (p *peer) event(event rpc.DomainEventType, detail int) {
	body := xdrAppend(nil, uint32(callbackID), peerDomain, uint32(event), uint32(detail))
	b := xdrAppend(nil, uint32(minFrame+len(body)), uint32(0x20008086), uint32(1), uint32(eventLifecycle),
		uint32(2), uint32(0), uint32(0)) // a message, of no call
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_, _ = c.Write(append(b, body...))
	}
}

// hangUp ends all connections, as a daemon that is restarted does.
func (p *peer) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
}

// TestKeeper: keeper and marker stand around every pause.
func TestKeeper(t *testing.T) {
	p := newPeer(t)
	d, n, _ := p.kept()
	p.on(procSuspend, func(int, []byte) *answer { n.note("suspend"); return nil })
	p.on(procResume, func(int, []byte) *answer { n.note("resume"); return nil })
	h, err := d.Pause(t.Context())
	if err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	if m, err := d.Marker(t.Context()); err != nil || m == nil || m.Run != "run" || m.PID != 1 || m.Was != hv.StateRunning {
		t.Errorf("Marker() = %+v, %v; want that of the run", m, err)
	}
	if _, err := h.Release(); err != nil {
		t.Errorf("Release() failed: %v", err)
	}
	want := []string{"hold", "suspend marked", "resume paused marked", "freed"}
	if len(n.said) != len(want) {
		t.Fatalf("the keeper was told %q; want %q", n.said, want)
	}
	for i := range want {
		if n.said[i] != want[i] {
			t.Errorf("step %d is %q; want %q", i, n.said[i], want[i])
		}
	}
}

// TestKeeperRefuses: without keeper or marker no guest is suspended.
func TestKeeperRefuses(t *testing.T) {
	for _, what := range []string{"keeper", "marker", "suspend"} {
		p := newPeer(t)
		d, n, _ := p.kept()
		no := func(int, []byte) *answer { return &answer{code: rpc.ErrOperationTimeout, text: "no"} }
		want := hv.ErrBusy
		switch what {
		case "keeper":
			n.fail = errBroken
			want = errBroken
		case "marker":
			p.on(procSetMetadata, func(n int, _ []byte) *answer {
				if n == 1 {
					return no(n, nil)
				}
				return nil
			})
		case "suspend":
			p.on(procSuspend, no)
		}
		if _, err := d.Pause(t.Context()); !errors.Is(err, want) {
			t.Errorf("%s fails: Pause() = %v; want %v", what, err, want)
		}
		mustRun(t, p)
		if got := p.count(procSuspend); (got != 0) != (what == "suspend") {
			t.Errorf("%s fails: the daemon was asked %d times to suspend", what, got)
		}
		if last := n.said[len(n.said)-1]; what != "keeper" && last != "freed" {
			t.Errorf("%s fails: the keeper was last told %q; want freed", what, last)
		}
	}
}

// TestDisturbed: a resume by somebody else ends what a Hold may do.
func TestDisturbed(t *testing.T) {
	tests := []struct {
		name   string
		happen func(*peer, hv.Watch)
		state  uint32 // that the guest is left in
	}{
		{"resumed", func(p *peer, _ hv.Watch) { p.set(stateRunning, 0) }, stateRunning},
		{"resumed and suspended", func(p *peer, w hv.Watch) {
			p.event(rpc.DomainEventSuspended, 0)
			p.event(rpc.DomainEventResumed, 0)
			p.event(rpc.DomainEventSuspended, 0)
			sees(p.t, "the resume", w.Resumed)
		}, statePaused},
		{"resumed and suspended after the daemon's restart", func(p *peer, w hv.Watch) {
			p.event(rpc.DomainEventSuspended, 0)
			before := p.count(procSubscribe)
			p.hangUp()
			sees(p.t, "the new subscription", func() bool { return p.count(procSubscribe) > before })
			for !w.Resumed() { // the reply to the subscription may still be under way
				p.event(rpc.DomainEventSuspended, 0)
				p.event(rpc.DomainEventResumed, 0)
				time.Sleep(time.Millisecond)
			}
		}, statePaused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			d, n, w := p.kept()
			h, err := d.Pause(t.Context())
			if err != nil {
				t.Fatalf("Pause() failed: %v", err)
			}
			tt.happen(p, w)
			if _, err := h.Release(); !errors.Is(err, hv.ErrDisturbed) || errors.Is(err, hv.ErrStillPaused) {
				t.Errorf("Release() = %v; want %v", err, hv.ErrDisturbed)
			}
			if p.now() != tt.state || p.count(procResume) != 0 {
				t.Errorf("state = %d after %d resumes; want %d after none", p.now(), p.count(procResume), tt.state)
			}
			if last := n.said[len(n.said)-1]; last != "freed" && last != "freed paused" {
				t.Errorf("the keeper was last told %q; want freed, without a mark", last)
			}
		})
	}
}

// TestPausedIsResumed: a guest that was paused before, and is resumed during the
// pause, was not held still.
func TestPausedIsResumed(t *testing.T) {
	tests := []struct {
		name   string
		watch  bool
		happen func(*peer, hv.Watch)
		want   error
	}{
		{"nothing", true, func(*peer, hv.Watch) {}, nil},
		{"nothing, unwatched", false, func(*peer, hv.Watch) {}, nil},
		{"resumed", true, func(p *peer, _ hv.Watch) { p.set(stateRunning, 0) }, hv.ErrDisturbed},
		{"resumed, unwatched", false, func(p *peer, _ hv.Watch) { p.set(stateRunning, 0) }, hv.ErrDisturbed},
		{"resumed and suspended", true, func(p *peer, w hv.Watch) {
			p.event(rpc.DomainEventResumed, 0)
			p.event(rpc.DomainEventSuspended, 0)
			sees(p.t, "the resume", w.Resumed)
		}, hv.ErrDisturbed},
		{"off", true, func(p *peer, _ hv.Watch) { p.set(stateOff, 0) }, hv.ErrNotRunning},
		{"daemon restarts", true, func(p *peer, _ hv.Watch) { p.hangUp() }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			d, n, w := p.kept()
			if !tt.watch {
				d.kept = nil
			}
			p.set(statePaused, pausedByUser)
			h, err := d.Pause(t.Context())
			if err != nil {
				t.Fatalf("Pause() failed: %v", err)
			}
			tt.happen(p, w)
			before := p.now()
			for range 2 {
				if stood, err := h.Release(); stood != 0 || !errors.Is(err, tt.want) {
					t.Errorf("Release() = %v, %v; want 0, %v", stood, err, tt.want)
				}
			}
			if got := p.now(); got != before || p.count(procSuspend)+p.count(procResume) != 0 || len(n.said) != 0 {
				t.Errorf("state = %d, and the keeper was told %q; want %d and nothing", got, n.said, before)
			}
		})
	}
}

// TestPausedMeanwhile: a guest that somebody pauses while a pause is made ready is
// theirs.
func TestPausedMeanwhile(t *testing.T) {
	p := newPeer(t)
	d, n, _ := p.kept()
	p.on(procSetMetadata, func(n int, _ []byte) *answer {
		if n == 1 {
			p.set(statePaused, pausedByUser)
		}
		return nil
	})
	h, err := d.Pause(t.Context())
	if err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	if last := n.said[len(n.said)-1]; last != "freed paused" {
		t.Errorf("the keeper was last told %q; want freed, of a guest without a mark", last)
	}
	if stood, err := h.Release(); stood != 0 || err != nil {
		t.Errorf("Release() = %v, %v; want 0", stood, err)
	}
	if p.now() != statePaused || p.count(procSuspend)+p.count(procResume) != 0 {
		t.Errorf("state = %d after %d suspends and %d resumes; want %d after none", p.now(), p.count(procSuspend), p.count(procResume), statePaused)
	}
}

// TestAdopt: another process's pause is undone only if the guest bears its mark.
func TestAdopt(t *testing.T) {
	const mine = `<hold run="mine" pid="1" start="2" since="2026-11-22T01:00:00Z"/>`
	tests := []struct {
		name    string
		marker  string
		before  uint32
		prepare func(*peer)
		want    error
		after   uint32
	}{
		{"paused by it", mine, statePaused, nil, nil, stateRunning},
		{"paused by somebody else", "", statePaused, nil, hv.ErrDisturbed, statePaused},
		{"paused by another dump", `<hold run="theirs" since="2026-11-22T01:00:00Z"/>`, statePaused, nil, hv.ErrDisturbed, statePaused},
		{"not paused yet", mine, stateRunning, (*peer).later, nil, stateRunning},
		{"not paused", mine, stateRunning, nil, nil, stateRunning},
		{"off", mine, stateOff, nil, hv.ErrNotRunning, stateOff},
		{"daemon restarts", mine, statePaused, func(p *peer) {
			p.on(procResume, func(n int, _ []byte) *answer {
				if n <= 2 {
					return &answer{cut: true}
				}
				return nil
			})
		}, nil, stateRunning},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			p.set(tt.before, pausedByUser)
			p.marker = tt.marker
			d := p.domain()
			if tt.prepare != nil {
				tt.prepare(p)
			}
			if _, err := d.adopt("mine", nil, 5*time.Second).Release(); !errors.Is(err, tt.want) {
				t.Errorf("Release() = %v; want %v", err, tt.want)
			}
			p.pausing.Wait()
			if got := p.now(); got != tt.after {
				t.Errorf("state = %d; want %d", got, tt.after)
			}
		})
	}
}

// TestMarkerHostile: what stands in the metadata is not believed.
func TestMarkerHostile(t *testing.T) {
	p := newPeer(t)
	d := p.domain()
	for _, text := range []string{"<hold", "<other/>", `<hold pid="many"/>`, `<hold run="` + string(make([]byte, markerMax)) + `"/>`} {
		p.marker = text
		if m, err := d.Marker(t.Context()); err == nil {
			t.Errorf("Marker() of %.20q = %+v; want an error", text, m)
		}
	}
}

// TestMarkerOfOff: a domain that went off meanwhile is told as that, as libvirt's
// virDomainObjUpdateModificationImpact says it.
func TestMarkerOfOff(t *testing.T) {
	p := newPeer(t)
	p.on(procGetMetadata, func(int, []byte) *answer {
		return &answer{code: rpc.ErrOperationInvalid, text: "Requested operation is not valid: domain is not running"}
	})
	if m, err := p.domain().Marker(t.Context()); m != nil || !errors.Is(err, hv.ErrNotRunning) {
		t.Errorf("Marker() of a domain that is off = %+v, %v; want %v", m, err, hv.ErrNotRunning)
	}
}

// TestWatchEnds: events say why a domain ended.
func TestWatchEnds(t *testing.T) {
	for detail, want := range map[rpc.DomainEventStoppedDetailType]error{
		rpc.DomainEventStoppedDestroyed: hv.ErrNotRunning,
		rpc.DomainEventStoppedCrashed:   hv.ErrNotRunning,
		rpc.DomainEventStoppedMigrated:  hv.ErrBusy,
		rpc.DomainEventStoppedSaved:     hv.ErrBusy,
	} {
		p := newPeer(t)
		_, _, w := p.kept()
		p.event(rpc.DomainEventStopped, int(detail))
		sees(t, "the end", func() bool { <-w.Over(); return true })
		p.event(rpc.DomainEventStopped, 0) // the first one counts
		if err := w.Ended(); !errors.Is(err, want) {
			t.Errorf("Ended() after detail %d = %v; want %v", detail, err, want)
		}
	}
}

// TestWatchOfLostConnection: a connection that is lost in the very moment in which
// the daemon says that it will tell of events ends a Watch or is replaced; closing
// the Watch never waits for events that nobody sends.
func TestWatchOfLostConnection(t *testing.T) {
	p := newPeer(t)
	d := p.domain()
	p.on(procSubscribe, func(int, []byte) *answer {
		return &answer{body: xdrAppend(nil, uint32(callbackID)), last: true}
	})
	watched := 0
	for range 200 {
		w, err := d.Watch(t.Context())
		if err != nil {
			continue // the loss was seen before the answer was
		}
		watched++
		_ = promptly(t, "closing a Watch whose connection was lost", func() error { w.Close(); return nil })
	}
	if watched == 0 {
		t.Error("no Watch was begun: nothing was tested")
	}
}
