package exclude

import (
	"cmp"
	"iter"
	"slices"
)

// span is a half-open interval of page numbers with the index of the request it
// belongs to.
type span struct {
	lo, hi uint64
	owner  int
}

// owners is a binary heap of spans, the one with the smallest owner first. It
// is container/heap without an allocation for each span.
type owners []span

func (o *owners) push(s span) {
	*o = append(*o, s)
	h := *o
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if h[parent].owner <= h[i].owner {
			return
		}
		h[parent], h[i] = h[i], h[parent]
		i = parent
	}
}

// pop removes the first span. There must be one.
func (o *owners) pop() {
	h := *o
	last := len(h) - 1
	h[0] = h[last]
	h = h[:last]
	*o = h
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return
		}
		if child+1 < last && h[child+1].owner < h[child].owner {
			child++
		}
		if h[i].owner <= h[child].owner {
			return
		}
		h[i], h[child] = h[child], h[i]
		i = child
	}
}

// cover yields the points that the spans cover, as ascending disjoint spans,
// each owned by the smallest owner that covers it. There are at most twice as
// many as went in, and all of them take O(n log n). It sorts spans in place.
func cover(spans []span) iter.Seq[span] {
	return func(yield func(span) bool) {
		slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.lo, b.lo) })
		var pending span // what is still growing, if it isn't empty
		for s := range pieces(spans) {
			if s.owner == pending.owner && s.lo == pending.hi {
				pending.hi = s.hi
				continue
			}
			if pending.hi > pending.lo && !yield(pending) {
				return
			}
			pending = s
		}
		if pending.hi > pending.lo {
			yield(pending)
		}
	}
}

// pieces is cover for sorted spans, except that neighbours may have the same
// owner.
func pieces(spans []span) iter.Seq[span] {
	return func(yield func(span) bool) {
		var (
			active owners
			at     uint64
		)
		for next := 0; next < len(spans) || len(active) > 0; {
			if len(active) == 0 {
				at = max(at, spans[next].lo)
			}
			for ; next < len(spans) && spans[next].lo <= at; next++ {
				active.push(spans[next])
			}
			for len(active) > 0 && active[0].hi <= at {
				active.pop()
			}
			if len(active) == 0 {
				continue
			}
			// The smallest owner has it from here to its end, or to where another
			// span begins, which may have a smaller owner.
			end := active[0].hi
			if next < len(spans) {
				end = min(end, spans[next].lo)
			}
			if !yield(span{at, end, active[0].owner}) {
				return
			}
			at = end
		}
	}
}
