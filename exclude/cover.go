package exclude

import (
	"cmp"
	"container/heap"
	"iter"
	"slices"
)

// span is a half-open interval of page numbers with the index of the request it
// belongs to.
type span struct {
	lo, hi uint64
	owner  int
}

// owners is a heap of spans, the one with the smallest owner first.
type owners []span

func (o owners) Len() int           { return len(o) }
func (o owners) Less(i, j int) bool { return o[i].owner < o[j].owner }
func (o owners) Swap(i, j int)      { o[i], o[j] = o[j], o[i] }
func (o *owners) Push(x any)        { *o = append(*o, x.(span)) }
func (o *owners) Pop() any {
	old := *o
	last := old[len(old)-1]
	*o = old[:len(old)-1]
	return last
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
				heap.Push(&active, spans[next])
			}
			for len(active) > 0 && active[0].hi <= at {
				heap.Pop(&active)
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
