package guest

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"snap/phys"
)

// maxScanners bounds the processors that a scan of RAM uses, and so the memory that
// it takes: a block for each, twice.
const maxScanners = 16

// scanBlock is how much of RAM one read of a scan takes, bytes: so little that what was
// read is in the processor's cache when it is looked at, and so much that a read's own
// cost doesn't count.
const scanBlock = 512 << 10

// ramScan is a search of RAM for pages of a kind, by all processors of the host.
type ramScan struct {
	mem  phys.Reader
	area phys.Runs
	gone atomic.Bool // the source counts as dead, and isn't asked for single pages any more
	// like reports whether a page, at an address, is of the kind. It is called by
	// several goroutines at a time.
	like func(page []byte, at phys.Addr) bool
	// scanned is told how many bytes of the area are done, in one goroutine.
	scanned func(done, total uint64)
}

// scannedBlock is what came of a block.
type scannedBlock struct {
	found      []phys.Addr
	read, lost uint64 // pages
	reads      watchedReader
}

// each calls visit with each page of the kind, in ascending order of address whichever
// processor found it first, until it returns false. It fails only when ctx ends, which
// it does at once. What could not be read is passed over, and to is told of it.
func (s *ramScan) each(ctx context.Context, to *watchedReader, visit func(phys.Addr) bool) error {
	inner, cancel := context.WithCancel(ctx)
	workers := min(runtime.GOMAXPROCS(0), maxScanners)
	tasks := make(chan scanTask)
	ordered := make(chan chan scannedBlock, workers) // in the order of the area
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	for range workers {
		group.Go(func() { s.work(inner, tasks) })
	}
	group.Go(func() { s.hand(inner, tasks, ordered) })

	total, done := s.area.Pages()<<phys.PageShift, uint64(0)
	dead := phys.DeadStretch{Limit: maxDeadChunks}
	for result := range ordered {
		var b scannedBlock
		select {
		case b = <-result:
		case <-ctx.Done():
			return ctx.Err()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		to.add(&b.reads)
		s.gone.Store(dead.Add(b.read, b.lost))
		for _, at := range b.found {
			if !visit(at) {
				return ctx.Err()
			}
		}
		if done += (b.read + b.lost) << phys.PageShift; s.scanned != nil {
			s.scanned(done, total)
		}
	}
	return ctx.Err()
}

// scanTask is a block to scan, and where its result goes.
type scanTask struct {
	run    phys.Run
	result chan<- scannedBlock // of capacity 1
}

// hand hands out the blocks of the area in ascending order, and promises their results
// in that order.
func (s *ramScan) hand(ctx context.Context, tasks chan<- scanTask, ordered chan<- chan scannedBlock) {
	defer close(ordered)
	defer close(tasks)
	for _, r := range s.area {
		for p := r.Base; p < r.End(); {
			run := phys.Run{Base: p, Pages: min(uint64(r.End()-p), scanBlock>>phys.PageShift)}
			result := make(chan scannedBlock, 1)
			select {
			case ordered <- result:
			case <-ctx.Done():
				return
			}
			select {
			case tasks <- scanTask{run, result}:
			case <-ctx.Done():
				return
			}
			p = run.End()
		}
	}
}

// work scans blocks until there are no more.
func (s *ramScan) work(ctx context.Context, tasks <-chan scanTask) {
	buf := make([]byte, scanBlock)
	for t := range tasks {
		t.result <- s.block(ctx, t.run, buf[:t.run.Size()])
	}
}

// block scans a block, around pages of it that can't be read.
func (s *ramScan) block(ctx context.Context, run phys.Run, buf []byte) scannedBlock {
	out := scannedBlock{reads: watchedReader{Reader: phys.Anew(s.mem)}}
	err := phys.ReadPages(ctx, &out.reads, run, buf, func(part phys.Run, b []byte) {
		out.read += part.Pages
		for off := 0; off < len(b); off += phys.PageSize {
			if at := part.Base.Addr() + phys.Addr(off); s.like(b[off:off+phys.PageSize], at) {
				out.found = append(out.found, at)
			}
		}
	}, func(_ phys.PFN, _ []byte, err error) error {
		out.lost++
		if s.gone.Load() {
			return err
		}
		return nil
	})
	if err != nil { // of the source, or it is gone: the rest of the block isn't read
		out.lost = run.Pages - out.read
	}
	return out
}

// populated returns the pages of ram that can hold anything but zeros, as far as mem
// knows.
func populated(ctx context.Context, mem phys.Reader, ram phys.Runs) phys.Runs {
	sparse, ok := mem.(phys.Sparse)
	if !ok {
		return ram
	}
	set, known, err := sparse.Populated(ctx)
	if err != nil || !known {
		return ram
	}
	return set.Intersect(ram)
}
