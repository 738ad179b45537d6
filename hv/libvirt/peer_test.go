package libvirt

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	rpc "github.com/digitalocean/go-libvirt"
)

// Procedures of libvirt's RPC (src/remote/remote_protocol.x); monitor commands
// are procedure 1 of a program of their own (src/remote/qemu_protocol.x).
const (
	procOpen        = 1
	procGetType     = 3
	procGetXML      = 14
	procGetInfo     = 16
	procLookupID    = 22
	procLookupName  = 23
	procLookupUUID  = 24
	procResume      = 28
	procSuspend     = 34
	procHostname    = 59
	procAuthList    = 66
	procPeek        = 104
	procJobInfo     = 163
	procGetState    = 212
	procControlInfo = 229
	procSetMetadata = 264
	procGetMetadata = 265
	procListAll     = 273
	procSubscribe   = 316
	procUnsubscribe = 317

	qemuProgram    = 0x20008087
	eventLifecycle = 318
	callbackID     = 5

	procMonitor = 1000 // ours: procedure 1 of qemuProgram
)

// answer is what the peer does with a call.
type answer struct {
	body  []byte // of a good reply
	code  rpc.ErrorNumber
	text  string // of an error reply, with code
	after func() // runs before the reply is sent

	hang bool   // no reply, ever
	cut  bool   // the connection is closed instead
	raw  []byte // sent instead of a reply
	last bool   // the connection is closed after the reply
}

// peer is a libvirt daemon with one domain that does what a test says: the
// faults that a real one can't be made to show.
type peer struct {
	t      *testing.T
	socket string

	mu     sync.Mutex
	script map[uint32]func(n int, args []byte) *answer // n counts the calls of a procedure from 1; nil is the usual answer
	calls  map[uint32]int
	conns  []net.Conn

	state, reason uint32 // of the domain
	job, control  uint32
	pausing       sync.WaitGroup // suspends that take their time
	marker        string         // of the domain's metadata, empty if there is none
	xml           string
	monitor       map[string]string // replies by command
	memory        []byte            // from guest-physical 0 on
	peekMax       int
	gate          *pipeGate // the last
	gone          bool      // it may be closed before a dump opens it
}

const (
	stateRunning = uint32(rpc.DomainRunning)
	statePaused  = uint32(rpc.DomainPaused)
	stateOff     = uint32(rpc.DomainShutoff)
	pausedByUser = uint32(rpc.DomainPausedUser)
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

var peerDomain = rpc.Domain{Name: "guest", UUID: rpc.UUID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, ID: 7}

// qemuSaid reads what a QEMU once said.
func qemuSaid(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../qemu/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	p := &peer{
		t: t, socket: filepath.Join(t.TempDir(), "sock"),
		script: map[uint32]func(int, []byte) *answer{}, calls: map[uint32]int{},
		state: stateRunning, reason: uint32(rpc.DomainRunningBooted), peekMax: 4 << 20,
		xml: `<domain type='qemu'><name>guest</name><memory unit='KiB'>2097152</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os></domain>`,
		monitor: map[string]string{
			"info mtree -f": qemuSaid(t, "q35-2g.mtree"),
			"info ramblock": qemuSaid(t, "q35-2g.ramblock"),
			`{"execute":"query-memory-size-summary"}`: qemuSaid(t, "q35-2g.sizes.json"),
			`{"execute":"query-memory-devices"}`:      qemuSaid(t, "q35-2g.devices.json"),
			`{"execute":"query-kvm"}`:                 `{"return":{"enabled":false,"present":true}}`,
		},
	}
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.conns = append(p.conns, conn)
			p.mu.Unlock()
			done.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		done.Wait()
	})
	return p
}

func (p *peer) uri() string { return "qemu+unix:///system?socket=" + p.socket }

// on sets what the peer does with a procedure.
func (p *peer) on(proc uint32, f func(n int, args []byte) *answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script[proc] = f
}

func (p *peer) count(proc uint32) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[proc]
}

func (p *peer) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns)
}

func (p *peer) set(state, reason uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.reason = state, reason
}

func (p *peer) now() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// serve answers one connection's calls, each on its own, as the daemon does.
func (p *peer) serve(conn net.Conn) {
	defer conn.Close()
	var out sync.Mutex
	var calls sync.WaitGroup
	defer calls.Wait()
	for {
		head := make([]byte, minFrame)
		if _, err := io.ReadFull(conn, head); err != nil {
			return
		}
		args := make([]byte, binary.BigEndian.Uint32(head)-minFrame)
		if _, err := io.ReadFull(conn, args); err != nil {
			return
		}
		proc := binary.BigEndian.Uint32(head[12:])
		if binary.BigEndian.Uint32(head[4:]) == qemuProgram {
			proc = procMonitor
		}
		calls.Go(func() {
			a := p.answer(proc, args)
			if a.after != nil {
				a.after()
			}
			out.Lock()
			defer out.Unlock()
			switch {
			case a.hang:
			case a.cut:
				_ = conn.Close()
			case a.raw != nil:
				_, _ = conn.Write(a.raw)
			default:
				_, _ = conn.Write(a.frame(head))
			}
			if a.last {
				_ = conn.Close()
			}
		})
	}
}

// frame makes the reply to the call with the given header.
func (a *answer) frame(head []byte) []byte {
	body, status := a.body, uint32(0)
	if a.text != "" {
		status = 1
		body = xdrAppend(nil, uint32(a.code), uint32(0), uint32(1), a.text, uint32(2))
	}
	b := make([]byte, minFrame, minFrame+len(body))
	copy(b, head)
	binary.BigEndian.PutUint32(b, uint32(minFrame+len(body)))
	binary.BigEndian.PutUint32(b[16:], 1) // a reply
	binary.BigEndian.PutUint32(b[24:], status)
	return append(b, body...)
}

// xdrAppend encodes values as XDR has them (RFC 4506).
func xdrAppend(b []byte, vs ...any) []byte {
	for _, v := range vs {
		switch v := v.(type) {
		case uint32:
			b = binary.BigEndian.AppendUint32(b, v)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, v)
		case string:
			b = binary.BigEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
			b = append(b, make([]byte, -len(v)&3)...)
		case rpc.Domain:
			b = xdrAppend(b, v.Name)
			b = append(b, v.UUID[:]...)
			b = xdrAppend(b, uint32(v.ID))
		}
	}
	return b
}

func xdrString(b []byte) (string, []byte) {
	n := binary.BigEndian.Uint32(b)
	return string(b[4 : 4+n]), b[4+(n+3)&^3:]
}

func (p *peer) answer(proc uint32, args []byte) *answer {
	p.mu.Lock()
	p.calls[proc]++
	n, script := p.calls[proc], p.script[proc]
	p.mu.Unlock()
	if script != nil {
		if a := script(n, args); a != nil {
			return a
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.usual(proc, args)
}

// usual is what a sound daemon does.
func (p *peer) usual(proc uint32, args []byte) *answer {
	good := func(vs ...any) *answer { return &answer{body: xdrAppend(nil, vs...)} }
	invalid := func(text string) *answer { return &answer{code: rpc.ErrOperationInvalid, text: text} }
	switch proc {
	case procAuthList:
		return good(uint32(0))
	case procOpen:
		return good()
	case procGetType:
		return good("QEMU")
	case procHostname:
		return good("host")
	case procLookupName:
		if name, _ := xdrString(args); name != peerDomain.Name {
			return &answer{code: rpc.ErrNoDomain, text: "Domain not found"}
		}
		return good(peerDomain)
	case procLookupUUID:
		if rpc.UUID(args[:16]) != peerDomain.UUID {
			return &answer{code: rpc.ErrNoDomain, text: "Domain not found"}
		}
		return good(peerDomain)
	case procLookupID:
		if binary.BigEndian.Uint32(args) != uint32(peerDomain.ID) {
			return &answer{code: rpc.ErrNoDomain, text: "Domain not found"}
		}
		return good(peerDomain)
	case procGetState:
		return good(p.state, p.reason)
	case procGetInfo:
		return good(p.state, uint64(2<<20), uint64(2<<20), uint32(2), uint64(0))
	case procGetXML:
		return good(p.xml)
	case procJobInfo:
		return good(append([]any{p.job}, zeros(11)...)...)
	case procControlInfo:
		return good(p.control, uint32(0), uint64(0))
	case procSuspend:
		if p.state == stateRunning || p.state == uint32(rpc.DomainBlocked) {
			p.state, p.reason = statePaused, pausedByUser
		}
		return good()
	case procResume:
		if p.state != statePaused {
			return invalid("domain is already running")
		}
		p.state, p.reason = stateRunning, uint32(rpc.DomainRunningUnpaused)
		return good()
	case procSetMetadata:
		p.marker = ""
		if _, rest := xdrString(args); binary.BigEndian.Uint32(rest[16+4+4:]) == 1 {
			p.marker, _ = xdrString(rest[16+4+4+4:])
		}
		return good()
	case procGetMetadata:
		if p.marker == "" {
			return &answer{code: rpc.ErrNoDomainMetadata, text: "Requested metadata element is not present"}
		}
		return good(p.marker)
	case procSubscribe:
		return good(uint32(callbackID))
	case procUnsubscribe:
		return good()
	case procMonitor:
		return p.usualMonitor(args)
	case procPeek:
		return p.usualPeek(args)
	}
	p.t.Errorf("the client called procedure %d", proc)
	return &answer{cut: true}
}

func zeros(n int) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = uint64(0)
	}
	return out
}

func (p *peer) usualMonitor(args []byte) *answer {
	_, rest := xdrString(args)
	cmd, _ := xdrString(rest[16+4:])
	reply, ok := p.monitor[cmd]
	if !ok && cmd == queryStatus {
		reply, ok = p.usualStatus(), true
	}
	if !ok {
		reply = `{"error":{"class":"CommandNotFound","desc":"The command has not been found"}}`
	}
	return &answer{body: xdrAppend(nil, reply)}
}

// queryStatus is how QEMU is asked what the guest does.
const queryStatus = `{"execute":"query-status"}`

// usualStatus is what a QEMU says whose guest does what libvirt believes.
func (p *peer) usualStatus() string {
	if p.state == stateRunning {
		return `{"return":{"running":true,"status":"running"}}`
	}
	return `{"return":{"running":false,"status":"paused"}}`
}

// peekArgs returns offset and size of a peek.
func peekArgs(args []byte) (uint64, int) {
	_, rest := xdrString(args)
	rest = rest[16+4:]
	return binary.BigEndian.Uint64(rest), int(binary.BigEndian.Uint32(rest[8:]))
}

func (p *peer) usualPeek(args []byte) *answer {
	at, n := peekArgs(args)
	if n > p.peekMax {
		return &answer{code: rpc.ErrInternalError, text: "internal error: size > maximum buffer size"}
	}
	return &answer{body: xdrAppend(nil, string(p.memory[at:at+uint64(n)]))}
}

// dial connects to the peer.
func (p *peer) dial() *Conn {
	p.t.Helper()
	c, err := Connect(p.t.Context(), p.uri())
	if err != nil {
		p.t.Fatalf("Connect(%q) failed: %v", p.uri(), err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	return c
}

// quick are bounds that suit a peer that answers at once.
var quick = limits{
	suspendGrace: 200 * time.Millisecond, resumeFor: 5 * time.Second, resumeTry: 2 * time.Second,
	jobWait: 3 * time.Second, calmFor: 300 * time.Millisecond, pollEvery: 10 * time.Millisecond,
}

// domain connects to the peer and looks its domain up.
func (p *peer) domain() *Domain {
	p.t.Helper()
	d, err := p.dial().LookupDomain(p.t.Context(), peerDomain.Name)
	if err != nil {
		p.t.Fatalf("Lookup failed: %v", err)
	}
	d.bounds = &quick
	return d
}

// errBroken is a fault of a test's own making.
var errBroken = errors.New("broken")
