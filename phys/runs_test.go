package phys

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// pageSet is the model that the run algebra is held against.
type pageSet map[PFN]bool

const modelPages = 64

func drawRuns(t *rapid.T, label string) (Runs, pageSet) {
	raw := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Run {
		base := rapid.Uint64Range(0, modelPages-1).Draw(t, "base")
		return Run{PFN(base), rapid.Uint64Range(1, modelPages-base).Draw(t, "pages")}
	}), 0, 8).Draw(t, label)
	model := pageSet{}
	for _, r := range raw {
		for p := r.Base; p < r.End(); p++ {
			model[p] = true
		}
	}
	runs, err := NewRuns(raw...)
	if err != nil {
		t.Fatalf("NewRuns(%v) failed: %v", raw, err)
	}
	return runs, model
}

func checkAgainst(t *rapid.T, what string, got Runs, has func(PFN) bool) {
	var want uint64
	for p := PFN(0); p < modelPages; p++ {
		if got.Has(p) != has(p) {
			t.Fatalf("%s: Has(%d) = %v; want %v in %v", what, p, got.Has(p), has(p), got)
		}
		if has(p) {
			want++
		}
	}
	if got.Pages() != want {
		t.Fatalf("%s: Pages() = %d; want %d", what, got.Pages(), want)
	}
	for i, r := range got {
		if !r.Valid() || (i > 0 && got[i-1].End() >= r.Base) {
			t.Fatalf("%s: run %d of %v is out of form", what, i, got)
		}
	}
}

func TestRunsAlgebra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, ma := drawRuns(t, "a")
		b, mb := drawRuns(t, "b")
		checkAgainst(t, "a", a, func(p PFN) bool { return ma[p] })
		checkAgainst(t, "union", a.Union(b), func(p PFN) bool { return ma[p] || mb[p] })
		checkAgainst(t, "intersect", a.Intersect(b), func(p PFN) bool { return ma[p] && mb[p] })
		checkAgainst(t, "minus", a.Minus(b), func(p PFN) bool { return ma[p] && !mb[p] })

		start := rapid.Uint64Range(0, modelPages*PageSize-1).Draw(t, "start")
		n := rapid.Uint64Range(0, 3*PageSize).Draw(t, "n")
		want := true
		for at := start; at < start+n; at++ {
			want = want && ma[Addr(at).PFN()]
		}
		if got := a.Covers(Addr(start), n); got != want {
			t.Fatalf("Covers(%#x, %d) = %v; want %v in %v", start, n, got, want, a)
		}
	})
}

func TestNewRunsRefuses(t *testing.T) {
	for _, r := range []Run{
		{0, 0},
		{MaxAddr.PFN(), 1},
		{MaxAddr.PFN() - 1, 2},
		{1, ^uint64(0)},
	} {
		if got, err := NewRuns(r); err == nil {
			t.Errorf("NewRuns(%v) = %v; want an error", r, got)
		}
	}
}

func TestRunOf(t *testing.T) {
	tests := []struct {
		at   Addr
		n    uint64
		want Run
		ok   bool
	}{
		{0, 1, Run{0, 1}, true},
		{0xfff, 1, Run{0, 1}, true},
		{0xfff, 2, Run{0, 2}, true},
		{0x1000, 0x1000, Run{1, 1}, true},
		{0x1000, 0x1001, Run{1, 2}, true},
		{0x1000, 0, Run{}, false},
		{MaxAddr - 1, 1, Run{MaxAddr.PFN() - 1, 1}, true},
		{MaxAddr - 1, 2, Run{}, false},
		{0x1000, ^uint64(0), Run{}, false},
	}
	for _, tt := range tests {
		got, ok := RunOf(tt.at, tt.n)
		if ok != tt.ok || !cmp.Equal(got, tt.want) {
			t.Errorf("RunOf(%#x, %#x) = %v, %v; want %v, %v", tt.at, tt.n, got, ok, tt.want, tt.ok)
		}
	}
}

func TestVirtAddrHalves(t *testing.T) {
	tests := []struct {
		v                 VirtAddr
		canonical, kernel bool
	}{
		{0, true, false},
		{0x7fff_ffff_ffff, true, false},
		{0x8000_0000_0000, true, false},
		{0xff_ffff_ffff_ffff, true, false},
		{0x100_0000_0000_0000, false, false},
		{0xfeff_ffff_ffff_ffff, false, false},
		{0xff00_0000_0000_0000, true, true},
		{0xffff_7fff_ffff_ffff, true, true},
		{0xffff_8000_0000_0000, true, true},
		{^VirtAddr(0), true, true},
	}
	for _, tt := range tests {
		if tt.v.Canonical() != tt.canonical || tt.v.Kernel() != tt.kernel {
			t.Errorf("%#x: Canonical, Kernel = %v, %v; want %v, %v",
				tt.v, tt.v.Canonical(), tt.v.Kernel(), tt.canonical, tt.kernel)
		}
	}
}
