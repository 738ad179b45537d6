package phys

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// TestIndex holds an index against a plain list of the set's pages.
func TestIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set, model := drawRuns(t, "set")
		var pages []PFN // ascending: the number of a page is its place here
		for p := PFN(0); p < modelPages; p++ {
			if model[p] {
				pages = append(pages, p)
			}
		}
		x := NewIndex(set)
		if got, want := x.Pages(), uint64(len(pages)); got != want {
			t.Fatalf("Pages() = %d; want %d", got, want)
		}
		for p := PFN(0); p < modelPages+2; p++ {
			n, ok := x.Number(p)
			want := slices.Index(pages, p)
			if ok != (want >= 0) || ok && n != uint64(want) {
				t.Fatalf("Number(%d) = %d, %v; want %d in %v", p, n, ok, want, set)
			}
		}
		for i, r := range set {
			if got, want := x.NumberOfRun(i), uint64(slices.Index(pages, r.Base)); got != want {
				t.Fatalf("NumberOfRun(%d) = %d; want %d", i, got, want)
			}
		}
		lo := rapid.IntRange(0, len(pages)).Draw(t, "lo")
		hi := rapid.IntRange(lo, len(pages)).Draw(t, "hi")
		var got []PFN
		for n, r := range x.Span(uint64(lo), uint64(hi)) {
			if n != uint64(lo+len(got)) {
				t.Fatalf("Span(%d, %d) yields number %d after %d pages", lo, hi, n, len(got))
			}
			for p := r.Base; p < r.End(); p++ {
				got = append(got, p)
			}
		}
		if diff := cmp.Diff(pages[lo:hi], got, cmp.Comparer(func(a, b PFN) bool { return a == b })); diff != "" && hi > lo {
			t.Fatalf("Span(%d, %d) of %v: -want +got:\n%s", lo, hi, set, diff)
		}
		if hi == lo && len(got) > 0 {
			t.Fatalf("Span(%d, %d) yields %v; want nothing", lo, hi, got)
		}
	})
}

// TestIndexRun: a run ends with the pages that follow each other, with the
// limit, and beyond the last page is none.
func TestIndexRun(t *testing.T) {
	x := NewIndex(Runs{{Base: 10, Pages: 3}, {Base: 20, Pages: 2}})
	for _, tt := range []struct {
		n, limit uint64
		want     Run
	}{
		{0, 100, Run{10, 3}},
		{1, 100, Run{11, 2}},
		{1, 1, Run{11, 1}},
		{3, 100, Run{20, 2}},
		{4, 100, Run{21, 1}},
		{5, 100, Run{}},
		{^uint64(0), 1, Run{}},
	} {
		if got := x.Run(tt.n, tt.limit); got != tt.want {
			t.Errorf("Run(%d, %d) = %v; want %v", tt.n, tt.limit, got, tt.want)
		}
	}
	if got := NewIndex(nil).Run(0, 1); got != (Run{}) {
		t.Errorf("Run(0, 1) of no pages = %v; want none", got)
	}
}

// TestIndexOfManyRuns: what is counted from run to run is right at every one of them.
func TestIndexOfManyRuns(t *testing.T) {
	var set Runs
	at, n := PFN(3), uint64(0)
	var first []uint64
	for i := range 5*indexStep + 1 {
		r := Run{at, uint64(i%7 + 1)}
		set, first = append(set, r), append(first, n)
		at, n = r.End()+PFN(i%3+1), n+r.Pages
	}
	x := NewIndex(set)
	for i, r := range set {
		if got := x.NumberOfRun(i); got != first[i] {
			t.Errorf("NumberOfRun(%d) = %d; want %d", i, got, first[i])
		}
		for k := range r.Pages {
			if got, ok := x.Number(r.Base + PFN(k)); !ok || got != first[i]+k {
				t.Errorf("Number of page %d of run %d = %d, %v; want %d", k, i, got, ok, first[i]+k)
			}
			if got, want := x.Run(first[i]+k, 100), (Run{r.Base + PFN(k), r.Pages - k}); got != want {
				t.Errorf("Run from page %d of run %d = %v; want %v", k, i, got, want)
			}
		}
	}
	if x.Pages() != n {
		t.Errorf("Pages() = %d; want %d", x.Pages(), n)
	}
}

// TestSetOf: runs that are a set are that set, and others become one.
func TestSetOf(t *testing.T) {
	set := []Run{{1, 2}, {5, 1}}
	got, err := SetOf(set)
	if err != nil || !slices.Equal(got, set) || &got[0] != &set[0] {
		t.Errorf("SetOf(%v) = %v, %v; want it itself", set, got, err)
	}
	for _, rs := range [][]Run{{{5, 1}, {1, 2}}, {{1, 4}, {5, 1}}, {{1, 5}, {2, 1}}} {
		want, err := NewRuns(rs...)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := SetOf(rs); err != nil || !slices.Equal(got, want) {
			t.Errorf("SetOf(%v) = %v, %v; want %v", rs, got, err, want)
		}
	}
	if got, err := SetOf([]Run{{1, 0}}); err == nil {
		t.Errorf("SetOf of an empty run = %v; want an error", got)
	}
}
