package phys

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestRunBuilder: whatever runs there are, all pages of each are in the set; it is no
// larger than it may be, and what is more in it lies between runs that are near.
func TestRunBuilder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := RunBuilder{Most: rapid.IntRange(1, 8).Draw(t, "most")}
		var in []Run
		at := PFN(0)
		for range rapid.IntRange(0, 60).Draw(t, "runs") {
			at += PFN(rapid.SampledFrom([]int{0, 1, 2, 100, 1 << 20}).Draw(t, "gap"))
			r := Run{at, rapid.Uint64Range(1, 1000).Draw(t, "pages")}
			at = r.End()
			if rapid.Bool().Draw(t, "overlaps") {
				at = r.Base
			}
			if n := len(in); n > 0 && r.End() < in[n-1].End() {
				continue
			}
			in = append(in, r)
			b.Add(r)
		}
		want, err := NewRuns(in...)
		if err != nil {
			t.Fatal(err)
		}
		got := b.Runs()
		if len(got) > b.Most || len(want) <= b.Most && !slices.Equal(got, want) || got == nil {
			t.Fatalf("%v of %v; want at most %d runs, and no other pages if there are no more", got, want, b.Most)
		}
		if again, err := NewRuns(got...); err != nil || !slices.Equal(again, got) {
			t.Fatalf("%v is no set: %v", got, err)
		}
		if left := want.Minus(got); len(left) > 0 {
			t.Fatalf("%v are not in %v", left, got)
		}
	})
	b := RunBuilder{Most: 2}
	for _, r := range []Run{{0, 10}, {20, 10}, {1 << 20, 10}, {1<<20 + 100, 10}} {
		b.Add(r)
	}
	if got, want := b.Runs(), (Runs{{0, 30}, {1 << 20, 110}}); !slices.Equal(got, want) {
		t.Errorf("runs are %v; want %v", got, want)
	}
}
