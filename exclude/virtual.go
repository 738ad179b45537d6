package exclude

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"

	"snap/phys"
)

// segment is virtual pages [lo, hi) that physical pages from pfn on are mapped
// to.
type segment struct {
	lo, hi uint64
	pfn    phys.PFN
}

// walk is one pass over the virtual address space, upwards through all ranges
// that are asked for. However much they overlap, each page table entry is
// looked at once: what a request maps is then a matter of counting segments.
//
// Where the pass meets a page that can't be left out, every range around that
// page is refused, and the pass goes on at the next range that begins later. So
// a range over all of memory costs no more than what lies before the first
// page of which this is known.
type walk struct {
	ground
	translator Translator
	steps      uint64 // left to do

	segments []segment // ascending and disjoint
	mapped   tally     // pages in segments
	lost     tally     // pages of which it isn't known where they are
	stops    []stop    // ascending
}

// tally counts virtual pages.
type tally struct {
	runs   []pageRun // ascending and disjoint
	before []uint64  // before[i] is the number of pages in runs[:i]
}

// pageRun is virtual pages [lo, hi).
type pageRun struct{ lo, hi uint64 }

// add adds pages above all that were added before.
func (c *tally) add(lo, hi uint64) {
	if n := len(c.runs); n > 0 && c.runs[n-1].hi == lo {
		c.runs[n-1].hi = hi
		return
	}
	c.runs = append(c.runs, pageRun{lo, hi})
}

// sum ends adding.
func (c *tally) sum() {
	c.before = make([]uint64, len(c.runs)+1)
	for i, r := range c.runs {
		c.before[i+1] = c.before[i] + r.hi - r.lo
	}
}

// below returns how many of the pages are below page.
func (c *tally) below(page uint64) uint64 {
	i := sort.Search(len(c.runs), func(i int) bool { return c.runs[i].hi > page })
	n := c.before[i]
	if i < len(c.runs) && c.runs[i].lo < page {
		n += page - c.runs[i].lo
	}
	return n
}

// within returns how many of the pages are in [lo, hi), and the first of them.
func (c *tally) within(lo, hi uint64) (n, first uint64) {
	if n = c.below(hi) - c.below(lo); n == 0 {
		return 0, 0
	}
	i := sort.Search(len(c.runs), func(i int) bool { return c.runs[i].hi > lo })
	return n, max(lo, c.runs[i].lo)
}

// stop is a virtual page that can't be left out.
type stop struct {
	page uint64
	why  obstacle
}

// extraSteps are for the holes of a small guest.
const extraSteps = 1 << 16

// newWalk does the pass over the spans, which it sorts.
func newWalk(ctx context.Context, g ground, t Translator, spans []span) (*walk, error) {
	w := &walk{ground: g, translator: t, steps: g.ram.Pages() + extraSteps}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
	var at, end uint64 // [at, end) is asked for by spans[:next]
	for next := 0; ; {
		for ; next < len(spans) && spans[next].lo <= at; next++ {
			end = max(end, spans[next].hi)
		}
		if at >= end {
			if next == len(spans) {
				break
			}
			at = spans[next].lo
			continue
		}
		done, why, err := w.step(ctx, at, end)
		if err != nil {
			return nil, err
		}
		at += done
		if why == (obstacle{}) {
			continue
		}
		w.stops = append(w.stops, stop{at, why})
		if why.status == StatusInsufficientResources {
			break // whatever lies beyond is refused likewise
		}
		// All spans that begin up to here end before this page or are refused.
		for ; next < len(spans) && spans[next].lo <= at; next++ {
		}
		at++
		end = at
	}
	w.mapped.sum()
	w.lost.sum()
	return w, nil
}

// step looks at virtual pages from at on, but not at end and beyond, and
// returns how many of them are done with. If the page after them can't be left
// out, it says why. The error is the context's.
func (w *walk) step(ctx context.Context, at, end uint64) (uint64, obstacle, error) {
	if w.steps == 0 {
		return 0, outOfSteps, nil
	}
	w.steps--
	if err := ctx.Err(); err != nil {
		return 0, obstacle{}, fmt.Errorf("translate virtual ranges to leave out: %w", err)
	}
	e, err := w.translator.Extent(ctx, phys.VirtAddr(at<<phys.PageShift))
	if err != nil {
		if ctx.Err() != nil {
			return 0, obstacle{}, fmt.Errorf("translate virtual ranges to leave out: %w", err)
		}
		return 0, obstacle{StatusDataError, "page tables can't be read: " + err.Error()}, nil
	}
	pages := min(max(e.Size>>phys.PageShift, 1), end-at)
	switch e.Residence {
	case phys.Absent:
		return pages, obstacle{}, nil
	case phys.Resident:
	default:
		if len(w.lost.runs) == MaxFragments {
			return 0, outOfPieces, nil
		}
		w.lost.add(at, at+pages)
		return pages, obstacle{}, nil
	}
	base := e.At.PFN()
	bad, why, ok := w.check(phys.Run{Base: base, Pages: pages})
	if !ok {
		pages = uint64(bad - base)
	}
	if !w.add(segment{at, at + pages, base}) {
		return 0, outOfPieces, nil
	}
	return pages, why, nil
}

// add appends s, unless there are too many segments.
func (w *walk) add(s segment) bool {
	if s.lo == s.hi {
		return true
	}
	w.mapped.add(s.lo, s.hi)
	if n := len(w.segments); n > 0 {
		last := &w.segments[n-1]
		if last.hi == s.lo && last.pfn+phys.PFN(last.hi-last.lo) == s.pfn {
			last.hi = s.hi
			return true
		}
	}
	if len(w.segments) == MaxFragments {
		return false
	}
	w.segments = append(w.segments, s)
	return true
}

// stopIn returns the first page in [lo, hi) that can't be left out, and why; ok
// if there is none. [lo, hi) must be one of the spans of the pass.
func (w *walk) stopIn(lo, hi uint64) (page uint64, why obstacle, ok bool) {
	i := sort.Search(len(w.stops), func(i int) bool { return w.stops[i].page >= lo })
	if i < len(w.stops) && w.stops[i].page < hi {
		return w.stops[i].page, w.stops[i].why, false
	}
	if n := len(w.stops); n > 0 && w.stops[n-1].why.status == StatusInsufficientResources && hi > w.stops[n-1].page {
		return lo, w.stops[n-1].why, false // the pass never came here
	}
	return 0, obstacle{}, true
}

// appendPhysical appends to out the physical pages behind the spans, which
// cover sorts and disentangles.
func (w *walk) appendPhysical(out, spans []span) []span {
	out = slices.Grow(out, len(w.segments)+2*len(spans))
	i := 0
	for v := range cover(spans) {
		for i < len(w.segments) && w.segments[i].hi <= v.lo {
			i++
		}
		for j := i; j < len(w.segments) && w.segments[j].lo < v.hi; j++ {
			s := w.segments[j]
			lo, hi := max(s.lo, v.lo), min(s.hi, v.hi)
			base := uint64(s.pfn) + lo - s.lo
			out = append(out, span{base, base + hi - lo, v.owner})
		}
	}
	return out
}
