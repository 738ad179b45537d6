package exclude

import (
	"context"
	"fmt"

	"snap/phys"
)

// NewPlan judges all requests and puts the pages of those that are honoured
// together.
//
// A request is honoured as a whole or refused as a whole. It is refused if it
// is malformed, if it touches memory outside the RAM map, if it touches a
// protected page, or if looking at it would cost too much. So a request for
// all of memory leaves out nothing instead of everything but the page tables,
// and no request says anything about its neighbours: a driver with one wrong
// entry still gets the others. What page tables say nothing of is the one thing
// that a request doesn't get while it gets the rest; Plan.Unmet counts all that
// somebody asked for and doesn't get.
//
// Requests may overlap; each page counts once. If more pages than the limit
// would be left out, the error is a *TooManyError, and the plan comes with it,
// to be shown but not to be used. The only other error is that of the context,
// without a plan.
func NewPlan(ctx context.Context, in Input) (*Plan, error) {
	p := planner{Input: in, ground: ground{ram: in.RAM, protected: in.Protected}}
	p.verdicts = make([]verdict, len(in.Requests))
	p.judge()
	if err := p.translate(ctx); err != nil {
		return nil, err
	}
	plan := p.plan()
	return plan, p.overLimit(plan)
}

// planner is a plan in the making.
type planner struct {
	Input
	ground   ground
	verdicts []verdict // one for each request

	virtual []span // requests, by virtual page, that still may be honoured
	pages   []span // requests, by physical page, that are honoured
}

// verdict is what became of a request. Without obstacle and ignored, it is
// honoured.
type verdict struct {
	obstacle          // if set, refused
	at         uint64 // address of the page that the obstacle is about
	ignored    string // if set, why
	alike      int    // further requests that are refused along with this one
	folded     bool   // refused along with an earlier one
	moot       bool   // refused, and nothing of it is in RAM
	kept       bool   // ignored, and it is in the dump
	notPresent uint64 // pages
	unresolved uint64 // pages
	firstLost  uint64 // virtual page that is the first of the unresolved
}

// judge decides on everything that needs no page table.
func (p *planner) judge() {
	seen, seenBy := 0, map[string]int{}
	overQuotaBy := map[string]*verdict{}
	for i, r := range p.Requests {
		v := &p.verdicts[i]
		v.at = r.Address
		if r.Reason != Advertised {
			p.judgeOne(i, r, v)
			continue
		}
		seen++
		seenBy[r.By]++
		if seen <= MaxRequests && seenBy[r.By] <= MaxRequestsBy {
			p.judgeOne(i, r, v)
			continue
		}
		v.obstacle = overQuota
		if first := overQuotaBy[r.By]; first != nil {
			first.alike++
			v.folded = true
			continue
		}
		overQuotaBy[r.By] = v
	}
}

func (p *planner) judgeOne(i int, r Request, v *verdict) {
	entry := RemovePages{Flags: r.Flags, BugCheckCode: r.BugCheckCode, Address: r.Address, Count: r.Pages}
	status := entry.Status()
	switch {
	case r.Pages == 0:
		v.ignored = "asks for no pages"
	case status == StatusInvalidParameter4:
		v.obstacle = unknownFlags
	case status != StatusSuccess:
		v.obstacle = notOneKind
	case !entry.AppliesTo(p.BugCheckCode):
		v.ignored = fmt.Sprintf("is for bug check %#x", r.BugCheckCode)
	case p.keeps(r):
		v.ignored, v.kept = "advertised ranges are kept", true
	case r.Kind() == Physical:
		p.judgePhysical(i, r, v)
	default:
		p.judgeVirtual(i, r, v)
	}
}

// keeps reports whether what r asks for is kept, whatever it is.
func (p *planner) keeps(r Request) bool { return r.Reason == Advertised && p.KeepAdvertised }

func (p *planner) judgePhysical(i int, r Request, v *verdict) {
	run, ok := r.physicalRun()
	if !ok {
		v.obstacle, v.moot = notPhysical, p.RAM.End() <= run.Base
		return
	}
	if bad, why, ok := p.ground.check(run); !ok {
		v.obstacle, v.at = why, uint64(bad.Addr())
		v.moot = len(p.RAM.Intersect(phys.Runs{run})) == 0
		return
	}
	p.pages = append(p.pages, span{uint64(run.Base), uint64(run.End()), i})
}

func (p *planner) judgeVirtual(i int, r Request, v *verdict) {
	canonical := phys.VirtAddr.Canonical
	if p.Translator != nil {
		canonical = p.Translator.Canonical
	}
	s, ok := r.virtualSpan(canonical)
	switch {
	case !ok:
		v.obstacle, v.moot = notCanonical, r.outsideOfBothHalves(canonical)
	case p.Translator == nil:
		v.obstacle = noTranslator
	default:
		s.owner = i
		p.virtual = append(p.virtual, s)
	}
}

// translate decides on the virtual requests and finds their physical pages.
func (p *planner) translate(ctx context.Context) error {
	if len(p.virtual) == 0 {
		return nil
	}
	w, err := newWalk(ctx, p.ground, p.Translator, p.virtual)
	if err != nil {
		return err
	}
	honoured := p.virtual[:0]
	for _, s := range p.virtual {
		v := &p.verdicts[s.owner]
		if page, why, ok := w.stopIn(s.lo, s.hi); !ok {
			v.obstacle, v.at = why, page<<phys.PageShift
			v.moot = why == outsideRAM && s.hi-s.lo == 1
			continue
		}
		v.unresolved, v.firstLost = w.lost.within(s.lo, s.hi)
		mapped, _ := w.mapped.within(s.lo, s.hi)
		v.notPresent = (s.hi - s.lo) - mapped - v.unresolved
		honoured = append(honoured, s)
	}
	p.pages = w.appendPhysical(p.pages, honoured)
	return nil
}

// plan puts everything together.
func (p *planner) plan() *Plan {
	excluded := make([]uint64, len(p.Requests))
	var runs []phys.Run
	for s := range cover(p.pages) {
		excluded[s.owner] += s.hi - s.lo
		if n := len(runs); n > 0 && uint64(runs[n-1].End()) == s.lo {
			runs[n-1].Pages += s.hi - s.lo
			continue
		}
		runs = append(runs, phys.Run{Base: phys.PFN(s.lo), Pages: s.hi - s.lo})
	}
	plan := &Plan{Exclude: runs}
	for i, r := range p.Requests {
		switch v := p.verdicts[i]; {
		case v.folded:
		case v.status != StatusSuccess:
			plan.Refused = append(plan.Refused, Refusal{
				Request: r, Status: v.status, Reason: v.reason, At: v.at, Requests: 1 + v.alike,
				Moot: v.moot || p.keeps(r),
			})
		case v.ignored != "":
			plan.Ignored = append(plan.Ignored, Ignored{r, v.ignored, v.kept})
		default:
			plan.Entries = append(plan.Entries, Entry{
				Request: r, Excluded: excluded[i], NotPresent: v.notPresent,
				Shared:     r.Pages - v.notPresent - v.unresolved - excluded[i],
				Unresolved: v.unresolved, UnresolvedAt: phys.VirtAddr(v.firstLost << phys.PageShift),
			})
		}
	}
	return plan
}

// overLimit returns a *TooManyError if the plan leaves out too much.
func (p *planner) overLimit(plan *Plan) error {
	total := p.RAM.Pages()
	limit := p.Limit
	if limit == 0 {
		limit = total / 2
	}
	excluded := plan.Exclude.Pages()
	if excluded <= limit {
		return nil
	}
	e := &TooManyError{Excluded: excluded, Limit: limit, Total: total}
	by := map[string]uint64{}
	for _, entry := range plan.Entries {
		by[entry.Request.By] += entry.Excluded
		if n := by[entry.Request.By]; n > e.ByPages {
			e.By, e.ByPages = entry.Request.By, n
		}
	}
	return e
}
