package libvirt

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"

	"snap/hv"
)

// Bounds of one RPC message with its length word. Below the smallest the client
// would make a slice of negative length; the largest is VIR_NET_MESSAGE_MAX of
// libvirt's src/rpc/virnetprotocol.x.
const (
	minFrame = 28
	maxFrame = 32 << 20
)

// framed is the connection that the RPC client reads from: it refuses lengths
// that the client would believe, and can be closed more than once.
type framed struct {
	net.Conn

	// Only the client's one reader uses these.
	head [4]byte
	have int    // bytes of head that are known
	left uint64 // bytes of the current message still to come

	gone chan struct{} // closed with err

	mu     sync.Mutex
	err    error
	closed bool
}

// newFramed takes conn over.
func newFramed(conn net.Conn) *framed { return &framed{Conn: conn, gone: make(chan struct{})} }

// Read implements net.Conn.
func (f *framed) Read(p []byte) (int, error) {
	if err := f.over(); err != nil {
		return 0, err
	}
	n, err := f.Conn.Read(p)
	if ferr := f.scan(p[:n]); ferr != nil {
		n, err = 0, ferr
	}
	if err != nil {
		f.end(err)
	}
	return n, err
}

// end keeps the first reason for which the connection can't be used any more.
func (f *framed) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
		close(f.gone)
	}
}

// over returns why the connection can't be used any more, nil if it can.
func (f *framed) over() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// scan follows the message lengths through b.
func (f *framed) scan(b []byte) error {
	for len(b) > 0 {
		if f.left > 0 {
			n := min(f.left, uint64(len(b)))
			f.left -= n
			b = b[n:]
			continue
		}
		n := copy(f.head[f.have:], b)
		f.have += n
		b = b[n:]
		if f.have < len(f.head) {
			return nil
		}
		f.have = 0
		size := binary.BigEndian.Uint32(f.head[:])
		if size < minFrame || size > maxFrame {
			return fmt.Errorf("%w: daemon announced a message of %d bytes; want %d to %d", hv.ErrNotUnderstood, size, minFrame, maxFrame)
		}
		f.left = uint64(size) - uint64(len(f.head))
	}
	return nil
}

// Close ends pending reads and writes. Later calls do nothing.
func (f *framed) Close() error {
	f.end(net.ErrClosed)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	return f.Conn.Close()
}
