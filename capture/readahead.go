package capture

import (
	"context"
	"sort"
	"sync"

	"snap/dump"
	"snap/hv"
	"snap/phys"
)

// How many pieces of a dear memory are kept while a dump is written from it, 4 MiB each.
const (
	piecesAhead  = 6 // of the furthest that was asked for: more than are under way at a time
	piecesBehind = 2 // of it: workers end their frames one by one
)

// readAhead returns mem for one writing of the dump that plan is of, and what ends it.
// Where reads of mem are dear, the pages of the dump are read ahead of who asks for
// them, in the dump's order, by large calls several of which are under way: a frame is
// small for a call, and the processors are fewer than the calls that pay. No other
// pages are read.
func readAhead(ctx context.Context, mem hv.Memory, plan *dump.Plan) (_ phys.Reader, end func()) {
	cost := hv.ReadCostOf(mem)
	if !cost.Dear() {
		return mem, func() {}
	}
	pages := pagesOfPlan(plan)
	if plan.Populated != nil {
		pages = pages.Intersect(plan.Populated)
	}
	a := &aheadReader{mem: mem, pieces: piecesOf(pages, max(1, cost.Most>>phys.PageShift)), kept: map[int]*piece{}}
	ctx, cancel := context.WithCancel(ctx)
	a.ctx, a.flight = ctx, make(chan struct{}, max(1, cost.Flight))
	return a, func() { cancel(); a.reads.Wait() }
}

// aheadReader reads pieces of a memory before they are asked for.
type aheadReader struct {
	mem    phys.Reader
	pieces []phys.Run // ascending
	ctx    context.Context
	flight chan struct{} // has a token for each call under way
	reads  sync.WaitGroup

	mu    sync.Mutex
	kept  map[int]*piece // by index in pieces: those around the furthest that was asked for
	first int            // that is kept
	next  int            // that isn't begun
}

// piece is one of the pieces, which is read or being read.
type piece struct {
	done chan struct{}
	b    []byte
	err  error
}

// ReadPhys implements phys.Reader.
func (a *aheadReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	start, whole := at, p
	for len(p) > 0 {
		i := sort.Search(len(a.pieces), func(i int) bool { return a.pieces[i].End().Addr() > at })
		if i == len(a.pieces) || at < a.pieces[i].Base.Addr() {
			break // none of the dump's pages
		}
		k := a.piece(i)
		if k == nil {
			break // long past
		}
		select {
		case <-k.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if k.err != nil {
			break
		}
		n := copy(p, k.b[at-a.pieces[i].Base.Addr():])
		p, at = p[n:], at+phys.Addr(n)
	}
	if len(p) == 0 {
		return nil
	}
	// Of what could not be read as a piece, a part may be there.
	return a.mem.ReadPhys(ctx, whole, start)
}

// piece returns piece i, and begins to read those that follow it. It is nil if it was
// kept and isn't any more.
func (a *aheadReader) piece(i int) *piece {
	a.mu.Lock()
	defer a.mu.Unlock()
	if i < a.first {
		return nil
	}
	for ; a.first < i-piecesBehind; a.first++ {
		delete(a.kept, a.first)
	}
	a.next = max(a.next, a.first)
	for ; a.next < len(a.pieces) && a.next <= i+piecesAhead; a.next++ {
		k := &piece{done: make(chan struct{})}
		a.kept[a.next] = k
		run := a.pieces[a.next]
		a.reads.Go(func() { a.read(k, run) })
	}
	return a.kept[i]
}

// read reads a piece. Those that were begun first need not be read first: all of them
// are needed soon.
func (a *aheadReader) read(k *piece, run phys.Run) {
	defer close(k.done)
	select {
	case a.flight <- struct{}{}:
		defer func() { <-a.flight }()
	case <-a.ctx.Done():
		k.err = a.ctx.Err()
		return
	}
	b := make([]byte, run.Size())
	if k.err = a.mem.ReadPhys(a.ctx, b, run.Base.Addr()); k.err == nil {
		k.b = b
	}
}
