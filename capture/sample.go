package capture

import (
	"context"
	"io"
	"time"

	"snap/dump"
	"snap/hv"
	"snap/phys"
	"snap/store"
)

// What a sample reads of the guest: enough for a stable ratio, little enough to
// take a moment even through peek.
const (
	sampleChunks = 64
	samplePages  = 256
)

// Sample is what writing a dump would take, from a sample of the guest's pages.
type Sample struct {
	Pages     uint64        // in the dump
	Populated uint64        // of those, pages that have to be read
	DumpBytes uint64        // expanded
	Bytes     uint64        // of the file
	Room      store.Size    // that the file takes in a folder
	Duration  time.Duration // of compressing and writing, and of reading where that isn't dear
	Reading   time.Duration // of reading where it is (hv.DearMemory), else 0
}

// writing returns how long it takes to write the dump as it is read. What is dear to
// read is read ahead meanwhile.
func (e *Sample) writing() time.Duration { return max(e.Duration, e.Reading) }

// Sample reads and compresses a sample of the pages of the session's dump and
// scales it up. It writes nothing, and is done once.
func (s *Session) Sample(ctx context.Context) (*Sample, error) {
	if s.sample != nil {
		return s.sample, nil
	}
	s.Options.tell(Event{Phase: PhaseEstimate})
	var err error
	set, _, err := s.Memory.Populated(ctx)
	if err != nil {
		return nil, err
	}
	if hv.ReadCostOf(s.Memory).Dear() {
		s.sample, err = s.sampleDear(ctx, set)
	} else {
		s.sample, err = sampleDump(ctx, s.Memory, s.Analysis.Plan, set, s.Options.writeOptions())
	}
	return s.sample, err
}

// sampleDear is Sample of what the probe has read, which is read only once.
func (s *Session) sampleDear(ctx context.Context, set phys.Runs) (*Sample, error) {
	p, err := s.probe(ctx, set, func() {})
	if err != nil {
		return nil, err
	}
	have := p.copied.index.Set()
	e, err := sampleOn(ctx, p.copied, s.Analysis.Plan, set, have.Intersect, s.Options.writeOptions())
	if err == nil {
		e.Reading = duration(rateOf(p.timed).mean * float64(e.Populated))
	}
	return e, err
}

// sampleDump samples the dump that plan is of, read from mem, of which the pages
// of set can hold anything.
func sampleDump(ctx context.Context, mem phys.Reader, whole *dump.Plan, set phys.Runs, o dump.Options) (*Sample, error) {
	return sampleOn(ctx, mem, whole, set, sampleOf, o)
}

// sampleOn is sampleDump with pick to pick pages of those that have to be read.
func sampleOn(ctx context.Context, mem phys.Reader, whole *dump.Plan, set phys.Runs, pick func(phys.Runs) phys.Runs, o dump.Options) (*Sample, error) {
	pages, err := phys.SetOf(whole.Runs)
	if err != nil {
		return nil, err
	}
	work := set.Intersect(pages)
	e := &Sample{Pages: pages.Pages(), Populated: work.Pages()}
	e.DumpBytes = uint64(len(whole.Header)) + e.Pages<<phys.PageShift
	e.Bytes = uint64(len(whole.Header))
	if e.Populated == 0 {
		e.Room = store.Size{Least: e.Bytes, Likely: e.Bytes, Most: e.Bytes}
		return e, nil
	}
	// The same dump, but as if the host had populated only the sample.
	plan := *whole
	plan.Populated = pick(work)
	frames := sampledFrames{plain: o.Compression == dump.CompressionNone}
	o.Frame = frames.add
	start := time.Now()
	st, err := dump.Write(ctx, io.Discard, mem, &plan, o)
	if err != nil {
		return nil, err
	}
	scale := float64(e.Populated) / float64(plan.Populated.Pages())
	e.Duration = time.Duration(scale * float64(time.Since(start)))
	e.Bytes += uint64(scale * float64(st.BytesWritten))
	e.Room = frames.size(st.BytesWritten, scale)
	// No file is longer than one of what can't be compressed.
	e.Room = atMost(e.Room, worstBytes(whole, e.Pages))
	return e, nil
}

// sampleOf picks chunks that are spread evenly over the pages of set.
func sampleOf(set phys.Runs) phys.Runs {
	x := phys.NewIndex(set)
	if x.Pages() <= sampleChunks*samplePages {
		return set
	}
	var picked []phys.Run
	for i := range uint64(sampleChunks) {
		picked = append(picked, x.Run(i*(x.Pages()/sampleChunks), samplePages))
	}
	runs, _ := phys.NewRuns(picked...) // parts of valid runs are valid
	return runs
}
