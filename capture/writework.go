package capture

import (
	"snap/dump"
	"snap/phys"
)

// writeSlack is by how much what is left to write must exceed the time left: pages
// take more or less time to compress, as what is in them has it.
const writeSlack = 2

// writeWork is how much of the work of writing a dump is done. It is counted in pages
// that have to be read: all others of the dump cost next to nothing, and lie in long
// stretches.
type writeWork struct {
	plan     *dump.Plan
	progress *dump.Progress
	read     *phys.Index // pages of the dump that have to be read
}

func newWriteWork(p *dump.Plan, progress *dump.Progress) *writeWork {
	pages := pagesOfPlan(p)
	if p.Populated != nil {
		pages = pages.Intersect(p.Populated)
	}
	return &writeWork{p, progress, phys.NewIndex(pages)}
}

// done returns how many of the pages are behind the bytes of the dump that are done.
func (w *writeWork) done() (done, total uint64) {
	bytes, header := w.progress.Done.Load(), uint64(len(w.plan.Header))
	at := (bytes - min(bytes, header)) >> phys.PageShift
	for _, r := range w.plan.Runs {
		if at < r.Pages {
			return w.below(r.Base + phys.PFN(at)), w.read.Pages()
		}
		at -= r.Pages
	}
	return w.read.Pages(), w.read.Pages()
}

// below returns how many of the pages have a number below p.
func (w *writeWork) below(p phys.PFN) uint64 {
	set := w.read.Set()
	i, _ := set.Find(p)
	if i == len(set) {
		return w.read.Pages()
	}
	return w.read.NumberOfRun(i) + uint64(p-min(p, set[i].Base))
}

// watch ends the pause that m is of, if it is one, when writing the plan turns out to
// take too long. The caller calls the result when all is written.
func (m *Moment) watch(p *dump.Plan, progress *dump.Progress) (stop func()) {
	if m.held == nil {
		return func() {}
	}
	return m.held.watch(newWriteWork(p, progress).done, m.Account.Estimate.Reading.Likely, writeSlack, true)
}
