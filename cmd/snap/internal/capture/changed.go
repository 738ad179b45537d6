package capture

import (
	"bytes"
	"context"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"snap/hv"
	"snap/phys"
)

var zeroPage [phys.PageSize]byte

// judge reports whether what the guest has in a page now is what the dump has.
// now is nil if it can't be read. It is called by many goroutines.
type judge func(p phys.PFN, now []byte) bool

// changed reads the guest's pages within the given ones again and returns those
// that same doesn't take for the same. before are the pages of them that could
// hold anything when they were first read; all others were zero.
func (j *Job) changed(ctx context.Context, mem hv.Memory, within, before phys.Runs, same judge) (phys.Runs, error) {
	now, _, err := mem.Populated(ctx)
	if err != nil {
		return nil, err
	}
	now = now.Intersect(within)
	r := &rereader{mem: mem, chunks: chunksOf(now), same: same}
	// What isn't populated any more is zero, and is not read: that would
	// populate it again in some kinds of memory.
	for _, run := range chunksOf(before.Intersect(within).Minus(now)) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		for p := run.Base; p < run.End(); p++ {
			if !same(p, zeroPage[:]) {
				r.found = append(r.found, phys.Run{Base: p, Pages: 1})
			}
		}
	}
	group, workCtx := errgroup.WithContext(ctx)
	for range max(1, min(j.workers(), len(r.chunks))) {
		group.Go(func() error { return r.work(workCtx) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return phys.NewRuns(r.found...)
}

// chunksOf divides pages into pieces of copyPages at most.
func chunksOf(pages phys.Runs) []phys.Run {
	var out []phys.Run
	for _, r := range pages {
		for at := r.Base; at < r.End(); at += copyPages {
			out = append(out, phys.Run{Base: at, Pages: min(copyPages, uint64(r.End()-at))})
		}
	}
	return out
}

// rereader reads pages a second time.
type rereader struct {
	mem    phys.Reader
	chunks []phys.Run
	same   judge
	next   atomic.Int64

	mu    sync.Mutex
	found []phys.Run // that changed
}

func (r *rereader) work(ctx context.Context) error {
	buf := make([]byte, copyPages<<phys.PageShift)
	for {
		i := r.next.Add(1) - 1
		if i >= int64(len(r.chunks)) {
			return nil
		}
		if err := r.compare(ctx, r.chunks[i], buf); err != nil {
			return err
		}
	}
}

// compare reads a chunk into buf and keeps the pages that changed.
func (r *rereader) compare(ctx context.Context, chunk phys.Run, buf []byte) error {
	c := &copier{mem: r.mem}
	if _, err := c.copy(ctx, chunk, buf[:chunk.Size()]); err != nil {
		return err
	}
	var lost phys.Runs
	for _, h := range c.holes {
		lost = append(lost, h.run) // ascending: pieces are read in order
	}
	var found []phys.Run
	for p := chunk.Base; p < chunk.End(); p++ {
		now := buf[uint64(p-chunk.Base)<<phys.PageShift:][:phys.PageSize]
		if lost.Has(p) {
			now = nil
		}
		if r.same(p, now) {
			continue
		}
		if n := len(found); n > 0 && found[n-1].End() == p {
			found[n-1].Pages++
			continue
		}
		found = append(found, phys.Run{Base: p, Pages: 1})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found = append(r.found, found...)
	return nil
}

// notedMemory is a memory of which it is noted what its pages held when they
// were last read whole: 32 bits for each, with a key that the guest can't know,
// so that it can't hide a change. It takes 4 bytes for each page of begin.
type notedMemory struct {
	hv.Memory
	seed  maphash.Seed
	pages phys.Runs
	first []uint64 // by run of pages: how many pages lie before it
	sums  []uint32 // by page, 0 if it was not read
}

func newNotedMemory(mem hv.Memory) *notedMemory {
	return &notedMemory{Memory: mem, seed: maphash.MakeSeed()}
}

// begin has the given pages noted from now on. No read may be under way.
func (m *notedMemory) begin(pages phys.Runs) {
	m.pages = pages
	var n uint64
	for _, r := range pages {
		m.first = append(m.first, n)
		n += r.Pages
	}
	m.sums = make([]uint32, n)
}

// ReadPhys implements phys.Reader. Reads at a time must be of different pages.
func (m *notedMemory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if err := m.Memory.ReadPhys(ctx, p, at); err != nil || !at.Aligned() {
		return err
	}
	for pfn := at.PFN(); len(p) >= phys.PageSize; pfn, p = pfn+1, p[phys.PageSize:] {
		if i, ok := m.index(pfn); ok {
			m.sums[i] = m.sum(p[:phys.PageSize])
		}
	}
	return nil
}

func (m *notedMemory) index(p phys.PFN) (uint64, bool) {
	i, ok := m.pages.Find(p)
	if !ok {
		return 0, false
	}
	return m.first[i] + uint64(p-m.pages[i].Base), true
}

func (m *notedMemory) sum(page []byte) uint32 {
	return max(1, uint32(maphash.Bytes(m.seed, page)))
}

// same is a judge: pages that were not to be noted are zero in the dump.
func (m *notedMemory) same(p phys.PFN, now []byte) bool {
	i, ok := m.index(p)
	switch {
	case !ok:
		return bytes.Equal(now, zeroPage[:])
	case m.sums[i] == 0: // a gap
		return true
	default:
		return now != nil && m.sum(now) == m.sums[i]
	}
}
