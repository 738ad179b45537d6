package capture

import (
	"context"
	"fmt"
	"runtime/trace"
	"time"

	"github.com/dustin/go-humanize"

	"snap/hv"
	"snap/phys"
)

// stopAndStart is what stopping and starting a guest is assumed to take. It
// can't be measured without doing it: QEMU answers when the guest's disks are
// flushed (do_vm_stop in system/cpus.c). Idle ones take a few milliseconds.
const stopAndStart = 30 * time.Millisecond

// stopMost is how many times longer than likely that may take: a disk that is written
// to has more to flush.
const stopMost = 3

// PauseEstimate says how long a guest would stand still: from what is likely to what
// it should not exceed.
type PauseEstimate struct {
	Copied    bool   // pages are only copied meanwhile; else compressed and written as well
	Pages     uint64 // to be read meanwhile
	Reading   Span   // of all these pages, from samples of them that were read for it
	Analyzing Span   // what Windows has in its memory, measured on the running guest
	State     Span   // of asking for registers and RAM map, measured as well
	Switch    Span   // of stopping and starting the guest, assumed

	Samples   int      // that Reading is from
	Deviation float64  // of them: standard deviation as a part of their mean
	Load      hostLoad // of the host, as the samples were read
}

// Total is how long the guest would stand still in all.
func (e PauseEstimate) Total() Span {
	if e.Copied { // pages are copied while the hypervisor is asked
		return e.Reading.max(e.State).plus(e.Switch)
	}
	return e.Reading.plus(e.Analyzing).plus(e.State).plus(e.Switch)
}

// String tells what the pause is made of, and what the estimate is worth.
func (e PauseEstimate) String() string {
	doing := "compress"
	if e.Copied {
		doing = "copy"
	}
	rate := "once"
	if e.Reading.Likely > 0 {
		rate = size(uint64(float64(e.Pages<<phys.PageShift)/e.Reading.Likely.Seconds())) + "/s"
	}
	total := e.Total()
	return fmt.Sprintf("%s to %s at %s take %s, all else %s; confidence %s: %s", size(e.Pages<<phys.PageShift), doing, rate,
		e.Reading, Span{total.Likely - e.Reading.Likely, total.Most - e.Reading.Most}, e.Confidence(), e.why())
}

// Confidence is how far an estimate can be trusted.
type Confidence string

// Confidences.
const (
	ConfidenceHigh Confidence = "high"
	ConfidenceFair Confidence = "fair"
	ConfidenceLow  Confidence = "low"
)

// Confidence says how far e can be trusted: by how much the samples differ, how busy
// the host is, and how much of its time a hypervisor below it takes.
func (e PauseEstimate) Confidence() Confidence {
	switch l := e.Load; {
	case e.Samples < 2, e.Deviation > 1, l.Waiting > 1, l.Stolen > 0.1:
		return ConfidenceLow
	case e.Deviation > 0.25, l.Waiting > 0.25, l.Stolen > 0.02:
		return ConfidenceFair
	}
	return ConfidenceHigh
}

// why says what the confidence is from.
func (e PauseEstimate) why() string {
	text := fmt.Sprintf("%d samples", e.Samples)
	if e.Samples == 1 {
		text = "1 sample"
	}
	if e.Samples > 1 {
		text += fmt.Sprintf(" that differ by %.0f %%", 100*e.Deviation)
	}
	text += fmt.Sprintf(", %.1f tasks wait for each processor", e.Load.Waiting)
	if e.Load.Stolen > 0.01 {
		text += fmt.Sprintf(", %.0f %% of their time are stolen", 100*e.Load.Stolen)
	}
	return text
}

func size(n uint64) string { return humanize.IBytes(n) }

// rounded is d for people.
func rounded(d time.Duration) time.Duration {
	switch {
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond)
	case d < 10*time.Second:
		return d.Round(time.Millisecond)
	default:
		return d.Round(100 * time.Millisecond)
	}
}

// estimateCopy copies samples of the populated pages, as the pause will. It is done
// once in a session.
func (s *Session) estimateCopy(ctx context.Context) (*PauseEstimate, error) {
	if s.copied != nil {
		return s.copied, nil
	}
	defer trace.StartRegion(ctx, "estimate").End()
	s.Options.tell(Event{Phase: PhaseEstimate})
	defer s.ahead.hush()()
	meter := newLoadMeter()
	meter.look(1)
	asked, err := s.timeState(ctx)
	if err != nil {
		return nil, err
	}
	var set phys.Runs
	for once := false; !once || len(s.scans) < stateSamples; once = true {
		if set, err = s.populated(ctx); err != nil {
			return nil, err
		}
	}
	samples, err := s.timeCopy(ctx, set, meter)
	if err != nil {
		return nil, err
	}
	e := &PauseEstimate{Copied: true, Pages: set.Pages(), Load: meter.load()}
	e.assume(asked)
	r := rateOf(samples)
	e.Reading = around(s.scans, e.Load).plus(r.of(e.Pages, e.Load))
	e.Samples, e.Deviation = r.samples, r.deviation
	s.copied = e
	return e, nil
}

// assume adds what it takes to ask the hypervisor, from a few times that it was
// asked, and to stop and start the guest, which goes the same way.
func (e *PauseEstimate) assume(asked []time.Duration) {
	e.State = around(asked, e.Load)
	likely := stopAndStart + e.State.Likely
	e.Switch = Span{likely, stopMost * max(likely, duration(float64(likely)*e.Load.factor()/calmFactor))}
}

// The samples of a copy. They are copied one after the other for as long as it takes
// the scheduler to see a process that uses all the time that it can get, which it
// gives less than one that has just woken up.
const (
	copySampleChunks = 16                     // of samplePages pages each, spread over the guest's memory
	copySampleRing   = 4                      // samples that have a place of their own, so that none stays in the processor's cache
	copySamplesLeast = 4                      // samples
	copySamplesMost  = 128                    // samples
	copySampleFor    = 150 * time.Millisecond // in all
	copySampleCalm   = 50 * time.Millisecond  // in all, where they agree and nobody waits for a processor
)

// copySampled reports whether so many samples, which took so long, are enough: more of
// them would say the same on a calm host.
func (s *Session) copySampled(all []timed, took time.Duration, meter *loadMeter) bool {
	if len(all) < copySamplesLeast || took < copySampleCalm {
		return false
	}
	if took >= copySampleFor || len(all) >= copySamplesMost {
		return true
	}
	r := rateOf(all)
	e := PauseEstimate{Samples: r.samples, Deviation: r.deviation, Load: meter.load()}
	return !s.Thorough && e.Confidence() == ConfidenceHigh
}

// timeCopy copies samples of the pages of set and returns how long each took: until
// enough time has passed, or as many pages were copied as there are.
func (s *Session) timeCopy(ctx context.Context, set phys.Runs, meter *loadMeter) ([]timed, error) {
	x := phys.NewIndex(set)
	if x.Pages() == 0 {
		return nil, nil
	}
	if hv.ReadCostOf(s.Memory).Dear() {
		p, err := s.probe(ctx, set, func() { meter.look(1) })
		if err != nil {
			return nil, err
		}
		return p.timed, nil
	}
	room := s.layoutRoom(min(x.Pages(), copySampleChunks*samplePages)) << phys.PageShift
	workers := s.Options.copyWorkers()
	memory, err := s.ahead.lend(ctx, copySampleRing*room, workers)
	if err != nil {
		return nil, err
	}
	if memory == nil {
		r, err := newReservation(copySampleRing * room)
		if err != nil {
			return nil, err
		}
		defer func() { _ = r.free() }() // samples of what is in the guest
		if err := r.fault(ctx, uint64(len(r.memory)), workers); err != nil {
			return nil, err
		}
		memory = r.memory
	}
	var all []timed
	var took time.Duration
	var pages uint64
	for i := 0; i < copySamplesLeast || pages < x.Pages() && !s.copySampled(all, took, meter); i++ {
		place := uint64(i%copySampleRing) * room
		sample := sampleShape{copySampleChunks, samplePages}.pick(x, i)
		l, err := s.layout(memory[place:place+room], sample.Pages())
		if err != nil {
			return nil, err
		}
		c := newMemoryCopyIn(l, s.Memory, sample, true)
		start := time.Now()
		if err := c.fill(ctx, s.Memory, workers); err != nil {
			return nil, fmt.Errorf("probe how fast the guest's memory can be read: %w", err)
		}
		t := timed{c.index.Pages(), time.Since(start)}
		all, took, pages = append(all, t), took+t.took, pages+t.pages
		if i < copySamplesLeast || i%8 == 0 {
			meter.look(1)
		}
	}
	return all, nil
}

// sampleShape is what one sample is made of: chunks of so many pages each.
type sampleShape struct {
	chunks int
	pages  uint64
}

// pick picks chunks that are spread evenly over x, other ones for each i. The steps of
// the golden ratio come close to every place in few of them.
func (s sampleShape) pick(x *phys.Index, i int) phys.Runs {
	const golden = 0.6180339887498949
	if x.Pages() <= uint64(s.chunks)*s.pages {
		return x.Set()
	}
	part := x.Pages() / uint64(s.chunks)
	step := float64(i) * golden
	first := uint64((step - float64(uint64(step))) * float64(part-s.pages))
	var picked []phys.Run
	for k := range uint64(s.chunks) {
		picked = append(picked, x.Run(k*part+first, s.pages))
	}
	runs, _ := phys.NewRuns(picked...) // parts of valid runs are valid
	return runs
}

// estimateHeld counts on the whole dump being written meanwhile.
func (s *Session) estimateHeld(ctx context.Context) (*PauseEstimate, error) {
	meter := newLoadMeter()
	meter.look(1)
	w, err := s.Sample(ctx)
	if err != nil {
		return nil, err
	}
	meter.look(1)
	asked, err := s.timeState(ctx)
	if err != nil {
		return nil, err
	}
	e := &PauseEstimate{Pages: w.Populated, Samples: 1, Load: meter.load()}
	e.assume(asked)
	// One sample says nothing of how different pages are to compress.
	e.Reading = around([]time.Duration{w.writing()}, e.Load)
	e.Reading.Most = max(e.Reading.Most, 2*e.Reading.Likely)
	e.Analyzing = around([]time.Duration{s.Analysis.Took}, e.Load)
	return e, nil
}

// stateSamples is how often the hypervisor is asked to know how long it takes, and the
// host which pages are populated.
const stateSamples = 3

// timeState asks the hypervisor a few times what it is asked for during a pause.
func (s *Session) timeState(ctx context.Context) ([]time.Duration, error) {
	var all []time.Duration
	for range stateSamples {
		start := time.Now()
		if _, err := s.VM.Registers(ctx); err != nil {
			return nil, err
		}
		if _, err := s.VM.RAM(ctx); err != nil {
			return nil, err
		}
		all = append(all, time.Since(start))
	}
	return all, nil
}
