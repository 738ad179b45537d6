package phys

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
)

// Run is a range of consecutive guest pages.
type Run struct {
	Base  PFN
	Pages uint64
}

// End returns the first page after r.
func (r Run) End() PFN { return r.Base + PFN(r.Pages) }

// Size returns the length of r in bytes.
func (r Run) Size() uint64 { return r.Pages << PageShift }

// Valid reports whether r has a page and ends within the guest-physical
// address space.
func (r Run) Valid() bool {
	limit := uint64(MaxAddr.PFN())
	return r.Pages > 0 && uint64(r.Base) < limit && r.Pages <= limit-uint64(r.Base)
}

func (r Run) String() string {
	return fmt.Sprintf("[%#x, %#x)", uint64(r.Base.Addr()), uint64(r.End().Addr()))
}

// RunOf returns the pages that the bytes [at, at+n) touch, and false where n
// is 0 or the range leaves the guest-physical address space.
func RunOf(at Addr, n uint64) (Run, bool) {
	end, ok := at.Add(n)
	if !ok || n == 0 {
		return Run{}, false
	}
	base := at.PFN()
	last := (end - 1).PFN()
	return Run{base, uint64(last-base) + 1}, true
}

// Runs is a set of guest pages: runs in ascending order that neither overlap
// nor touch. The zero value is the empty set. Operations never change their
// operands; a RAM map is a Runs.
type Runs []Run

// NewRuns returns the set of all pages in rs, which may be in any order and
// overlap. It fails on a run that is not Valid.
func NewRuns(rs ...Run) (Runs, error) {
	for _, r := range rs {
		if !r.Valid() {
			return nil, fmt.Errorf("run of %d pages from PFN %#x is empty or outside the %d-bit address space",
				r.Pages, uint64(r.Base), 52)
		}
	}
	return normalise(slices.Clone(rs)), nil
}

// SetOf is NewRuns of runs that nobody changes any more: where they are a set already it
// is they, which is not copied.
func SetOf(rs []Run) (Runs, error) {
	for i, r := range rs {
		if !r.Valid() || i > 0 && r.Base <= rs[i-1].End() {
			return NewRuns(rs...)
		}
	}
	return slices.Clip(Runs(rs)), nil
}

// normalise sorts and merges valid runs in place.
func normalise(rs []Run) Runs {
	slices.SortFunc(rs, func(a, b Run) int { return cmp.Compare(a.Base, b.Base) })
	out := rs[:0]
	for _, r := range rs {
		if n := len(out); n > 0 && r.Base <= out[n-1].End() {
			out[n-1].Pages = uint64(max(out[n-1].End(), r.End()) - out[n-1].Base)
			continue
		}
		out = append(out, r)
	}
	return Runs(out)
}

// Pages returns the number of pages in s.
func (s Runs) Pages() uint64 {
	var n uint64
	for _, r := range s {
		n += r.Pages
	}
	return n
}

// End returns the first page after the last run, 0 for the empty set.
func (s Runs) End() PFN {
	if len(s) == 0 {
		return 0
	}
	return s[len(s)-1].End()
}

// Find returns the index of the run that holds p, and false if none does. In
// that case the index is that of the first run after p.
func (s Runs) Find(p PFN) (int, bool) {
	i := sort.Search(len(s), func(i int) bool { return s[i].End() > p })
	return i, i < len(s) && s[i].Base <= p
}

// Has reports whether p is in s.
func (s Runs) Has(p PFN) bool {
	_, ok := s.Find(p)
	return ok
}

// Covers reports whether every byte of [at, at+n) lies in s. It is true for
// n = 0.
func (s Runs) Covers(at Addr, n uint64) bool {
	if n == 0 {
		return true
	}
	r, ok := RunOf(at, n)
	if !ok {
		return false
	}
	i, ok := s.Find(r.Base)
	return ok && r.End() <= s[i].End()
}

// Union returns the pages that are in s or in t.
func (s Runs) Union(t Runs) Runs {
	return normalise(slices.Concat(s, t))
}

// Intersect returns the pages that are in both s and t, whose runs may touch, and divide
// those of s then. Where that is all of s it is s itself.
func (s Runs) Intersect(t Runs) Runs {
	return s.parts(func(use func(int, Run)) { s.common(t, use) })
}

// parts returns the set of what each calls use with: parts of the runs of s in order, and
// the runs' indexes. Where that is all of s it is s itself: sets of very many runs aren't
// copied for nothing.
func (s Runs) parts(each func(use func(i int, r Run))) Runs {
	n, same := 0, true
	each(func(i int, r Run) {
		same = same && i == n && s[i] == r
		n++
	})
	switch {
	case n == 0:
		return nil
	case same && n == len(s):
		return slices.Clip(s)
	}
	out := make(Runs, 0, n)
	each(func(_ int, r Run) { out = append(out, r) })
	return out
}

// common calls use with each part of a run of s that lies in one of t, and the run's
// index.
func (s Runs) common(t Runs, use func(i int, r Run)) {
	for i, j := 0, 0; i < len(s) && j < len(t); {
		lo := max(s[i].Base, t[j].Base)
		hi := min(s[i].End(), t[j].End())
		if lo < hi {
			use(i, Run{lo, uint64(hi - lo)})
		}
		if s[i].End() < t[j].End() {
			i++
		} else {
			j++
		}
	}
}

// Minus returns the pages of s that are not in t. Where that is all of s it is s itself.
func (s Runs) Minus(t Runs) Runs {
	return s.parts(func(use func(int, Run)) { s.outside(t, use) })
}

// outside calls use with each part of a run of s that lies in none of t, and the run's
// index.
func (s Runs) outside(t Runs, use func(i int, r Run)) {
	j := 0
	for i, r := range s {
		at := r.Base
		for j < len(t) && t[j].End() <= at {
			j++
		}
		for k := j; k < len(t) && t[k].Base < r.End(); k++ {
			if t[k].Base > at {
				use(i, Run{at, uint64(t[k].Base - at)})
			}
			at = max(at, t[k].End())
		}
		if at < r.End() {
			use(i, Run{at, uint64(r.End() - at)})
		}
	}
}
