package retention

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// at are verified items of one domain, named by their times: 2026-11-22T01:00.
func at(times ...string) []Item {
	var items []Item
	for _, s := range times {
		t, err := time.Parse("2006-01-02T15:04", s)
		if err != nil {
			panic(err)
		}
		items = append(items, Item{Domain: "web01", Origin: "host", Time: t, Size: 10, Verified: true})
	}
	return items
}

// kept says of each item what keeps it, "-" for nothing.
func kept(decisions []Decision) []string {
	var out []string
	for _, d := range decisions {
		s := strings.Join(d.Why, ", ")
		if !d.Keep {
			s = "-"
		}
		out = append(out, s)
	}
	return out
}

func TestRules(t *testing.T) {
	for _, tt := range []struct {
		name   string
		policy Policy
		items  []Item
		want   []string
	}{
		{
			"last, of any order",
			Policy{Last: 2},
			at("2026-11-20T01:00", "2026-11-22T01:00", "2026-11-21T01:00", "2026-11-19T01:00"),
			[]string{"-", "last, newest verified", "last", "-"},
		},
		{
			"the last of each day that has one",
			Policy{Daily: 2},
			at("2026-11-22T09:00", "2026-11-22T08:00", "2026-11-19T23:59", "2026-11-19T00:00", "2026-11-18T12:00"),
			[]string{"daily, newest verified", "-", "daily", "-", "-"},
		},
		{
			"hours",
			Policy{Hourly: 2},
			at("2026-11-22T09:59", "2026-11-22T09:00", "2026-11-22T08:59", "2026-11-21T09:00"),
			[]string{"hourly, newest verified", "-", "hourly", "-"},
		},
		{
			"weeks begin on Monday, also in the midst of which a year begins",
			Policy{Weekly: 3},
			at("2026-11-22T10:00", "2026-11-16T00:00", "2026-11-15T23:59", "2026-01-01T00:00", "2025-12-31T00:00"),
			[]string{"weekly, newest verified", "-", "weekly", "weekly", "-"},
		},
		{
			"months",
			Policy{Monthly: 2},
			at("2026-11-22T00:00", "2026-11-01T00:00", "2026-10-31T23:59", "2025-11-30T00:00"),
			[]string{"monthly, newest verified", "-", "monthly", "-"},
		},
		{
			"within, from the newest on and not from now",
			Policy{Within: 24 * time.Hour},
			at("2026-01-02T12:00", "2026-01-01T12:00", "2026-01-01T11:59"),
			[]string{"within, newest verified", "within", "-"},
		},
		{
			"any rule",
			Policy{Last: 1, Daily: 2, Monthly: 2},
			at("2026-11-22T09:00", "2026-11-21T09:00", "2026-11-20T09:00", "2026-10-20T09:00"),
			[]string{"last, daily, monthly, newest verified", "daily", "-", "monthly"},
		},
		{"nothing", Policy{Last: 1}, nil, nil},
		{"two of one time: the later in the list is newer", Policy{Last: 1}, at("2026-11-22T09:00", "2026-11-22T09:00"), []string{"-", "last, newest verified"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _ := Apply(tt.policy, tt.items, now)
			if diff := cmp.Diff(tt.want, kept(got)); diff != "" {
				t.Errorf("Apply (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMustStay is of what no rule and no cap lets go.
func TestMustStay(t *testing.T) {
	items := at("2026-11-22T11:00", "2026-11-21T11:00", "2026-11-20T11:00", "2026-11-19T11:00", "2026-11-22T12:11", "2026-11-22T12:10", "2026-11-01T00:00")
	items[0].Verified, items[5].Verified = false, false
	items[3].Until = now.Add(time.Second)
	items[2].Until = now
	items[6].Origin = "another host"
	want := []string{
		"-", "newest verified", "-", "the place keeps it until 2026-11-22 12:00:01 UTC",
		"it is of the future", "last", "newest verified",
	}
	got, total := Apply(Policy{Last: 1}, items, now)
	if diff := cmp.Diff(want, kept(got)); diff != "" {
		t.Errorf("Apply (-want +got):\n%s", diff)
	}
	if total != 50 {
		t.Errorf("%d bytes stay; want 50", total)
	}
	want[5] = "-"
	got, total = Apply(Policy{Last: 1, MaxTotal: 1}, items, now)
	if diff := cmp.Diff(want, kept(got)); diff != "" {
		t.Errorf("Apply with a cap (-want +got):\n%s", diff)
	}
	if total != 40 {
		t.Errorf("%d bytes stay with a cap; want 40", total)
	}
}

// TestCap: the oldest of all domains goes first, until the rest fits.
func TestCap(t *testing.T) {
	items := at("2026-11-22T00:00", "2026-11-21T00:00", "2026-11-20T00:00", "2026-11-19T00:00")
	items[2].Domain = "db01" // its only one
	for _, tt := range []struct {
		most  uint64
		want  []string
		total uint64
	}{
		{40, []string{"last, newest verified", "last", "last, newest verified", "last"}, 40},
		{39, []string{"last, newest verified", "last", "last, newest verified", "-"}, 30},
		{29, []string{"last, newest verified", "-", "last, newest verified", "-"}, 20},
		{1, []string{"last, newest verified", "-", "last, newest verified", "-"}, 20},
	} {
		got, total := Apply(Policy{Last: 10, MaxTotal: tt.most}, items, now)
		if diff := cmp.Diff(tt.want, kept(got)); diff != "" || total != tt.total {
			t.Errorf("Apply with at most %d: %d bytes stay; want %d (-want +got):\n%s", tt.most, total, tt.total, diff)
		}
	}
	items[1].Size = 1<<64 - 1
	if _, total := Apply(Policy{Last: 10}, items, now); total != 1<<64-1 {
		t.Errorf("%d bytes stay; want as many as a number has", total)
	}
}

func TestKeeps(t *testing.T) {
	if (Policy{MaxTotal: 1}).Keeps() {
		t.Error("a cap alone keeps dumps")
	}
	for _, p := range []Policy{{Last: 1}, {Hourly: 1}, {Daily: 1}, {Weekly: 1}, {Monthly: 1}, {Within: 1}} {
		if !p.Keeps() {
			t.Errorf("%+v keeps nothing", p)
		}
	}
}

// drawItems makes items of a few domains, origins and hours.
func drawItems(t *rapid.T) []Item {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Item {
		return Item{
			Domain:   rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "domain"),
			Origin:   rapid.SampledFrom([]string{"x", "y"}).Draw(t, "origin"),
			Time:     now.Add(-time.Duration(rapid.IntRange(-48, 24*400).Draw(t, "hours")) * time.Hour),
			Size:     rapid.Uint64Range(0, 100).Draw(t, "size"),
			Verified: rapid.Bool().Draw(t, "verified"),
			Until:    now.Add(time.Duration(rapid.IntRange(-5, 1).Draw(t, "until")) * time.Hour),
		}
	}), 0, 40).Draw(t, "items")
}

func drawPolicy(t *rapid.T) Policy {
	n := rapid.IntRange(0, 4)
	return Policy{
		Last: n.Draw(t, "last"), Hourly: n.Draw(t, "hourly"), Daily: n.Draw(t, "daily"), Weekly: n.Draw(t, "weekly"), Monthly: n.Draw(t, "monthly"),
		Within: time.Duration(rapid.IntRange(0, 100).Draw(t, "within")) * time.Hour, MaxTotal: rapid.Uint64Range(0, 500).Draw(t, "most"),
	}
}

// TestAlgebra is of what holds for all dumps and all policies.
func TestAlgebra(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items, p := drawItems(t), drawPolicy(t)
		got, total := Apply(p, items, now)

		var stays uint64
		newest := map[string]int{}
		for i, it := range items {
			if got[i].Keep {
				stays += it.Size
			}
			if len(got[i].Why) == 0 && got[i].Keep || got[i].Must && !got[i].Keep {
				t.Errorf("item %d: %+v", i, got[i])
			}
			if it.Until.After(now) && !got[i].Keep {
				t.Errorf("item %d goes, and the place keeps it", i)
			}
			if it.Time.After(now.Add(Skew)) {
				if !got[i].Keep {
					t.Errorf("item %d goes, and is of the future", i)
				}
				continue
			}
			key := it.Domain + it.Origin
			if k, ok := newest[key]; it.Verified && (!ok || !it.Time.Before(items[k].Time)) {
				newest[key] = i
			}
		}
		if stays != total {
			t.Errorf("%d bytes are said to stay; %d do", total, stays)
		}
		for key, i := range newest {
			if !got[i].Keep {
				t.Errorf("the newest verified item of %s, %d, goes", key, i)
			}
		}

		// What stays once, stays when the policy is applied to it again.
		var left []Item
		for i, it := range items {
			if got[i].Keep {
				left = append(left, it)
			}
		}
		again, _ := Apply(p, left, now)
		for i, d := range again {
			if !d.Keep {
				t.Errorf("item %+v stays at first and then goes: %+v", left[i], d)
			}
		}

		// Another domain's dumps change nothing without a cap.
		p.MaxTotal = 0
		all, _ := Apply(p, items, now)
		own := slices.DeleteFunc(slices.Clone(items), func(it Item) bool { return it.Domain != "a" })
		alone, _ := Apply(p, own, now)
		k := 0
		for i, it := range items {
			if it.Domain != "a" {
				continue
			}
			if diff := cmp.Diff(all[i], alone[k]); diff != "" {
				t.Errorf("item %d is judged by other domains' (-with +without):\n%s", i, diff)
			}
			k++
		}
	})
}

// TestMoreRulesKeepMore: a larger number never lets anything go that a smaller keeps.
func TestMoreRulesKeepMore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		items, p := drawItems(t), drawPolicy(t)
		p.MaxTotal = 0
		more := p
		more.Last, more.Hourly, more.Daily, more.Weekly, more.Monthly = p.Last+1, p.Hourly+1, p.Daily+1, p.Weekly+1, p.Monthly+1
		more.Within += time.Hour
		few, _ := Apply(p, items, now)
		many, _ := Apply(more, items, now)
		for i := range items {
			if few[i].Keep && !many[i].Keep {
				t.Errorf("item %d stays by %+v and goes by %+v", i, p, more)
			}
		}
	})
}

func ExampleApply() {
	day := 24 * time.Hour
	var items []Item
	for n := range 4 {
		items = append(items, Item{Domain: "web01", Time: now.Add(-time.Duration(n) * day), Size: 1 << 30, Verified: true})
	}
	decisions, total := Apply(Policy{Daily: 2}, items, now)
	for _, d := range decisions {
		fmt.Println(d.Keep, d.Why)
	}
	fmt.Println(total>>30, "GiB stay")
	// Output:
	// true [daily newest verified]
	// true [daily]
	// false []
	// false []
	// 2 GiB stay
}
