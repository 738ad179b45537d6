package capture

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"snap/hv"
	"snap/phys"
)

const (
	// copyPages is how many pages a worker copies at a time: large enough that
	// the cost of a call vanishes, small enough that all workers end together
	// and a context's end is noticed soon.
	copyPages = 4 << 20 >> phys.PageShift
	// maxDeadChunks is how many chunks in a row may fail to give a single page
	// before the source counts as dead.
	maxDeadChunks = 64
)

// copier copies a guest's pages into a spool.
type copier struct {
	*spool
	mem    phys.Reader
	chunks []chunk
	next   atomic.Int64
	dead   atomic.Int64

	mu    sync.Mutex
	holes []spoolGap
}

// chunk is a part of a run of pages.
type chunk struct {
	run  phys.Run
	into []byte
}

// fill copies all pages of s from mem with so many workers. What can't be read
// becomes a gap; an error is the end of ctx, with its cause, or of the source.
func (s *spool) fill(ctx context.Context, mem phys.Reader, workers int) error {
	c := &copier{spool: s, mem: mem}
	for i, r := range s.pages {
		for at := r.Base; at < r.End(); at += copyPages {
			part := phys.Run{Base: at, Pages: min(copyPages, uint64(r.End()-at))}
			c.chunks = append(c.chunks, chunk{part, s.place(i, part)})
		}
	}
	group, workCtx := errgroup.WithContext(ctx)
	for range max(1, min(workers, len(c.chunks))) {
		group.Go(func() error { return c.work(workCtx) })
	}
	err := group.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("copy the guest's memory: %w", context.Cause(ctx))
	}
	s.setGaps(c.holes)
	return err
}

func (c *copier) work(ctx context.Context) error {
	for {
		i := c.next.Add(1) - 1
		if i >= int64(len(c.chunks)) {
			return nil
		}
		k := c.chunks[i]
		got, err := c.copy(ctx, k.run, k.into)
		if err != nil {
			return err
		}
		if got > 0 {
			c.dead.Store(0)
		} else if c.dead.Add(1) == maxDeadChunks {
			c.mu.Lock()
			defer c.mu.Unlock()
			return fmt.Errorf("copy the guest's memory: not one page of %d in a row could be read: %w", maxDeadChunks*copyPages, c.holes[0].err)
		}
	}
}

// copy copies the pages of r into p, in smaller and smaller pieces where that
// fails, and returns how many it copied.
func (c *copier) copy(ctx context.Context, r phys.Run, p []byte) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	err := c.mem.ReadPhys(ctx, p, r.Base.Addr())
	if err == nil {
		return r.Pages, nil
	}
	access, ok := errors.AsType[*phys.AccessError](err)
	if ctx.Err() != nil || errors.Is(err, hv.ErrNotRunning) || !ok && !errors.Is(err, phys.ErrNotRAM) {
		return 0, fmt.Errorf("copy the guest's memory: %w", err)
	}
	if r.Pages == 1 {
		if ok && access.Err != nil {
			err = access.Err
		}
		c.mu.Lock()
		c.holes = append(c.holes, spoolGap{r, err})
		c.mu.Unlock()
		return 0, nil
	}
	half := r.Pages / 2
	lo, err := c.copy(ctx, phys.Run{Base: r.Base, Pages: half}, p[:half*phys.PageSize])
	if err != nil {
		return lo, err
	}
	hi, err := c.copy(ctx, phys.Run{Base: r.Base + phys.PFN(half), Pages: r.Pages - half}, p[half*phys.PageSize:])
	return lo + hi, err
}
