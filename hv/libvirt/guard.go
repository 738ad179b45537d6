package libvirt

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
)

// Bounds of one RPC message with its length word. Below the smallest the client
// would make a slice of negative length; the largest is VIR_NET_MESSAGE_MAX of
// libvirt's src/rpc/virnetprotocol.x.
const (
	minFrame = 28
	maxFrame = 32 << 20
)

// guard is the connection that the RPC client reads from: it refuses lengths
// that the client would believe, and can be closed more than once.
type guard struct {
	net.Conn

	// Only the client's one reader uses these.
	head [4]byte
	have int    // bytes of head that are known
	left uint64 // bytes of the current message still to come

	mu     sync.Mutex
	err    error
	closed bool
}

// Read implements net.Conn.
func (g *guard) Read(p []byte) (int, error) {
	if err := g.over(); err != nil {
		return 0, err
	}
	n, err := g.Conn.Read(p)
	if ferr := g.scan(p[:n]); ferr != nil {
		n, err = 0, ferr
	}
	if err != nil {
		g.end(err)
	}
	return n, err
}

// end keeps the first reason for which the connection can't be used any more.
func (g *guard) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
}

// over returns why the connection can't be used any more, nil if it can.
func (g *guard) over() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// scan follows the message lengths through b.
func (g *guard) scan(b []byte) error {
	for len(b) > 0 {
		if g.left > 0 {
			n := min(g.left, uint64(len(b)))
			g.left -= n
			b = b[n:]
			continue
		}
		n := copy(g.head[g.have:], b)
		g.have += n
		b = b[n:]
		if g.have < len(g.head) {
			return nil
		}
		g.have = 0
		size := binary.BigEndian.Uint32(g.head[:])
		if size < minFrame || size > maxFrame {
			return fmt.Errorf("daemon announced a message of %d bytes; want %d to %d", size, minFrame, maxFrame)
		}
		g.left = uint64(size) - uint64(len(g.head))
	}
	return nil
}

// Close ends pending reads and writes. Later calls do nothing.
func (g *guard) Close() error {
	g.end(net.ErrClosed)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	return g.Conn.Close()
}
