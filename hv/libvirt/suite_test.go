package libvirt

import (
	"context"
	"testing"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
	"snap/hv/hvtest"
)

// TestPauseSuite runs what every pause must do against a daemon that a test plays;
// TestGuest does so against a real one.
func TestPauseSuite(t *testing.T) {
	byJob := func(ctx context.Context, vm hv.VM) (hv.Hold, error) { return vm.(hv.JobPauser).PauseByJob(ctx) }
	tests := []struct {
		name    string
		guarded bool
		how     hvtest.PauseOptions
	}{
		{"suspend", false, hvtest.PauseOptions{}},
		{"suspend, guarded", true, hvtest.PauseOptions{}},
		{"job", true, hvtest.PauseOptions{Pause: byJob}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			hvtest.TestPause(t, func(t *testing.T) hv.VM {
				p := newPeer(t)
				p.dumps(t, true)
				if !tt.guarded {
					return p.domain()
				}
				d, _, _ := p.kept()
				return d
			}, tt.how)
		})
	}
}

// TestGuardSuite runs what every VM must do that another process looks after.
func TestGuardSuite(t *testing.T) {
	p := newPeer(t)
	tells := func(event rpc.DomainEventType) func(int, []byte) *answer {
		return func(int, []byte) *answer { p.event(event, 0); return nil }
	}
	p.on(procSuspend, tells(rpc.DomainEventSuspended))
	p.on(procResume, tells(rpc.DomainEventResumed))
	hvtest.TestGuard(t, func(*testing.T) hv.Guardable { return p.domain() })
}

// TestConnectionSuite runs what every connection must do.
func TestConnectionSuite(t *testing.T) {
	p := newPeer(t)
	p.on(procListAll, func(int, []byte) *answer {
		return &answer{body: xdrAppend(nil, uint32(1), peerDomain, uint32(1))}
	})
	p.on(procGetInfo, func(int, []byte) *answer {
		return &answer{body: xdrAppend(nil, uint32(rpc.DomainRunning), uint64(2<<20), uint64(2<<20), uint32(2), uint64(0))}
	})
	hvtest.TestConnection(t, p.uri(), func(t *testing.T) hv.Connection {
		c, err := Driver().Connect(t.Context(), p.uri())
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}
