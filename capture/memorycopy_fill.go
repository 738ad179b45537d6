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

// copier copies a guest's pages into a memoryCopy.
type copier struct {
	*memoryCopy
	mem    phys.Reader
	chunks []chunk
	next   atomic.Int64
	dead   phys.DeadStretch
	done   *atomic.Uint64 // pages that were tried

	mu   sync.Mutex
	lost []copyGap
}

// chunk is pages to copy, by their numbers.
type chunk struct{ first, pages uint64 }

// runChunks divides pages that x numbers, so that those of a chunk are one run.
func runChunks(x *phys.Index, pages phys.Runs) []chunk {
	var out []chunk
	for _, r := range chunksOf(pages) {
		n, _ := x.Number(r.Base)
		out = append(out, chunk{n, r.Pages})
	}
	return out
}

// fill copies all pages of s from mem with so many workers, or as many as mem wants
// for reads that are dear. What can't be read becomes a gap; an error is the end of
// ctx, with its cause, or of the source.
func (s *memoryCopy) fill(ctx context.Context, mem hv.Memory, workers int) error {
	return s.fillCounted(ctx, mem, workers, new(atomic.Uint64))
}

// fillPart is fill of some of the pages of a copy in which all lie side by side.
func (s *memoryCopy) fillPart(ctx context.Context, mem hv.Memory, part phys.Runs, workers int) error {
	return s.fillChunks(ctx, mem, runChunks(s.index, part), workers, new(atomic.Uint64))
}

// fillCounted is fill; done counts the pages that are behind it.
func (s *memoryCopy) fillCounted(ctx context.Context, mem hv.Memory, workers int, done *atomic.Uint64) error {
	return s.fillChunks(ctx, mem, s.layout.chunks(s.index), workers, done)
}

func (s *memoryCopy) fillChunks(ctx context.Context, mem hv.Memory, chunks []chunk, workers int, done *atomic.Uint64) error {
	batch := hv.BatchOf(mem)
	c := &copier{memoryCopy: s, mem: batch, chunks: chunks, dead: phys.DeadStretch{Limit: maxDeadChunks}, done: done}
	group, workCtx := errgroup.WithContext(ctx)
	for range readersOf(mem, workers, len(c.chunks)) {
		group.Go(func() error { return c.work(workCtx) })
	}
	err := group.Wait()
	if err == nil {
		err = batch.Vouch(ctx)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("copy the guest's memory: %w", context.Cause(ctx))
	}
	s.setGaps(append(c.lost, s.gaps...))
	return err
}

func (c *copier) work(ctx context.Context) error {
	filler := c.layout.filler()
	for {
		i := c.next.Add(1) - 1
		if i >= int64(len(c.chunks)) {
			return nil
		}
		got, gaps, err := c.chunk(ctx, c.chunks[i], filler)
		if err != nil {
			return err
		}
		c.done.Add(c.chunks[i].pages)
		if len(gaps) > 0 {
			c.mu.Lock()
			c.lost = append(c.lost, gaps...)
			c.mu.Unlock()
		}
		if c.dead.Add(got, uint64(len(gaps))) {
			return fmt.Errorf("copy the guest's memory: not one page of %d in a row could be read: %w", maxDeadChunks*copyPages, gaps[0].err)
		}
	}
}

// chunk copies the pages of k, and returns how many it got and what it couldn't read.
func (c *copier) chunk(ctx context.Context, k chunk, filler copyFiller) (got uint64, gaps []copyGap, err error) {
	lost := func(p phys.PFN, err error) { gaps = append(gaps, copyGap{phys.Run{Base: p, Pages: 1}, err}) }
	for first, end := k.first, k.first+k.pages; first < end; first += filler.step() {
		n := min(filler.step(), end-first)
		into := filler.room(first, n)
		for at, r := range c.index.Span(first, first+n) {
			read, err := readGuest(ctx, c.mem, r, into[(at-first)<<phys.PageShift:][:r.Size()], lost)
			if err != nil {
				return got, gaps, err
			}
			got += read
		}
		if err := filler.put(first, n); err != nil {
			return got, gaps, err
		}
	}
	return got, gaps, nil
}

// readersOf returns how many should read so many chunks of mem at a time, where there are
// processors for workers.
func readersOf(mem hv.Memory, workers, chunks int) int {
	return max(1, min(max(workers, hv.ReadCostOf(mem).Flight), chunks))
}

// chunksOf divides pages into pieces of copyPages at most.
func chunksOf(pages phys.Runs) []phys.Run { return piecesOf(pages, copyPages) }

// piecesOf divides pages into pieces of so many at most.
func piecesOf(pages phys.Runs, most uint64) []phys.Run {
	var out []phys.Run
	for _, r := range pages {
		for at := r.Base; at < r.End(); at += phys.PFN(most) {
			out = append(out, phys.Run{Base: at, Pages: min(most, uint64(r.End()-at))})
		}
	}
	return out
}

// readGuest fills b with the pages of r and returns how many it read. lost is
// told each page that can't be read and why; an error is the end of ctx or of
// the source.
func readGuest(ctx context.Context, mem phys.Reader, r phys.Run, b []byte, lost func(phys.PFN, error)) (read uint64, err error) {
	err = ctx.Err()
	if err == nil {
		err = phys.ReadPages(ctx, mem, r, b,
			func(r phys.Run, _ []byte) { read += r.Pages },
			func(p phys.PFN, _ []byte, err error) error {
				if errors.Is(err, hv.ErrNotRunning) {
					return err
				}
				lost(p, phys.GapReason(err))
				return nil
			})
	}
	if err != nil {
		return read, fmt.Errorf("copy the guest's memory: %w", err)
	}
	return read, nil
}
