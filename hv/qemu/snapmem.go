package qemu

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"snap/hv"
	"snap/hv/qemu/vmstate"
	"snap/phys"
)

// savedGuest is a guest as QEMU saved it. It is safe for concurrent use.
type savedGuest struct {
	sink      *sink
	cpus      []phys.Registers
	downtime  time.Duration
	ram       phys.Runs
	pieces    []savedPiece // ascending; the same pages as ram
	populated phys.Runs

	mu     sync.RWMutex // held for reading by reads, so that Close waits for them
	closed bool
}

var _ hv.Snapshot = (*savedGuest)(nil)

// savedPiece says which pages of a block a run of guest pages is.
type savedPiece struct {
	run   phys.Run
	block *vmstate.Block
	first uint64 // page of the block
}

// newSavedGuest finds the guest's memory m in what QEMU saved. It fails if a page
// of it is missing.
func newSavedGuest(st *vmstate.Stream, m RAMMap) (*savedGuest, error) {
	g := &savedGuest{cpus: st.CPUs, ram: m.runs}
	var data []phys.Run
	for _, r := range m.ranges {
		b := st.Block(r.block)
		if b == nil || r.offset%phys.PageSize != 0 {
			return nil, fmt.Errorf("%w: snapshot lacks the memory of block %q at guest pages %v", hv.ErrFormat, r.block, r.run)
		}
		p := savedPiece{run: r.run, block: b, first: r.offset >> phys.PageShift}
		for w := range b.Runs(vmstate.Absent) {
			if missing, ok := p.part(w); ok {
				return nil, fmt.Errorf("%w: snapshot lacks guest pages %v of block %q", hv.ErrFormat, missing, r.block)
			}
		}
		if b.Size>>phys.PageShift < p.first+r.run.Pages {
			return nil, fmt.Errorf("%w: snapshot has %d bytes of block %q, which ends before guest pages %v", hv.ErrFormat, b.Size, r.block, r.run)
		}
		for w := range b.Runs(vmstate.Data) {
			if part, ok := p.part(w); ok {
				data = append(data, part)
			}
		}
		g.pieces = append(g.pieces, p)
	}
	var err error
	g.populated, err = phys.NewRuns(data...)
	return g, err
}

// part returns the guest pages of p that are pages w of its block.
func (p savedPiece) part(w vmstate.Range) (phys.Run, bool) {
	first, end := max(w.First, p.first), min(w.First+w.Pages, p.first+p.run.Pages)
	if first >= end {
		return phys.Run{}, false
	}
	return phys.Run{Base: p.run.Base + phys.PFN(first-p.first), Pages: end - first}, true
}

// Mechanism implements hv.Memory.
func (g *savedGuest) Mechanism() hv.Mechanism { return hv.MechanismSnapshot }

// RAM implements hv.Memory.
func (g *savedGuest) RAM() phys.Runs { return g.ram }

// Populated implements hv.Memory.
func (g *savedGuest) Populated(ctx context.Context) (phys.Runs, bool, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.closed {
		return nil, false, os.ErrClosed
	}
	return g.populated, true, ctx.Err()
}

// Registers implements hv.Snapshot.
func (g *savedGuest) Registers() []phys.Registers { return g.cpus }

// Downtime implements hv.Snapshot.
func (g *savedGuest) Downtime() time.Duration { return g.downtime }

// ReadPhys implements phys.Reader.
func (g *savedGuest) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	g.mu.RLock()
	defer g.mu.RUnlock()
	fail := func(err error) error { return &phys.AccessError{At: at, Len: len(p), Err: err} }
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if g.closed {
		return fail(os.ErrClosed)
	}
	if !g.ram.Covers(at, uint64(len(p))) {
		return fail(phys.ErrNotRAM)
	}
	for _, k := range g.pieces {
		for len(p) > 0 && at >= k.run.Base.Addr() && at < k.run.End().Addr() {
			n := min(len(p), phys.PageSize-int(at.Offset()))
			page, kind := k.block.Page(k.first + uint64(at.PFN()-k.run.Base))
			if kind == vmstate.Data {
				copy(p[:n], page[at.Offset():])
			} else {
				clear(p[:n])
			}
			p, at = p[n:], at+phys.Addr(n)
		}
	}
	return nil
}

// Close implements hv.Memory: the memory goes back to the host.
func (g *savedGuest) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	return g.sink.close()
}
