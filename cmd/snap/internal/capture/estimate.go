package capture

import (
	"context"
	"io"
	"time"

	"snap/dump"
	"snap/hv"
	"snap/phys"
)

// What an estimate reads of the guest: enough for a stable ratio, little
// enough to take a moment even through peek.
const (
	sampleChunks = 64
	samplePages  = 256
)

// Estimate is what a dump would take, from a sample of the guest's pages.
type Estimate struct {
	Pages     uint64        // in the dump
	Populated uint64        // of those, pages that have to be read
	DumpBytes uint64        // expanded
	Bytes     uint64        // of the file
	Duration  time.Duration // of reading, compressing and writing
}

// Estimate reads and compresses a sample of the pages in s's plan and scales
// it up. It writes nothing.
func (s *Survey) Estimate(ctx context.Context, mem hv.Memory, o dump.Options) (*Estimate, error) {
	pages, err := phys.NewRuns(s.Plan.Runs...)
	if err != nil {
		return nil, err
	}
	set, _, err := mem.Populated(ctx)
	if err != nil {
		return nil, err
	}
	work := set.Intersect(pages)
	e := &Estimate{Pages: pages.Pages(), Populated: work.Pages()}
	e.DumpBytes = uint64(len(s.Plan.Header)) + e.Pages<<phys.PageShift
	e.Bytes = uint64(len(s.Plan.Header))
	if e.Populated == 0 {
		return e, nil
	}
	// The same dump, but as if the host had populated only the sample.
	plan := *s.Plan
	plan.Populated = sampleOf(work)
	start := time.Now()
	st, err := dump.Write(ctx, io.Discard, mem, &plan, o)
	if err != nil {
		return nil, err
	}
	scale := float64(e.Populated) / float64(plan.Populated.Pages())
	e.Duration = time.Duration(scale * float64(time.Since(start)))
	e.Bytes += uint64(scale * float64(st.BytesWritten))
	return e, nil
}

// sampleOf picks chunks that are spread evenly over the pages of set.
func sampleOf(set phys.Runs) phys.Runs {
	total := set.Pages()
	if total <= sampleChunks*samplePages {
		return set
	}
	var picked []phys.Run
	step := total / sampleChunks
	var before uint64 // pages of set before the run
	next := uint64(0) // ordinal of the next chunk's first page
	for _, r := range set {
		for next < before+r.Pages && len(picked) < sampleChunks {
			at := next - before
			picked = append(picked, phys.Run{Base: r.Base + phys.PFN(at), Pages: min(samplePages, r.Pages-at)})
			next += step
		}
		before += r.Pages
	}
	runs, _ := phys.NewRuns(picked...) // parts of valid runs are valid
	return runs
}
