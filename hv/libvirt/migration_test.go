package libvirt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
)

// migrating is what a peer's monitor knows of migrations: the failures that a real
// QEMU can't be made to show.
type migrating struct {
	mu       sync.Mutex
	on       bool   // the capability
	status   string // of the migration
	cancels  int
	early    int // of cancels while it was set up, and looks at it then
	looks    int
	deaf     int // so many commands are answered by an error of the daemon's
	commands []string
}

// migrations has the peer's monitor answer as q.
func (p *peer) migrations(q *migrating) {
	p.on(procMonitor, func(_ int, args []byte) *answer {
		_, rest := xdrString(args)
		cmd, _ := xdrString(rest[16+4:])
		q.mu.Lock()
		defer q.mu.Unlock()
		reply := q.answer(cmd)
		if reply == "" {
			return nil
		}
		if q.deaf > 0 {
			q.deaf--
			return &answer{code: rpc.ErrOperationFailed, text: "monitor is busy"}
		}
		return &answer{body: xdrAppend(nil, reply)}
	})
}

func (q *migrating) answer(cmd string) string {
	const done = `{"return":{}}`
	is := func(name string) bool { return strings.HasPrefix(cmd, `{"execute":"`+name+`"`) }
	switch {
	case is("query-migrate-capabilities"):
		return fmt.Sprintf(`{"return":[{"capability":"xbzrle","state":true},{"capability":"background-snapshot","state":%v}]}`, q.on)
	case is("query-migrate"):
		status := q.status
		switch status {
		case "cancelling":
			q.status = "cancelled"
		case "setup":
			if q.looks++; q.looks == 3 {
				q.status = "active"
			}
		}
		return fmt.Sprintf(`{"return":{"status":%q,"error-desc":"disk full"}}`, status)
	case is("migrate_cancel"):
		q.cancels++
		if q.status == "setup" {
			q.early++
		}
		q.status = "cancelling"
		return done
	case is("migrate-set-capabilities"):
		if q.status == "active" || q.status == "cancelling" {
			return `{"error":{"class":"GenericError","desc":"There's a migration process in progress"}}`
		}
		q.on = strings.Contains(cmd, `"state":true`)
		return done
	case is("closefd"):
		q.commands = append(q.commands, "closefd")
		return `{"error":{"class":"GenericError","desc":"File descriptor named 'snap-snapshot' not found"}}`
	}
	return ""
}

// TestAbandonSnapshot: whatever state a snapshot was left in, capability and guest
// are as they were, and nothing that is somebody else's was touched.
func TestAbandonSnapshot(t *testing.T) {
	unknown, byUser := uint32(rpc.DomainPausedUnknown), uint32(rpc.DomainPausedUser)
	tests := []struct {
		name          string
		qemu          *migrating
		state, reason uint32
		cancels       int
		status        string
		running       bool
	}{
		{"never begun", &migrating{}, stateRunning, 1, 0, "", true},
		{"not begun", &migrating{on: true}, stateRunning, 1, 0, "", true},
		{"under way", &migrating{on: true, status: "active"}, stateRunning, 1, 1, "cancelled", true},
		{"being set up", &migrating{on: true, status: "setup"}, stateRunning, 1, 1, "cancelled", true},
		{"being cancelled", &migrating{on: true, status: "cancelling"}, stateRunning, 1, 0, "cancelled", true},
		{"completed", &migrating{on: true, status: "completed"}, stateRunning, 1, 0, "completed", true},
		{"another's migration", &migrating{status: "active"}, stateRunning, 1, 0, "active", true},
		{"failed and stopped", &migrating{on: true, status: "failed"}, statePaused, unknown, 0, "failed", true},
		{"failed, and an operator paused it", &migrating{on: true, status: "failed"}, statePaused, byUser, 0, "failed", false},
		{"completed, and an operator paused it", &migrating{on: true, status: "completed"}, statePaused, byUser, 0, "completed", false},
		{"paused before it was begun", &migrating{}, statePaused, unknown, 0, "", false},
		{"a deaf daemon", &migrating{on: true, status: "active", deaf: 3}, stateRunning, 1, 1, "cancelled", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			p.set(tt.state, tt.reason)
			d := p.domain()
			p.migrations(tt.qemu)
			if err := d.abandonSnapshot(t.Context()); err != nil {
				t.Fatalf("AbandonSnapshot() failed: %v", err)
			}
			q := tt.qemu
			if q.early > 0 {
				t.Error("it was cancelled while QEMU set it up")
			}
			if q.on || q.cancels != tt.cancels || q.status != tt.status || (p.now() == stateRunning) != tt.running {
				t.Errorf("afterwards: capability on=%v, %d cancels, migration %q, guest running=%v; want off, %d, %q, %v",
					q.on, q.cancels, q.status, p.now() == stateRunning, tt.cancels, tt.status, tt.running)
			}
			if len(q.commands) == 0 {
				t.Error("the descriptor was not closed")
			}
		})
	}
}

// TestAbandonSnapshotOfJob: a save or dump of libvirt's that became a snapshot
// because of the capability is waited for, not cancelled.
func TestAbandonSnapshotOfJob(t *testing.T) {
	p := newPeer(t)
	d := p.domain()
	q := &migrating{on: true, status: "active"}
	p.migrations(q)
	const jobLasts = 3 // questions
	p.on(procJobInfo, func(n int, _ []byte) *answer {
		if n > jobLasts {
			return nil
		}
		if n == jobLasts {
			q.mu.Lock()
			q.status = "completed"
			q.mu.Unlock()
		}
		return &answer{body: xdrAppend(nil, append([]any{uint32(rpc.DomainJobUnbounded)}, zeros(11)...)...)}
	})
	if err := d.abandonSnapshot(t.Context()); err != nil || q.on || q.cancels != 0 {
		t.Errorf("AbandonSnapshot() = %v, capability on=%v, %d cancels; want no error, off, none", err, q.on, q.cancels)
	}
}

// TestAbandonSnapshotFails: what can't be undone is said, and a domain that is gone
// needs nothing.
func TestAbandonSnapshotFails(t *testing.T) {
	p := newPeer(t)
	d := p.domain()
	q := &migrating{on: true, deaf: 1 << 30}
	p.migrations(q)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := d.abandonSnapshot(ctx); !errors.Is(err, hv.ErrStillPaused) || !strings.Contains(err.Error(), "qemu-monitor-command") {
		t.Errorf("AbandonSnapshot() = %v; want hv.ErrStillPaused, and how to look", err)
	}
	p.set(stateOff, 0)
	if err := d.abandonSnapshot(t.Context()); !errors.Is(err, hv.ErrNotRunning) {
		t.Errorf("AbandonSnapshot() of a domain that is off = %v; want hv.ErrNotRunning", err)
	}
}
