package capture

import (
	"context"
	"errors"
	"fmt"

	"snap/dump"
	"snap/exclude"
	"snap/guest"
	"snap/header"
	"snap/phys"
)

// neededPages returns the pages without which the dump could not be opened. Where
// not all of them can be told, nothing may be left out: that is an error if the
// operator asks for anything.
func (a *Analysis) neededPages(ctx context.Context, x *Exclusion) ([]guest.ProtectedPages, error) {
	a.keeps = x.NoAdvertised
	needed, err := a.System.Protected(ctx)
	switch {
	case ctx.Err() != nil:
		return nil, err
	case err != nil && len(x.Requests) > 0:
		return nil, fmt.Errorf("find the pages that a dump needs: %w", err)
	case err != nil && a.keeps:
		a.warn("the pages that a dump needs can't all be told: %v", err)
	case err != nil:
		a.unread("nothing that the guest advertises is left out: the pages that a dump needs can't all be told: %v", err)
		x.NoAdvertised = true
	}
	return needed, nil
}

func pagesNeeded(sets []guest.ProtectedPages) phys.Runs {
	var all phys.Runs
	for _, s := range sets {
		all = all.Union(s.Pages)
	}
	return all
}

// planExclusion decides which pages stay out of the dump: none of those that it
// needs. earlier is what the guest advertised when it was looked at before: it
// stands in for a table that a driver is just changing.
func (a *Analysis) planExclusion(ctx context.Context, needed []guest.ProtectedPages, code uint32, x Exclusion, earlier *guest.Adverts) error {
	var err error
	if a.Adverts, err = a.System.Adverts(ctx); ctx.Err() != nil {
		return err
	} else if err != nil {
		a.unread("what drivers advertise could be read in part only: %v", err)
	}
	in := exclude.Input{
		RAM: a.Memory.RAM, Translator: a.System.Space, BugCheckCode: code,
		KeepAdvertised: x.NoAdvertised, Limit: x.Limit.pages(a.Memory.RAM.Pages()),
	}
	for _, p := range needed {
		in.Protected = append(in.Protected, exclude.Protected{Reason: p.Reason, Pages: p.Pages})
	}
	in.Requests = append(in.Requests, x.Requests...)
	for _, t := range a.stableTables(earlier) {
		requests, err := exclude.DecodeTable(t.Module, t.Entries, exclude.Layout(t.EntrySize))
		if err != nil {
			a.unread("%s advertises a table at %#x that can't be read: %v", t.Module, uint64(t.At), err)
			continue
		}
		in.Requests = append(in.Requests, requests...)
	}
	a.canonical(in.Requests)
	a.Exclusions, err = exclude.NewPlan(ctx, in)
	if err != nil {
		return fmt.Errorf("leave out what was asked for: %w", err)
	}
	a.judgeExclusions()
	if err := a.checkOperators(); err != nil {
		return err
	}
	return a.checkUnmet(x)
}

// canonical gives virtual addresses of requests the form that the guest's have: a driver
// or an operator names those of a 32-bit guest by 32 bits.
func (a *Analysis) canonical(requests []exclude.Request) {
	for i := range requests {
		if r := &requests[i]; r.Flags&exclude.FlagVirtual != 0 && r.Address>>32 == 0 {
			r.Address = uint64(a.System.Arch.Address(r.Address))
		}
	}
}

// ErrNotExcluded is the class of an operator's request that leaves out nothing. There
// is no dump then: what was asked out might be in it.
var ErrNotExcluded = errors.New("nothing of it would be left out")

// checkOperators fails if a request of the operator's is in vain, and warns of one
// that is in part.
func (a *Analysis) checkOperators() error {
	for _, r := range a.Exclusions.Refused {
		if r.Request.Reason == exclude.Operator {
			return fmt.Errorf("leave out %s: %w: %s", named(r.Request), ErrNotExcluded, r.Reason)
		}
	}
	for _, e := range a.Exclusions.Entries {
		switch {
		case e.Request.Reason != exclude.Operator:
		case e.Excluded+e.Shared == 0 && e.Unresolved > 0:
			return fmt.Errorf("leave out %s: %w: the System process's page tables don't say where its pages are",
				named(e.Request), ErrNotExcluded)
		case e.Excluded+e.Shared == 0:
			return fmt.Errorf("leave out %s: %w: none of its pages is in memory where the System process's page tables say",
				named(e.Request), ErrNotExcluded)
		case e.NotPresent > 0:
			a.warnOfContents("%d of the pages of %s are not in memory by the System process's page tables: there is nothing of them to leave out",
				e.NotPresent, named(e.Request))
		}
	}
	return nil
}

// named says which pages a request is about.
func named(r exclude.Request) string {
	return fmt.Sprintf("%s from %s %#x (%s)", counted(r.Pages, "page"), r.Kind(), r.Address, r.By)
}

// stableTables returns the tables that were read whole, and earlier ones of
// modules whose table was being changed.
func (a *Analysis) stableTables(earlier *guest.Adverts) []guest.AdvertTable {
	tables := a.Adverts.Tables
	for i, p := range a.Adverts.Problems {
		if i == maxNamed {
			a.unread("%d more tables that drivers advertise are not left out: they can't be read", len(a.Adverts.Problems)-i)
			break
		}
		found := false
		if p.Unstable && earlier != nil {
			for _, t := range earlier.Tables {
				if t.Module == p.Module {
					tables, found = append(tables[:len(tables):len(tables)], t), true
				}
			}
		}
		switch {
		case p.Module == "":
			a.unread("what drivers advertise could be read in part only: %s", p.Reason)
		case found:
			a.unread("%s was changing what it advertises: what it advertised a moment before is left out, what it was about to isn't", p.Module)
		default:
			a.unread("what %s advertises at %#x is not left out: %s", p.Module, uint64(p.At), p.Reason)
		}
	}
	return tables
}

// maxNamed bounds how many drivers warnings name one by one.
const maxNamed = 32

// judgeExclusions counts what is not met, and says what an operator should know:
// who asked for what is, or may be, in the dump, and who might have asked but did
// not.
func (a *Analysis) judgeExclusions() {
	a.Unmet.Unmet = a.Exclusions.Unmet()
	switch kept := a.Unmet.Kept; {
	case kept > 0 && a.keeps:
		a.warnOfContents("%s that drivers make to leave pages out are not honoured, because --no-advertised says so", counted(kept, "request"))
	case kept > 0:
		a.Unmet.Refused, a.Unmet.Kept = a.Unmet.Refused+kept, 0
	}
	a.warnOfRefused()
	a.warnOfUnresolved()
	for i, d := range a.Adverts.Silent {
		if i == maxNamed {
			a.warn("%d more drivers have pages to remove and don't advertise them", len(a.Adverts.Silent)-i)
			break
		}
		a.warn("%s registered pages to remove (%s) but does not advertise them: they are in the dump", d.Module, d.Component)
	}
}

// warnOfRefused names those whose requests are refused.
func (a *Analysis) warnOfRefused() {
	type refusals struct {
		requests, moot int
		why            string
	}
	by := map[string]*refusals{}
	var order []string
	for _, r := range a.Exclusions.Refused {
		if r.Request.Reason == exclude.Operator {
			continue // that is an error
		}
		who := r.Request.By
		if by[who] == nil {
			order = append(order, who)
			by[who] = &refusals{why: r.Reason}
		}
		if by[who].requests += r.Requests; r.Moot {
			by[who].moot += r.Requests
		}
	}
	for i, who := range order {
		r, say := by[who], a.unmet
		if r.moot == r.requests {
			say = a.warn
		}
		if i >= maxNamed {
			// Nobody who is refused goes unsaid, but in one line.
			a.unmet("%d more ask for what must stay", len(order)-i)
			break
		}
		say("%s asks to leave out what stays in the dump (requests refused: %d): %s", who, r.requests, r.why)
	}
}

// warnOfUnresolved names those some of whose pages can't be found.
func (a *Analysis) warnOfUnresolved() {
	pages := map[string]uint64{}
	first := map[string]phys.VirtAddr{}
	var order []string
	for _, e := range a.Exclusions.Entries {
		if e.Unresolved == 0 {
			continue
		}
		who := e.Request.By
		if pages[who] == 0 {
			order, first[who] = append(order, who), e.UnresolvedAt
		}
		pages[who] += e.Unresolved
	}
	for i, who := range order {
		if i == maxNamed {
			a.unmet("pages that %d more ask to leave out may be in the dump", len(order)-i)
			break
		}
		a.unmet("%s that %s asks to leave out may be in the dump: the System process's page tables don't say where they are (the first is at virtual %#x)",
			counted(pages[who], "page"), who, uint64(first[who]))
	}
}

// counted puts a number before a word.
func counted[N int | uint64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// withoutExcluded returns the parts of the dump's runs that stay in it. Runs
// are split, never merged.
func (a *Analysis) withoutExcluded(runs phys.Known[[]phys.Run]) phys.Known[[]phys.Run] {
	if len(a.Exclusions.Exclude) == 0 {
		return runs
	}
	out := phys.Know([]phys.Run(nil), runs.From+", without pages that are left out")
	for _, r := range runs.Value {
		out.Value = append(out.Value, phys.Runs{r}.Minus(a.Exclusions.Exclude)...)
	}
	return out
}

// newPlan makes the header and the dump plan of the chosen format for the given
// facts, whose runs may be too many for a full dump.
func newPlan(facts *header.Facts, format Format) (*header.Header, *dump.Plan, error) {
	w, _ := facts.Machine.Value.Width()
	fits := len(facts.Runs.Value) <= w.MaxRuns()
	if format == FormatFull && !fits {
		return nil, nil, fmt.Errorf("make the dump header: %d runs of pages, and a full dump's header holds %d: %w",
			len(facts.Runs.Value), w.MaxRuns(), ErrTooManyRuns)
	}
	t := header.DumpTypeFull
	if format == FormatBitmap || !fits {
		t = header.DumpTypeBitmapFull
		pages, err := phys.SetOf(facts.Runs.Value)
		if err != nil {
			return nil, nil, fmt.Errorf("make the dump header: %w", err)
		}
		facts.Runs.Value = pages
	}
	h, b, err := header.Make(facts, t)
	if err != nil {
		return nil, nil, err
	}
	return h, &dump.Plan{Header: b, Runs: facts.Runs.Value}, nil
}
