// Package retention decides which dumps stay, by rules and nothing else: it knows no
// place and removes nothing.
//
// Rules are those of other backup programs. A rule for hours, days, weeks or months
// goes through the dumps of a domain from the newest on, and keeps the last one of each
// of the last N such periods that have one: a period without a dump doesn't count. A
// dump stays if any rule keeps it. Periods are those of UTC, as dumps' names have it;
// weeks begin on Monday (ISO 8601), months and days are those of the calendar.
//
// Whatever the rules say, the newest verified dump of each domain stays, what the place
// keeps itself stays, and a dump of the future stays: the clock was wrong, so nothing
// is known of its age. That one keeps the place of no other.
package retention

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Policy is what stays. The zero value of each rule keeps nothing.
type Policy struct {
	Last    int // so many of the newest
	Hourly  int // the last of each of so many hours that have one
	Daily   int
	Weekly  int
	Monthly int

	// Within keeps what isn't older than the newest of the domain by more than that.
	Within time.Duration

	// MaxTotal is how many bytes may stay in all, 0 for any number: of all domains'
	// dumps the oldest goes first. What must stay does so all the same.
	MaxTotal uint64
}

// Keeps reports whether any rule keeps dumps: without one, nearly all would go.
func (p Policy) Keeps() bool {
	return p.Last > 0 || p.Hourly > 0 || p.Daily > 0 || p.Weekly > 0 || p.Monthly > 0 || p.Within > 0
}

// Item is a dump.
type Item struct {
	Domain   string    // what rules count within; items of one domain have the same
	Origin   string    // where of that domain's the dump comes from, see Apply
	Time     time.Time // of which moment it is
	Size     uint64    // bytes
	Verified bool
	Until    time.Time // until when the place keeps it; zero if that isn't known
}

// Decision is what becomes of an item.
type Decision struct {
	Keep bool
	Must bool     // it stays whatever rules and MaxTotal say
	Why  []string // it stays, or goes though a rule would have kept it; for people
}

// Skew is how far a dump's time may be behind now, by the difference of two hosts'
// clocks, before it is one of the future.
const Skew = 10 * time.Minute

// Apply decides about each item, in their order. Of each domain, the newest verified
// item of each origin must stay: whoever claims to be a domain, and comes from
// elsewhere, doesn't make the last one go. total is how many bytes stay.
func Apply(p Policy, items []Item, now time.Time) (decisions []Decision, total uint64) {
	decisions = make([]Decision, len(items))
	domains := map[string][]int{}
	for i, it := range items {
		if it.Time.After(now.Add(Skew)) {
			must(&decisions[i], "it is of the future")
			continue
		}
		domains[it.Domain] = append(domains[it.Domain], i)
	}
	for _, of := range domains {
		newestFirst(items, of)
		p.applyRules(items, of, decisions)
		keepVerified(items, of, decisions)
	}
	for i, it := range items {
		if it.Until.After(now) {
			must(&decisions[i], "the place keeps it until "+it.Until.UTC().Format(time.DateTime)+" UTC")
		}
	}
	return decisions, p.cap(items, decisions)
}

func must(d *Decision, why string) {
	d.Keep, d.Must = true, true
	d.Why = append(d.Why, why)
}

// newestFirst sorts indexes of items. Of two of one time, that which comes first in
// the list is the older one.
func newestFirst(items []Item, of []int) {
	slices.SortFunc(of, func(a, b int) int {
		return cmp.Or(items[b].Time.Compare(items[a].Time), cmp.Compare(b, a))
	})
}

// rule keeps the newest of each of the last n periods that have one.
type rule struct {
	n      int
	name   string
	period func(time.Time) string
}

// rules returns those for periods; each item of keep-last has a period of its own.
func (p Policy) rules() []rule {
	return []rule{
		{p.Last, "last", func(t time.Time) string { return "" }},
		{p.Hourly, "hourly", func(t time.Time) string { return t.Format("2006-01-02 15") }},
		{p.Daily, "daily", func(t time.Time) string { return t.Format(time.DateOnly) }},
		{p.Weekly, "weekly", func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("%d-%d", y, w) }},
		{p.Monthly, "monthly", func(t time.Time) string { return t.Format("2006-01") }},
	}
}

// applyRules marks what rules keep of one domain's items, which are sorted.
func (p Policy) applyRules(items []Item, of []int, decisions []Decision) {
	for _, r := range p.rules() {
		last := ""
		for n, k := 0, 0; n < r.n && k < len(of); k++ {
			period := r.period(items[of[k]].Time.UTC())
			if period != "" && period == last {
				continue
			}
			last = period
			n++
			d := &decisions[of[k]]
			d.Keep, d.Why = true, append(d.Why, r.name)
		}
	}
	if p.Within <= 0 || len(of) == 0 {
		return
	}
	oldest := items[of[0]].Time.Add(-p.Within)
	for _, i := range of {
		if !items[i].Time.Before(oldest) {
			d := &decisions[i]
			d.Keep, d.Why = true, append(d.Why, "within")
		}
	}
}

// keepVerified keeps the newest verified item of each origin.
func keepVerified(items []Item, of []int, decisions []Decision) {
	have := map[string]bool{}
	for _, i := range of {
		if it := items[i]; it.Verified && !have[it.Origin] {
			have[it.Origin] = true
			must(&decisions[i], "newest verified")
		}
	}
}

// cap lets the oldest go until the rest fits: of those that may go, the newest stay
// for as long as the next one fits, too. It returns what the rest takes.
func (p Policy) cap(items []Item, decisions []Decision) (total uint64) {
	var free []int
	for i, d := range decisions {
		switch {
		case d.Must:
			total = sum(total, items[i].Size)
		case d.Keep:
			free = append(free, i)
		}
	}
	newestFirst(items, free)
	full := false
	for _, i := range free {
		with := sum(total, items[i].Size)
		if full = full || p.MaxTotal > 0 && with > p.MaxTotal; full {
			decisions[i] = Decision{Why: []string{"above the total"}}
			continue
		}
		total = with
	}
	return total
}

// sum adds sizes, up to the largest that there is.
func sum(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}
