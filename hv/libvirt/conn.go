package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	rpc "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"snap/hv"
	"snap/hv/internal/bounded"
)

const (
	// callTimeout bounds one call. The daemon itself waits up to 30 s for
	// another job on the domain (QEMU_JOB_WAIT_TIME in src/conf/virdomainjob.c).
	callTimeout = 60 * time.Second
	// cutGrace is how long a call may take to notice that its connection is gone.
	cutGrace = 2 * time.Second
	// callTries bounds how often a query is asked again after its connection was
	// lost, which happens when another call's context ends.
	callTries = 3
)

// Conn is a connection to one libvirt daemon. A connection that was cut is
// replaced by the next call. It is safe for concurrent use.
type Conn struct {
	target  *target
	timeout time.Duration // of one call

	dialing chan struct{} // holds a token while somebody dials

	mu     sync.Mutex
	cur    *session
	closed bool
}

var _ hv.Connection = (*Conn)(nil)

// Driver returns what opens connections to libvirt.
func Driver() hv.Driver {
	return hv.Driver{
		Name:     "libvirt",
		Examples: []string{"qemu:///system", "qemu:///session", "qemu+unix://", "qemu+ssh://", "qemu+tls://", "qemu+tcp://"},
		Takes:    func(u *url.URL) bool { return u.Scheme == "qemu" || strings.HasPrefix(u.Scheme, "qemu+") },
		Connect: func(ctx context.Context, uri string) (hv.Connection, error) {
			c, err := Connect(ctx, uri)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
	}
}

// Connect opens uri: qemu:///system, qemu:///session, qemu+unix:///…?socket=,
// qemu+ssh://, qemu+tls:// or qemu+tcp://. An error is hv.ErrDenied where the
// daemon or its socket refuses us, and hv.ErrUnreachable where there is none.
func Connect(ctx context.Context, uri string) (*Conn, error) {
	t, err := parseTarget(uri)
	if err != nil {
		return nil, err
	}
	c := newConn(t)
	if _, err := c.session(ctx); err != nil {
		return nil, err
	}
	kind, err := query(ctx, c, "ask for the hypervisor", (*rpc.Libvirt).ConnectGetType)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if kind != "QEMU" {
		err := fmt.Errorf("connect to %s: hypervisor is %q: %w: only QEMU guests can be read", uri, kind, hv.ErrURI)
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func newConn(t *target) *Conn {
	return &Conn{target: t, timeout: callTimeout, dialing: make(chan struct{}, 1)}
}

// URI returns the URI that Connect was given.
func (c *Conn) URI() string { return c.target.uri }

// Close ends the connection. Calls in flight fail.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.cur == nil {
		return nil
	}
	return c.cur.close()
}

// errClosed is what calls on a closed Conn return.
var errClosed = errors.New("connection was closed")

// session returns the live connection, or a new one.
func (c *Conn) session(ctx context.Context) (*session, error) {
	select {
	case c.dialing <- struct{}{}:
		defer func() { <-c.dialing }()
	case <-ctx.Done():
		return nil, bounded.Ended(ctx)
	}
	c.mu.Lock()
	cur, closed := c.cur, c.closed
	c.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	if cur != nil && !cur.lost() {
		return cur, nil
	}
	s, err := c.target.open(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.Join(errClosed, s.close())
	}
	c.cur = s
	return s, nil
}

// session is one socket with an RPC client on it.
type session struct {
	rpc  *rpc.Libvirt
	conn *framed
	peer int // the process at the other end, 0 if it isn't known
}

// open dials the daemon and opens its driver.
func (t *target) open(ctx context.Context) (*session, error) {
	return t.openOn(ctx, func(conn net.Conn) (net.Conn, error) { return conn, nil })
}

// openOn is open with something between the client and its connection.
func (t *target) openOn(ctx context.Context, between func(net.Conn) (net.Conn, error)) (*session, error) {
	ctx, cancel := bounded.Within(ctx, dialTimeout)
	defer cancel()
	conn, err := t.dial(ctx)
	if ctx.Err() != nil && err != nil {
		err = bounded.Ended(ctx)
	}
	if err != nil && !errors.Is(err, hv.ErrDenied) {
		err = fmt.Errorf("%w: %w", hv.ErrUnreachable, err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", t.uri, err)
	}
	under, err := between(conn)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", t.uri, err), conn.Close())
	}
	g := newFramed(under)
	s := &session{rpc: rpc.NewWithDialer(dialers.NewAlreadyConnected(g)), conn: g, peer: peerOf(conn)}
	_, err = run(ctx, s, func(l *rpc.Libvirt) (struct{}, error) {
		return struct{}{}, l.ConnectToURI(rpc.ConnectURI(t.driver))
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", t.uri, classify(err)), s.close())
	}
	return s, nil
}

// lost reports whether nothing can be asked on s any more.
func (s *session) lost() bool { return s.conn.over() != nil }

func (s *session) close() error { return s.conn.Close() }

// run makes one call and cuts the connection if ctx ends first. The client can
// wait for ever even on a closed connection, so the call is abandoned then.
func run[T any](ctx context.Context, s *session, call func(*rpc.Libvirt) (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var none T
	if ctx.Err() != nil {
		return none, bounded.Ended(ctx)
	}
	done := make(chan result, 1)
	go func() {
		var r result
		defer func() {
			// The client decodes what a peer sends by reflection. Its faults
			// must not end the process while a guest is paused.
			if p := recover(); p != nil {
				r.err = fmt.Errorf("%w: internal error in the RPC client: %v", hv.ErrNotUnderstood, p)
			}
			done <- r
		}()
		r.v, r.err = call(s.rpc)
	}()
	select {
	case r := <-done:
		return r.v, s.explain(r.err)
	case <-ctx.Done():
	}
	_ = s.close() // the context's end is the error to tell
	select {
	case <-done:
	case <-time.After(cutGrace):
	}
	return none, bounded.Ended(ctx)
}

// explain replaces the client's word for a lost connection by the reason.
func (s *session) explain(err error) error {
	if !isLost(err) {
		return err
	}
	if cause := s.conn.over(); cause != nil {
		return lostError{cause}
	}
	return lostError{err}
}

// lostError is a call whose connection went away under it: it may or may not
// have been carried out. It is hv.ErrUnreachable.
type lostError struct{ err error }

func (e lostError) Error() string {
	return fmt.Sprintf("%v: the connection was lost: %v", hv.ErrUnreachable, e.err)
}
func (e lostError) Unwrap() []error { return []error{hv.ErrUnreachable, e.err} }

// isLost reports whether the client's err means that the connection is gone.
func isLost(err error) bool {
	return errors.Is(err, rpc.ErrInterrupted) || errors.Is(err, syscall.EINVAL) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed)
}

// query makes a call that may be repeated, and says in the error what it was for.
func query[T any](ctx context.Context, c *Conn, what string, call func(*rpc.Libvirt) (T, error)) (T, error) {
	ctx, cancel := bounded.Within(ctx, c.timeout)
	defer cancel()
	var v T
	var err error
	for range callTries {
		var s *session
		if s, err = c.session(ctx); err != nil {
			return v, fmt.Errorf("%s: %w", what, err)
		}
		v, err = run(ctx, s, call)
		var lost lostError
		if !errors.As(err, &lost) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return v, fmt.Errorf("%s on %s: %w", what, c.target.uri, classify(err))
	}
	return v, nil
}
