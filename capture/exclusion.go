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

// planExclusion decides which pages stay out of the dump. earlier is what the
// guest advertised when it was looked at before: it stands in for a table that
// a driver is just changing.
func (a *Analysis) planExclusion(ctx context.Context, ram phys.Runs, code uint32, x Exclusion, earlier *guest.Adverts) error {
	var err error
	if a.Adverts, err = a.System.Adverts(ctx); ctx.Err() != nil {
		return err
	} else if err != nil {
		a.warn("what drivers advertise could be read in part only: %v", err)
	}
	protected, err := a.System.Protected(ctx)
	switch {
	case ctx.Err() != nil:
		return err
	case err != nil && len(x.Requests) > 0:
		return fmt.Errorf("find the pages that a dump needs: %w", err)
	case err != nil:
		a.warn("nothing that the guest advertises is left out: the pages that a dump needs can't all be told: %v", err)
		x.NoAdvertised = true
	}
	in := exclude.Input{
		RAM: ram, Translator: a.System.Space, BugCheckCode: code,
		KeepAdvertised: x.NoAdvertised, Limit: x.Limit.pages(ram.Pages()),
	}
	for _, p := range protected {
		in.Protected = append(in.Protected, exclude.Protected{Reason: p.Reason, Pages: p.Pages})
	}
	in.Requests = append(in.Requests, x.Requests...)
	for _, t := range a.stableTables(earlier) {
		requests, err := exclude.DecodeTable(t.Module, t.Entries, exclude.Layout(t.EntrySize))
		if err != nil {
			a.warn("%s advertises a table at %#x that can't be read: %v", t.Module, uint64(t.At), err)
			continue
		}
		in.Requests = append(in.Requests, requests...)
	}
	a.Exclusions, err = exclude.NewPlan(ctx, in)
	if err != nil {
		return fmt.Errorf("leave out what was asked for: %w", err)
	}
	a.warnOfExclusions()
	return a.checkOperators()
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
		case e.Request.Reason != exclude.Operator || e.NotPresent == 0:
		case e.Excluded+e.Shared == 0:
			return fmt.Errorf("leave out %s: %w: none of its pages is in memory where the System process's page tables say",
				named(e.Request), ErrNotExcluded)
		default:
			a.warn("%d of the pages of %s are not in memory where the System process's page tables say: what they held may be in the dump, elsewhere",
				e.NotPresent, named(e.Request))
		}
	}
	return nil
}

// named says which pages a request is about.
func named(r exclude.Request) string {
	pages := "1 page"
	if r.Pages != 1 {
		pages = fmt.Sprintf("%d pages", r.Pages)
	}
	return fmt.Sprintf("%s from %s %#x (%s)", pages, r.Kind(), r.Address, r.By)
}

// stableTables returns the tables that were read whole, and earlier ones of
// modules whose table was being changed.
func (a *Analysis) stableTables(earlier *guest.Adverts) []guest.AdvertTable {
	tables := a.Adverts.Tables
	for i, p := range a.Adverts.Problems {
		if i == maxNamed {
			a.warn("%d more tables that drivers advertise are not left out: they can't be read", len(a.Adverts.Problems)-i)
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
			a.warn("what drivers advertise could be read in part only: %s", p.Reason)
		case found:
			a.warn("%s was changing what it advertises: what it advertised a moment before counts", p.Module)
		default:
			a.warn("what %s advertises at %#x is not left out: %s", p.Module, uint64(p.At), p.Reason)
		}
	}
	return tables
}

// maxNamed bounds how many drivers warnings name one by one.
const maxNamed = 32

// warnOfExclusions says what an operator should know: who asked for what is
// kept, and who might have asked but did not.
func (a *Analysis) warnOfExclusions() {
	refused := map[string]int{}
	var order []string
	first := map[string]string{}
	for _, r := range a.Exclusions.Refused {
		by := r.Request.By
		if refused[by] == 0 {
			order = append(order, by)
			first[by] = r.Reason
		}
		refused[by] += r.Requests
	}
	for i, by := range order {
		if i == maxNamed {
			a.warn("%d more ask for what must stay", len(order)-i)
			break
		}
		a.warn("%s asks to leave out what stays in the dump (requests refused: %d): %s", by, refused[by], first[by])
	}
	for i, d := range a.Adverts.Silent {
		if i == maxNamed {
			a.warn("%d more drivers have pages to remove and don't advertise them", len(a.Adverts.Silent)-i)
			break
		}
		a.warn("%s registered pages to remove (%s) but does not advertise them: they are in the dump", d.Module, d.Component)
	}
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
		pages, err := phys.NewRuns(facts.Runs.Value...)
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
