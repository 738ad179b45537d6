package phys

import (
	"iter"
	"sort"
)

// Index numbers the pages of a set in ascending order, from 0 on: page to
// number and number to page, each by a search over the set's runs. It holds 8
// bytes for each indexStep runs. It is safe for concurrent use.
type Index struct {
	set   Runs
	first []uint64 // of each indexStep-th run: the number of its first page
	pages uint64
}

// indexStep is how many runs are counted one by one at most.
const indexStep = 16

// NewIndex returns the index of set, which must not be changed any more.
func NewIndex(set Runs) *Index {
	x := &Index{set: set, first: make([]uint64, 0, (len(set)+indexStep-1)/indexStep)}
	for i, r := range set {
		if i%indexStep == 0 {
			x.first = append(x.first, x.pages)
		}
		x.pages += r.Pages // can't overflow: disjoint runs of valid pages
	}
	return x
}

// Set returns the pages that x numbers.
func (x *Index) Set() Runs { return x.set }

// Pages returns how many pages x numbers.
func (x *Index) Pages() uint64 { return x.pages }

// Number returns the number of page p, and false if p is not in the set.
func (x *Index) Number(p PFN) (uint64, bool) {
	i, ok := x.set.Find(p)
	if !ok {
		return 0, false
	}
	return x.NumberOfRun(i) + uint64(p-x.set[i].Base), true
}

// NumberOfRun returns the number of the first page of run i of the set.
func (x *Index) NumberOfRun(i int) uint64 {
	n := x.first[i/indexStep]
	for _, r := range x.set[i&^(indexStep-1) : i] {
		n += r.Pages
	}
	return n
}

// Run returns the pages with the numbers from n on that follow each other in
// the guest's memory, at most limit of them. It is empty for an n from Pages
// on.
func (x *Index) Run(n, limit uint64) Run {
	if n >= x.pages {
		return Run{}
	}
	k := sort.Search(len(x.first), func(k int) bool { return x.first[k] > n }) - 1
	i, skip := k*indexStep, n-x.first[k]
	for skip >= x.set[i].Pages {
		skip -= x.set[i].Pages
		i++
	}
	return Run{Base: x.set[i].Base + PFN(skip), Pages: min(x.set[i].Pages-skip, limit)}
}

// Span yields the pages with the numbers from lo up to hi, run by run, each
// with the number of its first page. hi must not be above Pages.
func (x *Index) Span(lo, hi uint64) iter.Seq2[uint64, Run] {
	return func(yield func(uint64, Run) bool) {
		for n := lo; n < hi; {
			r := x.Run(n, hi-n)
			if !yield(n, r) {
				return
			}
			n += r.Pages
		}
	}
}
