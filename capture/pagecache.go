package capture

import (
	"bytes"
	"context"
	"iter"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"snap/hv"
	"snap/phys"
)

// Bounds of what is kept of a guest's memory for one look at it, in pages.
const (
	maxLookPages = 8192 // 32 MiB: some thousand are looked at, most of them the kernel's image
	// maxPrefetch bounds what is read at one word that it will be needed, so that
	// none of it is gone before it is asked for.
	maxPrefetch = maxLookPages / 4
	// largestKept is the longest read that is kept, in pages. Longer ones are of who
	// won't ask for them again.
	largestKept = 256
)

// lookAt calls look with a reader of mem for one look at the guest, and returns its
// error. Where reads of mem are dear, each page is read once, as far as it is small
// reads and their number is bounded; what is read is used for nothing after look, so
// that no page of one moment is taken for one of another. It fails too, with
// hv.ErrNotRunning, where not all that look saw is of the guest that mem was opened of.
func lookAt(ctx context.Context, mem phys.Reader, look func(phys.Reader) error) error {
	dear, ok := mem.(hv.DearMemory)
	if !ok || !dear.ReadCost().Dear() {
		return look(mem)
	}
	c := newPageCache(dear)
	err := look(c)
	c.end()
	if ctx.Err() != nil {
		return err
	}
	if vouch := c.batch.Vouch(ctx); vouch != nil {
		return vouch // whatever look made of another guest
	}
	return err
}

// pageCache is a dear memory for one look at the guest in it: it keeps the pages that
// were read. From its end on it is that memory.
type pageCache struct {
	hv.Memory
	batch hv.Batch
	cost  hv.ReadCost

	mu    sync.Mutex
	pages map[phys.PFN][]byte
	order []phys.PFN // of pages, as they came: a ring once it is full
	next  int        // in the ring, the oldest
	ended bool
}

var _ phys.Caching = (*pageCache)(nil)

func newPageCache(mem hv.DearMemory) *pageCache {
	return &pageCache{Memory: mem, batch: mem.Batch(), cost: mem.ReadCost(), pages: map[phys.PFN][]byte{}}
}

// end drops all pages.
func (c *pageCache) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pages, c.order, c.ended = nil, nil, true
}

// ReadPhys implements phys.Reader.
func (c *pageCache) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	run, ok := phys.RunOf(at, uint64(len(p)))
	if !ok {
		return c.Memory.ReadPhys(ctx, p, at)
	}
	missing, ended := c.fill(p, at, run)
	switch {
	case ended:
		return c.Memory.ReadPhys(ctx, p, at)
	case missing.Pages == 0:
		return ctx.Err()
	case missing.Pages > largestKept:
		return c.batch.ReadPhys(ctx, p, at)
	}
	b := make([]byte, missing.Size())
	if err := c.batch.ReadPhys(ctx, b, missing.Base.Addr()); err != nil {
		// What was asked for may be there without what is beside it in its pages.
		return c.batch.ReadPhys(ctx, p, at)
	}
	c.keep(missing, b)
	if missing, ended = c.fill(p, at, run); missing.Pages > 0 || ended {
		return c.batch.ReadPhys(ctx, p, at) // others have filled the cache meanwhile
	}
	return nil
}

// fill fills the parts of p, the memory at at in the pages of run, that are kept. It
// returns the pages from the first that isn't to the last.
func (c *pageCache) fill(p []byte, at phys.Addr, run phys.Run) (missing phys.Run, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for pfn := run.Base; pfn < run.End() && !c.ended; pfn++ {
		page, ok := c.pages[pfn]
		switch {
		case ok:
			fillPage(p, at, pfn, page)
		case missing.Pages == 0:
			missing = phys.Run{Base: pfn, Pages: 1}
		default:
			missing.Pages = uint64(pfn-missing.Base) + 1
		}
	}
	return missing, c.ended
}

// fillPage copies what p, the memory at at, has of a page.
func fillPage(p []byte, at phys.Addr, pfn phys.PFN, page []byte) {
	if start := pfn.Addr(); start >= at {
		copy(p[start-at:], page)
	} else {
		copy(p, page[at-start:])
	}
}

// keep keeps the pages of run, which b holds and is no longer the caller's, in place
// of the oldest. A page that is kept already stays as it was.
func (c *pageCache) keep(run phys.Run, b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	for i := range run.Pages {
		pfn := run.Base + phys.PFN(i)
		if _, ok := c.pages[pfn]; ok {
			continue
		}
		page := b[i<<phys.PageShift:][:phys.PageSize]
		if len(c.order) < maxLookPages {
			c.order = append(c.order, pfn)
		} else {
			delete(c.pages, c.order[c.next])
			c.order[c.next] = pfn
			c.next = (c.next + 1) % maxLookPages
		}
		c.pages[pfn] = page
	}
}

// ReadAnew implements phys.Caching.
func (c *pageCache) ReadAnew(ctx context.Context, p []byte, at phys.Addr) error {
	c.mu.Lock()
	ended := c.ended
	c.mu.Unlock()
	if ended {
		return c.Memory.ReadPhys(ctx, p, at)
	}
	return c.batch.ReadPhys(ctx, p, at)
}

// Prefetch implements phys.Caching: pages that lie close to each other are read by one
// call, with what is between them, and several calls go on at once.
func (c *pageCache) Prefetch(ctx context.Context, pages iter.Seq[phys.Run]) {
	wanted := c.unkept(pages)
	group, readCtx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, c.cost.Flight))
	for _, call := range c.calls(wanted) {
		group.Go(func() error {
			b := make([]byte, call.Size())
			if err := c.batch.ReadPhys(readCtx, b, call.Base.Addr()); err != nil {
				return nil // whoever needs a page of it meets the error
			}
			for _, r := range wanted.Intersect(phys.Runs{call}) {
				// What is between them goes with b.
				c.keep(r, bytes.Clone(b[uint64(r.Base-call.Base)<<phys.PageShift:][:r.Size()]))
			}
			return nil
		})
	}
	_ = group.Wait()
}

// unkept returns those of pages, of the first of them, that are memory and not kept.
func (c *pageCache) unkept(pages iter.Seq[phys.Run]) phys.Runs {
	var first []phys.Run // whoever tells pages reads page tables meanwhile, so nothing is locked
	left := uint64(maxPrefetch)
	for r := range pages {
		if r.Pages = min(r.Pages, left); !r.Valid() {
			break
		}
		first, left = append(first, r), left-r.Pages
	}
	wanted, err := phys.NewRuns(first...)
	if err != nil {
		return nil // never: all are valid
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	var out []phys.Run
	for _, r := range wanted.Intersect(c.RAM()) {
		for pfn := r.Base; pfn < r.End(); pfn++ {
			if _, ok := c.pages[pfn]; !ok {
				out = append(out, phys.Run{Base: pfn, Pages: 1})
			}
		}
	}
	set, _ := phys.NewRuns(out...) // parts of valid runs are valid
	return set
}

// calls returns what to read at once so that all of pages are, without leaving memory.
func (c *pageCache) calls(pages phys.Runs) []phys.Run {
	ram, gap, most := c.RAM(), phys.PFN(c.cost.Gap>>phys.PageShift), max(1, c.cost.Most>>phys.PageShift)
	var out []phys.Run
	for _, r := range pages {
		for r.Pages > 0 {
			if n := len(out); n > 0 {
				joined := phys.Run{Base: out[n-1].Base, Pages: uint64(r.Base-out[n-1].Base) + min(r.Pages, most)}
				if r.Base-out[n-1].End() <= gap && joined.Pages <= most && ram.Covers(joined.Base.Addr(), joined.Size()) {
					out[n-1] = joined
					r = phys.Run{Base: joined.End(), Pages: uint64(r.End() - joined.End())}
					continue
				}
			}
			k := min(r.Pages, most)
			out = append(out, phys.Run{Base: r.Base, Pages: k})
			r = phys.Run{Base: r.Base + phys.PFN(k), Pages: r.Pages - k}
		}
	}
	return slices.Clip(out)
}
