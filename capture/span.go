package capture

import (
	"fmt"
	"math"
	"time"
)

// Span is a time that is estimated: what is likely, and the pessimistic end, which it
// should not exceed even if the host gets busier.
type Span struct{ Likely, Most time.Duration }

func (s Span) plus(o Span) Span { return Span{s.Likely + o.Likely, s.Most + o.Most} }

// max returns the later ends of two things that happen at the same time.
func (s Span) max(o Span) Span { return Span{max(s.Likely, o.Likely), max(s.Most, o.Most)} }

// String is "80 ms to 300 ms", for people.
func (s Span) String() string { return fmt.Sprintf("%s to %s", rounded(s.Likely), rounded(s.Most)) }

// Bounds of a pessimistic end, as multiples of what is likely. The samples have the
// load of their own time in them already: the factors are for what may come. That of
// a calm host is what is left to chance where nothing is known to be in the way; see
// docs/benchmarks/pause.md for how often they held.
const (
	calmFactor = 1.5
	busyFactor = 0.25 // is added for each task that waits for each of the processors
	mostFactor = 3.0  // with all that is added
	deviations = 2.0  // standard deviations from the mean of the samples
)

// rate is how long a page takes, from several samples of pages that were copied
// one after the other.
type rate struct {
	mean, slow float64 // nanoseconds a page: of all samples, and of the slowest of them
	deviation  float64 // standard deviation of the samples, as a part of the mean
	samples    int
	each       float64 // pages in a sample, on average
}

// timed is one sample.
type timed struct {
	pages uint64
	took  time.Duration
}

// rateOf sums samples up. The mean is that of all pages: a long copy meets slow
// stretches for as long as they last. Samples without pages don't count.
func rateOf(samples []timed) rate {
	var pages, took float64
	var each []float64
	for _, s := range samples {
		if s.pages == 0 {
			continue
		}
		pages += float64(s.pages)
		took += float64(s.took)
		each = append(each, float64(s.took)/float64(s.pages))
	}
	if pages == 0 || took <= 0 {
		return rate{}
	}
	r := rate{mean: took / pages, samples: len(each), each: pages / float64(len(each))}
	var sum float64
	for _, e := range each {
		r.slow = max(r.slow, e)
		sum += (e - r.mean) * (e - r.mean)
	}
	r.deviation = math.Sqrt(sum/float64(len(each))) / r.mean
	return r
}

// of returns how long so many pages take on a host with the given load. A copy that
// is long has fast stretches and slow ones, and so differs the less from the mean the
// more samples it could be made of; a short one can be as slow as the slowest.
func (r rate) of(pages uint64, load hostLoad) Span {
	likely := r.mean * float64(pages)
	alike := max(1, min(float64(r.samples), float64(pages)/max(r.each, 1)))
	most := likely * (1 + deviations*r.deviation/math.Sqrt(alike))
	most = min(most, r.slow*float64(pages))
	return Span{duration(likely), duration(max(most, likely) * load.factor())}
}

// duration makes a time of nanoseconds, at most the longest there is.
func duration(ns float64) time.Duration {
	if !(ns < math.MaxInt64) {
		return math.MaxInt64
	}
	return time.Duration(ns)
}

// around returns the span of what was measured a few times, on a host with the given
// load.
func around(measured []time.Duration, load hostLoad) Span {
	var sum, slow time.Duration
	for _, m := range measured {
		sum += m
		slow = max(slow, m)
	}
	if len(measured) == 0 {
		return Span{}
	}
	return Span{sum / time.Duration(len(measured)), duration(float64(slow) * load.factor())}
}
