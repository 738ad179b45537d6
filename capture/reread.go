package capture

import (
	"context"
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

// reread reads the guest's pages within the given ones again and returns those
// that same doesn't take for the same. before are the pages of them that could
// hold anything when they were first read; all others were zero.
func reread(ctx context.Context, mem hv.Memory, within, before phys.Runs, same judge, workers int) (phys.Runs, error) {
	now, _, err := mem.Populated(ctx)
	if err != nil {
		return nil, err
	}
	now = now.Intersect(within)
	batch := hv.BatchOf(mem)
	r := &rereader{mem: batch, chunks: chunksOf(now), same: same}
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
	for range readersOf(mem, workers, len(r.chunks)) {
		group.Go(func() error { return r.work(workCtx) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := batch.Vouch(ctx); err != nil {
		return nil, err
	}
	return phys.NewRuns(r.found...)
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
	var lost phys.Runs // ascending: pages are told in order
	_, err := readGuest(ctx, r.mem, chunk, buf[:chunk.Size()], func(p phys.PFN, _ error) {
		lost = append(lost, phys.Run{Base: p, Pages: 1})
	})
	if err != nil {
		return err
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
