package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	rpc "github.com/digitalocean/go-libvirt"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/hv/internal/bounded"
	"snap/hv/qemu"
	"snap/phys"
)

// peekChunks are the most bytes that daemons give at once, the newest limit
// first (REMOTE_DOMAIN_MEMORY_PEEK_BUFFER_MAX in src/remote/remote_protocol.x).
var peekChunks = []int{4 << 20, 1 << 20, 64 << 10}

// peekFlight is how many peeks are under way at once. The daemon takes up to 5
// requests of a client (max_client_requests in its configuration); one is left
// for everything else.
const peekFlight = 4

// peekRoom is what must stay free where the daemon puts the chunks. It would not
// notice that the file system is full, and send wrong bytes.
const peekRoom = 2 * peekFlight * (4 << 20)

// PeekMemory reads a guest's memory with virDomainMemoryPeek. See the package's
// comment for what that costs. It is safe for concurrent use.
type PeekMemory struct {
	d     *Domain
	ram   phys.Runs
	why   error
	cache string // folder of the chunks on this host, empty if unknown

	limit  atomic.Int32 // index into peekChunks
	flight chan struct{}

	mu     sync.RWMutex // held for reading by reads, so that Close waits for them
	closed bool
}

var _ hv.DearMemory = (*PeekMemory)(nil)

// peekGap is how much that nobody needs is cheaper to read than another call; see
// docs/benchmarks/peek.md.
const peekGap = 64 << 10

func (d *Domain) openPeek(m qemu.RAMMap, why error) (*PeekMemory, error) {
	p := &PeekMemory{d: d, ram: m.Runs(), why: why, flight: make(chan struct{}, peekFlight)}
	if d.conn.target.local {
		p.cache = cacheDir(d.conn.target.driver)
	}
	return p, p.room()
}

// cacheDir returns where the daemon puts the chunks (cacheDir in libvirt's
// src/qemu/qemu_conf.c).
func cacheDir(driver string) string {
	if driver == "qemu:///system" {
		return "/var/cache/libvirt/qemu"
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "libvirt", "qemu", "cache")
}

// room fails if the daemon's folder for chunks is nearly full.
func (p *PeekMemory) room() error {
	var st unix.Statfs_t
	if p.cache == "" || unix.Statfs(p.cache, &st) != nil {
		return nil // not ours to see: nothing is known
	}
	if free := st.Bavail * uint64(st.Bsize); free < peekRoom {
		return fmt.Errorf("%w: %s has %d bytes free, and peek gives wrong bytes when it is full; free %d bytes there",
			hv.ErrUnsupported, p.cache, free, uint64(peekRoom))
	}
	return nil
}

// WhyNotDirect returns why MechanismAuto didn't choose direct, nil if peek was
// asked for.
func (p *PeekMemory) WhyNotDirect() error { return p.why }

// Mechanism implements hv.Memory.
func (p *PeekMemory) Mechanism() hv.Mechanism { return hv.MechanismPeek }

// RAM implements hv.Memory.
func (p *PeekMemory) RAM() phys.Runs { return p.ram }

// Populated implements hv.Memory: the daemon doesn't tell.
func (p *PeekMemory) Populated(ctx context.Context) (phys.Runs, bool, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return nil, false, os.ErrClosed
	}
	return p.ram, false, ctx.Err()
}

// Close implements hv.Memory.
func (p *PeekMemory) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return nil
}

// ReadCost implements hv.DearMemory.
func (p *PeekMemory) ReadCost() hv.ReadCost {
	return hv.ReadCost{Gap: peekGap, Most: uint64(peekChunks[p.limit.Load()]), Flight: peekFlight}
}

// ReadPhys implements phys.Reader. Large reads are split and asked for together.
// The error is hv.ErrUnreachable, and no phys.AccessError, if the daemon is away.
func (p *PeekMemory) ReadPhys(ctx context.Context, b []byte, at phys.Addr) error {
	return p.open(ctx, b, at, func() error {
		if err := p.read(ctx, b, at); err != nil || len(b) == 0 {
			return err
		}
		return p.sameRun(ctx)
	})
}

// Batch implements hv.DearMemory.
func (p *PeekMemory) Batch() hv.Batch { return peekBatch{p} }

// peekBatch is a PeekMemory that doesn't ask at each read whether the domain was started
// anew.
type peekBatch struct{ p *PeekMemory }

// ReadPhys implements phys.Reader.
func (r peekBatch) ReadPhys(ctx context.Context, b []byte, at phys.Addr) error {
	return r.p.open(ctx, b, at, func() error { return r.p.read(ctx, b, at) })
}

// Vouch implements hv.Batch.
func (r peekBatch) Vouch(ctx context.Context) error { return r.p.sameRun(ctx) }

// open calls read, which fills b with the memory at at, unless the memory is closed, and
// makes its error that of a Reader.
func (p *PeekMemory) open(ctx context.Context, b []byte, at phys.Addr, read func() error) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.closed {
		return &phys.AccessError{At: at, Len: len(b), Err: os.ErrClosed}
	}
	err := read()
	if err != nil && ctx.Err() != nil {
		err = bounded.Ended(ctx)
	}
	access, ok := errors.AsType[*phys.AccessError](err)
	switch {
	case ok && errors.Is(err, hv.ErrUnreachable):
		return access.Err // no page is to blame, and none can be read
	case err == nil || ok || errors.Is(err, hv.ErrUnreachable):
		return err
	}
	return &phys.AccessError{At: at, Len: len(b), Err: err}
}

// read fills b, in pieces of what the daemon gives at once.
func (p *PeekMemory) read(ctx context.Context, b []byte, at phys.Addr) error {
	if !p.ram.Covers(at, uint64(len(b))) {
		return &phys.AccessError{At: at, Len: len(b), Err: phys.ErrNotRAM}
	}
	if len(b) <= peekChunks[p.limit.Load()] {
		return p.chunk(ctx, b, at)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(peekFlight)
	for len(b) > 0 {
		n := min(len(b), peekChunks[p.limit.Load()])
		part, here := b[:n], at
		g.Go(func() error { return p.chunk(gctx, part, here) })
		b, at = b[n:], at+phys.Addr(n)
	}
	return g.Wait()
}

// sameRun fails if the domain was started anew: the daemon finds it by its UUID
// and would give another run's memory.
func (p *PeekMemory) sameRun(ctx context.Context) error {
	now, err := query(ctx, p.d.conn, fmt.Sprintf("look up domain %q again", p.d.dom.Name),
		func(l *rpc.Libvirt) (rpc.Domain, error) { return l.DomainLookupByUUID(p.d.dom.UUID) })
	switch {
	case errors.Is(err, hv.ErrNoDomain):
		return fmt.Errorf("%w: %w", hv.ErrNotRunning, err)
	case err != nil:
		return err
	}
	if now.ID != p.d.dom.ID {
		return fmt.Errorf("domain %q was stopped or started anew: %w", p.d.dom.Name, hv.ErrNotRunning)
	}
	return nil
}

// chunk reads b in pieces of the size that the daemon allows.
func (p *PeekMemory) chunk(ctx context.Context, b []byte, at phys.Addr) error {
	for len(b) > 0 {
		limit := p.limit.Load()
		n := min(len(b), peekChunks[limit])
		got, err := p.peek(ctx, at, n)
		if tooLarge(err) && int(limit)+1 < len(peekChunks) {
			p.limit.CompareAndSwap(limit, limit+1)
			continue
		}
		if err == nil && len(got) != n {
			err = fmt.Errorf("peek at domain %q: %w: daemon sent %d bytes; want %d", p.d.dom.Name, hv.ErrNotUnderstood, len(got), n)
		}
		if err != nil {
			return &phys.AccessError{At: at, Len: n, Err: err}
		}
		copy(b, got)
		b, at = b[n:], at+phys.Addr(n)
	}
	return nil
}

func (p *PeekMemory) peek(ctx context.Context, at phys.Addr, n int) ([]byte, error) {
	select {
	case p.flight <- struct{}{}:
		defer func() { <-p.flight }()
	case <-ctx.Done():
		return nil, bounded.Ended(ctx)
	}
	if err := p.room(); err != nil {
		return nil, err
	}
	return query(ctx, p.d.conn, fmt.Sprintf("peek at domain %q", p.d.dom.Name), func(l *rpc.Libvirt) ([]byte, error) {
		return l.DomainMemoryPeek(p.d.dom, uint64(at), uint32(n), rpc.MemoryPhysical)
	})
}

// tooLarge recognises the daemon's refusal of a chunk (remoteDispatchDomainMemoryPeek
// in src/remote/remote_daemon_dispatch.c): an internal error with this text.
func tooLarge(err error) bool {
	var e rpc.Error
	return errors.As(err, &e) && strings.Contains(e.Message, "maximum buffer size")
}
