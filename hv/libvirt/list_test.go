package libvirt

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
)

// lists has the peer list so many domains, of which it answers nothing about those
// that are locked.
func (p *peer) lists(n int, locked func(i int) bool) {
	p.on(procListAll, func(int, []byte) *answer {
		body := xdrAppend(nil, uint32(n))
		for i := range n {
			dom := peerDomain
			dom.Name = fmt.Sprintf("guest%d", i)
			body = xdrAppend(body, dom)
		}
		return &answer{body: xdrAppend(body, uint32(n))}
	})
	p.on(procGetInfo, func(_ int, args []byte) *answer {
		name, _ := xdrString(args)
		var i int
		if _, err := fmt.Sscanf(name, "guest%d", &i); err != nil {
			p.t.Error(err)
		}
		if locked(i) {
			return &answer{hang: true}
		}
		return &answer{body: xdrAppend(nil, stateRunning, uint64(1<<20), uint64(1<<20), uint32(2), uint64(0))}
	})
}

// TestDomainsLocked: what isn't answered about some domains doesn't keep the others
// from being listed, and a daemon that answers about none is told as that.
func TestDomainsLocked(t *testing.T) {
	tests := []struct {
		name   string
		locked func(i int) bool
		want   string // one letter for each domain: known or silent
		is     error
	}{
		{"none", func(int) bool { return false }, "kkkkkk", nil},
		{"one", func(i int) bool { return i == 2 }, "kkskkk", nil},
		{"the first and the last", func(i int) bool { return i == 0 || i == 5 }, "skkkks", nil},
		{"each second", func(i int) bool { return i%2 == 1 }, "ksksks", nil},
		{"all", func(int) bool { return true }, "", hv.ErrNoAnswer},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPeer(t)
			p.lists(6, tt.locked)
			c := p.dial()
			c.timeout = time.Second // those that answer do so within it, also on a slow machine
			var list []hv.DomainInfo
			err := promptly(t, "Domains", func() (err error) {
				list, err = c.Domains(t.Context())
				return err
			})
			var got strings.Builder
			for _, d := range list {
				switch {
				case d.Err == nil && d.State == hv.StateRunning && d.Memory == 1<<30:
					got.WriteByte('k')
				case errors.Is(d.Err, hv.ErrNoAnswer) && d.UUID == formatUUID(peerDomain.UUID) && d.ID == int(peerDomain.ID):
					got.WriteByte('s')
				default:
					t.Errorf("Domains() lists %+v; want it known or silent", d)
				}
			}
			if got.String() != tt.want || !errors.Is(err, tt.is) {
				t.Errorf("Domains() = %s, %v; want %s, %v", got.String(), err, tt.want, tt.is)
			}
		})
	}
}

// TestDomainsDenied: a domain that the daemon refuses to tell of doesn't keep the others
// from being listed.
func TestDomainsDenied(t *testing.T) {
	p := newPeer(t)
	p.lists(3, func(int) bool { return false })
	p.on(procGetState, func(n int, _ []byte) *answer {
		if n == 2 {
			return &answer{code: rpc.ErrAccessDenied, text: "access denied: 'QEMU' denied access to domain"}
		}
		return nil
	})
	list, err := p.dial().Domains(t.Context())
	if err != nil || len(list) != 3 || list[0].Err != nil || !errors.Is(list[1].Err, hv.ErrDenied) || list[1].Name != "guest1" || list[2].Err != nil {
		t.Errorf("Domains() = %+v, %v; want three, and of the second why it isn't known", list, err)
	}
}

// TestDaemonSilent: wherever a daemon stops answering, the error says no answer.
func TestDaemonSilent(t *testing.T) {
	half := frameOf(100) // and no more of the message
	for _, proc := range []uint32{procLookupName, procHostname, procListAll, procGetInfo} {
		for how, a := range map[string]*answer{"nothing": {hang: true}, "half a message": {raw: half}, "half a length": {raw: half[:2]}} {
			t.Run(fmt.Sprintf("%d, %s", proc, how), func(t *testing.T) {
				t.Parallel()
				p := newPeer(t)
				p.lists(6, func(int) bool { return false })
				c := p.dial()
				c.timeout = 50 * time.Millisecond
				p.on(proc, func(int, []byte) *answer { return a })
				err := promptly(t, "the call", func() error {
					if proc == procListAll || proc == procGetInfo {
						_, err := c.Domains(t.Context())
						return err
					}
					_, err := c.Lookup(t.Context(), peerDomain.Name)
					return err
				})
				if !errors.Is(err, hv.ErrNoAnswer) || !strings.Contains(err.Error(), "no answer within") {
					t.Errorf("the call = %v; want %v", err, hv.ErrNoAnswer)
				}
			})
		}
	}
}
