package libvirt

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rpc "github.com/digitalocean/go-libvirt"

	"snap/hv"
	"snap/hv/internal/bounded"
	"snap/hv/qemu"
)

// soon bounds what must not hang. It measures nothing.
const soon = 20 * time.Second

// promptly runs f and fails the test if it doesn't return.
func promptly(t *testing.T, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(soon):
		t.Fatalf("%s hangs", what)
		return nil
	}
}

func frameOf(size uint32) []byte {
	return binary.BigEndian.AppendUint32(nil, size)
}

// TestDaemonHangs: a call ends with its context, and the next one works again on
// a connection of its own.
func TestDaemonHangs(t *testing.T) {
	p := newPeer(t)
	c := p.dial()
	ctx, cancel := context.WithCancelCause(t.Context())
	p.on(procLookupName, func(n int, _ []byte) *answer {
		if n == 1 {
			cancel(errBroken)
			return &answer{hang: true}
		}
		return nil
	})
	err := promptly(t, "Lookup", func() error {
		_, err := c.LookupDomain(ctx, "guest")
		return err
	})
	if !errors.Is(err, context.Canceled) || !errors.Is(err, errBroken) {
		t.Errorf("Lookup with a daemon that hangs = %v; want %v and its cause", err, context.Canceled)
	}
	if _, err := c.LookupDomain(t.Context(), "guest"); err != nil {
		t.Errorf("Lookup after that failed: %v", err)
	}
}

// TestDaemonNeverAnswers: without a bound from the caller there is our own.
func TestDaemonNeverAnswers(t *testing.T) {
	p := newPeer(t)
	c := p.dial()
	c.timeout = 50 * time.Millisecond
	p.on(procLookupName, func(int, []byte) *answer { return &answer{hang: true} })
	err := promptly(t, "Lookup", func() error {
		_, err := c.LookupDomain(t.Context(), "guest")
		return err
	})
	var timeout bounded.TimeoutError
	if !errors.As(err, &timeout) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Lookup with a daemon that hangs = %v; want a %T that is no context error", err, timeout)
	}
}

func TestConnectHangs(t *testing.T) {
	p := newPeer(t)
	p.on(procAuthList, func(int, []byte) *answer { return &answer{hang: true} })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := promptly(t, "Connect", func() error {
		_, err := Connect(ctx, p.uri())
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Connect to a daemon that hangs = %v; want %v", err, context.DeadlineExceeded)
	}
}

// TestBadLengths: message lengths that the RPC client would believe.
func TestBadLengths(t *testing.T) {
	for _, size := range []uint32{0, 4, 27, maxFrame + 1, 0x7fffffff, 0x80000000, 0xffffffff} {
		p := newPeer(t)
		c := p.dial()
		p.on(procLookupName, func(int, []byte) *answer { return &answer{raw: frameOf(size)} })
		err := promptly(t, "Lookup", func() error {
			_, err := c.LookupDomain(t.Context(), "guest")
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "announced a message") {
			t.Errorf("Lookup with a reply of length %#x = %v; want it refused", size, err)
		}
	}
}

// TestGuardFollowsFrames: however the bytes come, good messages pass and the first
// bad length ends it.
func TestGuardFollowsFrames(t *testing.T) {
	var stream []byte
	for _, n := range []int{minFrame, minFrame + 1, 5000, minFrame} {
		stream = append(append(stream, frameOf(uint32(n))...), make([]byte, n-4)...)
	}
	for _, step := range []int{1, 2, 3, 5, 29, len(stream)} {
		g := newFramed(nil)
		for at := 0; at < len(stream); at += step {
			if err := g.scan(stream[at:min(at+step, len(stream))]); err != nil {
				t.Fatalf("scan by %d bytes: at %d: %v", step, at, err)
			}
		}
		if err := g.scan(frameOf(minFrame - 1)); err == nil {
			t.Errorf("scan by %d bytes: a length of %d passes", step, minFrame-1)
		}
	}
}

// TestShortReply: a reply that ends within its value is an error.
func TestShortReply(t *testing.T) {
	p := newPeer(t)
	c := p.dial()
	p.on(procLookupName, func(int, []byte) *answer {
		b := xdrAppend(nil, peerDomain)
		return &answer{body: b[:len(b)-6]}
	})
	if _, err := c.LookupDomain(t.Context(), "guest"); err == nil {
		t.Error("Lookup with half a reply succeeded")
	}
}

// TestClientPanics: a fault of the RPC client is an error of the call.
func TestClientPanics(t *testing.T) {
	s, err := newPeer(t).dial().target.open(t.Context())
	if err != nil {
		t.Fatalf("open failed: %v", err)
	}
	defer s.close()
	if _, err := run(t.Context(), s, func(*rpc.Libvirt) (int, error) { panic("reflect") }); err == nil {
		t.Error("run of a call that panics succeeded")
	}
}

// TestCutOff: a connection that the daemon drops is replaced, and a daemon that
// always drops it makes an error.
func TestCutOff(t *testing.T) {
	p := newPeer(t)
	c := p.dial()
	p.on(procLookupName, func(n int, _ []byte) *answer {
		if n == 1 {
			return &answer{cut: true}
		}
		return nil
	})
	if _, err := c.LookupDomain(t.Context(), "guest"); err != nil {
		t.Errorf("Lookup after one lost connection failed: %v", err)
	}
	p.on(procLookupName, func(int, []byte) *answer { return &answer{cut: true} })
	err := promptly(t, "Lookup", func() error {
		_, err := c.LookupDomain(t.Context(), "guest")
		return err
	})
	var lost lostError
	if !errors.As(err, &lost) {
		t.Errorf("Lookup with a daemon that hangs up = %v; want a %T", err, lost)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close() failed: %v", err)
	}
	if _, err := c.LookupDomain(t.Context(), "guest"); !errors.Is(err, errClosed) {
		t.Errorf("Lookup after Close = %v; want %v", err, errClosed)
	}
}

// TestOthersSurviveACut: a call whose context ends takes the connection from
// those that share it, and they go on.
func TestOthersSurviveACut(t *testing.T) {
	p := newPeer(t)
	d := p.domain()
	waiting, goOn := make(chan struct{}), make(chan struct{})
	p.on(procGetXML, func(n int, _ []byte) *answer {
		if n == 1 {
			return &answer{after: func() { close(waiting); <-goOn }}
		}
		return nil
	})
	defer close(goOn)
	other := make(chan error, 1)
	go func() {
		_, err := d.Config(t.Context())
		other <- err
	}()
	<-waiting
	ctx, cancel := context.WithCancel(t.Context())
	p.on(procJobInfo, func(int, []byte) *answer { cancel(); return &answer{hang: true} })
	if err := promptly(t, "CheckJob", func() error { return d.CheckJob(ctx) }); !errors.Is(err, context.Canceled) {
		t.Errorf("CheckJob = %v; want %v", err, context.Canceled)
	}
	if err := promptly(t, "Config", func() error { return <-other }); err != nil {
		t.Errorf("Config at the same time failed: %v", err)
	}
}

func TestErrorClasses(t *testing.T) {
	tests := []struct {
		code rpc.ErrorNumber
		want error
	}{
		{rpc.ErrNoDomain, hv.ErrNoDomain},
		{rpc.ErrAuthFailed, hv.ErrDenied},
		{rpc.ErrAuthUnavailable, hv.ErrDenied},
		{rpc.ErrAccessDenied, hv.ErrDenied},
		{rpc.ErrOperationDenied, hv.ErrDenied},
		{rpc.ErrOperationTimeout, hv.ErrBusy},
		{rpc.ErrNoSupport, hv.ErrUnsupported},
	}
	for _, tt := range tests {
		p := newPeer(t)
		c := p.dial()
		p.on(procLookupName, func(int, []byte) *answer { return &answer{code: tt.code, text: "because"} })
		_, err := c.LookupDomain(t.Context(), "web01")
		if !errors.Is(err, tt.want) {
			t.Errorf("Lookup with error code %d = %v; want %v", tt.code, err, tt.want)
			continue
		}
		for _, part := range []string{"web01", p.uri(), "because"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("Lookup with error code %d = %q; want it to name %q", tt.code, err, part)
			}
		}
	}
}

func TestConnectErrors(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	_, err := Connect(t.Context(), "qemu:///session")
	if err == nil || !strings.Contains(err.Error(), "virsh -c qemu:///session list") {
		t.Errorf("Connect without a session daemon = %v; want the command that starts it", err)
	}
	// A socket file that nobody listens on.
	if err := os.Mkdir(filepath.Join(dir, "libvirt"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "libvirt", "libvirt-sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = Connect(t.Context(), "qemu:///session"); err == nil || !strings.Contains(err.Error(), "virsh -c qemu:///session list") {
		t.Errorf("Connect to a dead socket = %v; want the command that starts the daemon", err)
	}
	for _, uri := range []string{
		"xen:///system", "qemu:///embed", "qemu+foo://host/system", "qemu+ssh:///system", "qemu+ssh://host/session", "::", "",
	} {
		if _, err := Connect(t.Context(), uri); err == nil {
			t.Errorf("Connect(%q) succeeded", uri)
		}
	}
}

// TestModularDaemon: where both sockets are there, the modular daemon's is used.
func TestModularDaemon(t *testing.T) {
	p := newPeer(t)
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	if err := os.Mkdir(filepath.Join(dir, "libvirt"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(p.socket, filepath.Join(dir, "libvirt", "virtqemud-sock")); err != nil {
		t.Fatal(err)
	}
	c, err := Connect(t.Context(), "qemu:///session")
	if err != nil {
		t.Fatalf("Connect to the modular daemon failed: %v", err)
	}
	_ = c.Close()
}

// TestLookupForms: name, UUID and id find the domain.
func TestLookupForms(t *testing.T) {
	c := newPeer(t).dial()
	for _, ref := range []string{"guest", "01020304-0506-0708-090a-0b0c0d0e0f10", "0102030405060708090A0B0C0D0E0F10", "7"} {
		d, err := c.LookupDomain(t.Context(), ref)
		if err != nil {
			t.Errorf("Lookup(%q) failed: %v", ref, err)
			continue
		}
		want := hv.Identity{
			Name: "guest", UUID: "01020304-0506-0708-090a-0b0c0d0e0f10", ID: 7, Host: "host", URI: c.URI(),
		}
		if got := d.Identity(); got != want {
			t.Errorf("Lookup(%q).Identity() = %+v; want %+v", ref, got, want)
		}
	}
	for _, ref := range []string{"other", "8", "-7", "11020304-0506-0708-090a-0b0c0d0e0f10", ""} {
		if _, err := c.LookupDomain(t.Context(), ref); !errors.Is(err, hv.ErrNoDomain) {
			t.Errorf("Lookup(%q) = %v; want %v", ref, err, hv.ErrNoDomain)
		}
	}
}

// TestRestartedDomain: another run of the domain isn't the one that was looked up.
func TestRestartedDomain(t *testing.T) {
	p := newPeer(t)
	d := p.domain()
	p.on(procLookupUUID, func(int, []byte) *answer {
		again := peerDomain
		again.ID++
		return &answer{body: xdrAppend(nil, again)}
	})
	if s, err := d.State(t.Context()); err != nil || s != hv.StateOff {
		t.Errorf("State() of another run = %v, %v; want %v", s, err, hv.StateOff)
	}
	if _, err := d.OpenMemory(t.Context(), hv.MechanismPeek); !errors.Is(err, hv.ErrNotRunning) {
		t.Errorf("OpenMemory of another run = %v; want %v", err, hv.ErrNotRunning)
	}
}

// TestMonitorErrors: QEMU's errors come in good replies.
func TestMonitorErrors(t *testing.T) {
	p := newPeer(t)
	delete(p.monitor, `{"execute":"query-memory-size-summary"}`)
	var q *qemu.RefusedError
	if _, err := p.domain().RAM(t.Context()); !errors.As(err, &q) || q.Class != "CommandNotFound" {
		t.Errorf("RAM() with a command that QEMU lacks = %v; want its %T", err, q)
	}
}
