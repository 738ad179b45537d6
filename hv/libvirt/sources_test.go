package libvirt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	rpc "github.com/digitalocean/go-libvirt"
	"golang.org/x/sync/errgroup"

	"snap/hv"
	"snap/phys"
)

// peekGuest is a domain whose memory is full of its own addresses.
func peekGuest(t *testing.T) (*peer, hv.Memory) {
	t.Helper()
	p := newPeer(t)
	p.memory = make([]byte, 16*mib)
	for i := 0; i < len(p.memory); i += 8 {
		binary.LittleEndian.PutUint64(p.memory[i:], uint64(i))
	}
	m, err := p.domain().OpenMemory(t.Context(), hv.MechanismPeek)
	if err != nil {
		t.Fatalf("OpenMemory failed: %v", err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return p, m
}

// TestPeekLimits: the chunk size goes down to what the daemon gives.
func TestPeekLimits(t *testing.T) {
	for _, limit := range []int{4 << 20, 1 << 20, 64 << 10} {
		p, m := peekGuest(t)
		p.peekMax = limit
		got := make([]byte, 9*mib+5)
		if err := m.ReadPhys(t.Context(), got, mib+3); err != nil {
			t.Fatalf("ReadPhys with a limit of %d failed: %v", limit, err)
		}
		if !bytes.Equal(got, p.memory[mib+3:][:len(got)]) {
			t.Errorf("ReadPhys with a limit of %d gives other bytes", limit)
		}
	}
	p, m := peekGuest(t)
	p.peekMax = 4096
	if err := m.ReadPhys(t.Context(), make([]byte, mib), mib); !tooLarge(err) {
		t.Errorf("ReadPhys with a limit of 4096 = %v; want the daemon's refusal", err)
	}
}

// TestPeekShortReply: fewer or more bytes than asked for are an error.
func TestPeekShortReply(t *testing.T) {
	for _, extra := range []int{-1, -4096, 1} {
		p, m := peekGuest(t)
		p.on(procPeek, func(_ int, args []byte) *answer {
			at, n := peekArgs(args)
			return &answer{body: xdrAppend(nil, string(p.memory[at:][:n+extra]))}
		})
		err := m.ReadPhys(t.Context(), make([]byte, 8192), mib)
		var access *phys.AccessError
		if !errors.As(err, &access) {
			t.Errorf("ReadPhys with a reply of %d bytes more = %v; want a %T", extra, err, access)
		}
	}
}

// TestPeekNeverOutside: nothing outside of RAM is ever asked for.
func TestPeekNeverOutside(t *testing.T) {
	p, m := peekGuest(t)
	for _, at := range []phys.Addr{0xa0000, 0x9fff8, 0xbfff8, 2 * gib, 0xb0000000, 0xfee00000} {
		if err := m.ReadPhys(t.Context(), make([]byte, 16), at); !errors.Is(err, phys.ErrNotRAM) {
			t.Errorf("ReadPhys(%#x) = %v; want %v", uint64(at), err, phys.ErrNotRAM)
		}
	}
	if n := p.count(procPeek); n != 0 {
		t.Errorf("the daemon was asked %d times", n)
	}
}

// TestPeekOfAnotherRun: the domain was stopped and started while it was read.
func TestPeekOfAnotherRun(t *testing.T) {
	p, m := peekGuest(t)
	p.on(procLookupUUID, func(int, []byte) *answer {
		again := peerDomain
		again.ID++
		return &answer{body: xdrAppend(nil, again)}
	})
	if err := m.ReadPhys(t.Context(), make([]byte, 8192), mib); !errors.Is(err, hv.ErrNotRunning) {
		t.Errorf("ReadPhys of another run = %v; want %v", err, hv.ErrNotRunning)
	}
}

// TestPeekBatch: a copy takes one call for each piece that the daemon gives, as many at
// once as the daemon takes, and one to know that all of it is of one run.
func TestPeekBatch(t *testing.T) {
	p, m := peekGuest(t)
	b := hv.BatchOf(m)
	looked := p.count(procLookupUUID)
	got := make([]byte, 14*mib)
	var copied errgroup.Group
	for at := 0; at < len(got); at += 4 * mib {
		part := got[at:min(at+4*mib, len(got))]
		copied.Go(func() error { return b.ReadPhys(t.Context(), part, phys.Addr(mib+at)) })
	}
	if err := copied.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := b.Vouch(t.Context()); err != nil {
		t.Errorf("Vouch() = %v", err)
	}
	if !bytes.Equal(got, p.memory[mib:][:len(got)]) {
		t.Error("the batch gives other bytes")
	}
	if peeks, looks := p.count(procPeek), p.count(procLookupUUID)-looked; peeks != 4 || looks != 1 {
		t.Errorf("14 MiB took %d peeks and %d look-ups of the domain; want 4 and 1", peeks, looks)
	}
}

// TestPeekBatchOfAnotherRun: the domain is started anew in the middle of a copy, and
// reads go on: whoever makes the copy learns of it before it is used.
func TestPeekBatchOfAnotherRun(t *testing.T) {
	p, m := peekGuest(t)
	const restart = 3 // peeks
	p.on(procLookupUUID, func(int, []byte) *answer {
		now := peerDomain
		if p.count(procPeek) >= restart {
			now.ID++
		}
		return &answer{body: xdrAppend(nil, now)}
	})
	b := hv.BatchOf(m)
	for i := range 5 {
		if err := b.ReadPhys(t.Context(), make([]byte, 8192), phys.Addr(mib*(1+i))); err != nil {
			t.Fatal(err)
		}
		if err := b.Vouch(t.Context()); errors.Is(err, hv.ErrNotRunning) != (i+1 >= restart) {
			t.Errorf("Vouch() after %d reads = %v; another run begins with read %d", i+1, err, restart)
		}
	}
	p.on(procLookupUUID, func(int, []byte) *answer {
		return &answer{code: rpc.ErrNoDomain, text: "Domain not found"}
	})
	if err := b.Vouch(t.Context()); !errors.Is(err, hv.ErrNotRunning) {
		t.Errorf("Vouch() for a domain that is gone = %v; want %v", err, hv.ErrNotRunning)
	}
}

// TestPeekHangs: a read ends with its context.
func TestPeekHangs(t *testing.T) {
	p, m := peekGuest(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.on(procPeek, func(int, []byte) *answer { cancel(); return &answer{hang: true} })
	err := promptly(t, "ReadPhys", func() error { return m.ReadPhys(ctx, make([]byte, 10*mib), mib) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ReadPhys with a daemon that hangs = %v; want %v", err, context.Canceled)
	}
}

// TestWhyNotDirect: a guest that isn't on this host is read by peek, with the reason.
func TestWhyNotDirect(t *testing.T) {
	p := newPeer(t)
	p.monitor[`{"execute":"query-cpus-fast"}`] = `{"return":[{"cpu-index":0,"thread-id":` + selfThread() + `}]}`
	p.monitor["gpa2hva 0x0"] = "Host virtual address for 0x0 (pc.ram) is 0x7f0000000000\r\n"
	p.monitor["gpa2hva 0x9f000"] = "Host virtual address for 0x9f000 (pc.ram) is 0x7f000009f000\r\n"
	p.monitor["gpa2hva 0xc0000"] = "Host virtual address for 0xc0000 (pc.ram) is 0x7f00000c0000\r\n"
	p.monitor["gpa2hva 0x7ffff000"] = "Host virtual address for 0x7ffff000 (pc.ram) is 0x7f007ffff000\r\n"
	d := p.domain()
	m, err := d.OpenMemory(t.Context(), hv.MechanismAuto)
	if err != nil {
		t.Fatalf("OpenMemory(auto) failed: %v", err)
	}
	defer m.Close()
	pm, ok := m.(*PeekMemory)
	if !ok {
		t.Fatalf("OpenMemory(auto) = %T; want peek", m)
	}
	if why := pm.WhyNotDirect(); why == nil || !strings.Contains(why.Error(), "is not the QEMU of domain") {
		t.Errorf("WhyNotDirect() = %v; want that the process is another", why)
	}
	if _, err := d.OpenMemory(t.Context(), hv.MechanismDirect); !errors.Is(err, hv.ErrUnsupported) {
		t.Errorf("OpenMemory(direct) = %v; want %v", err, hv.ErrUnsupported)
	}
}

// TestMemoryRefused: guests that must not or can't be read.
func TestMemoryRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*peer)
		want   error
	}{
		{"off", func(p *peer) { p.state = stateOff }, hv.ErrNotRunning},
		{"migrating", func(p *peer) { p.job = uint32(rpc.DomainJobUnbounded) }, hv.ErrBusy},
		{"being saved", func(p *peer) { p.state, p.reason = statePaused, uint32(rpc.DomainPausedSave) }, hv.ErrBusy},
		{"post-copy", func(p *peer) { p.reason = uint32(rpc.DomainRunningPostcopy) }, hv.ErrBusy},
		{"SEV", func(p *peer) {
			p.xml = strings.Replace(p.xml, "</domain>", "<launchSecurity type='sev'><policy>3</policy></launchSecurity></domain>", 1)
		}, hv.ErrConfidential},
		{"TDX", func(p *peer) {
			p.xml = strings.Replace(p.xml, "</domain>", "<launchSecurity type='tdx'/></domain>", 1)
		}, hv.ErrConfidential},
		{"unknown security", func(p *peer) {
			p.xml = strings.Replace(p.xml, "</domain>", "<launchSecurity type='cca'/></domain>", 1)
		}, hv.ErrConfidential},
		{"ARM", func(p *peer) { p.xml = strings.Replace(p.xml, "x86_64", "aarch64", 1) }, hv.ErrUnsupported},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t)
			tt.change(p)
			if _, err := p.domain().OpenMemory(t.Context(), hv.MechanismPeek); !errors.Is(err, tt.want) {
				t.Errorf("OpenMemory = %v; want %v", err, tt.want)
			}
			if n := p.count(procPeek); n != 0 {
				t.Errorf("the daemon was peeked at %d times", n)
			}
		})
	}
}
