package main

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// sample is one run of something.
type sample struct {
	Took  time.Duration // from its start to its end
	CPU   time.Duration // of processors, by the program itself; 0 where others do the work
	Still time.Duration // that the guest stood still
	RSS   uint64        // the most that the program had in memory, in bytes; 0 if that isn't known
	Bytes uint64        // of the file, or that were read
}

// What of a sample is compared.
func took(s sample) float64   { return s.Took.Seconds() }
func cpu(s sample) float64    { return s.CPU.Seconds() }
func still(s sample) float64  { return s.Still.Seconds() }
func rss(s sample) float64    { return float64(s.RSS) }
func stored(s sample) float64 { return float64(s.Bytes) }

// row is all runs of one contender with one guest.
type row struct {
	Name    string
	Limit   bool // no program that dumps, but a physical limit
	Samples []sample
	Why     string // it was left out, empty if it wasn't
}

// median returns the middle of what of measures in the samples, the mean of the two
// middle ones of an even number, and NaN of none.
func (r *row) median(of func(sample) float64) float64 { return median(r.values(of)) }

// spread returns the least and the most of it.
func (r *row) spread(of func(sample) float64) (least, most float64) {
	v := r.values(of)
	if len(v) == 0 {
		return math.NaN(), math.NaN()
	}
	return slices.Min(v), slices.Max(v)
}

func (r *row) values(of func(sample) float64) []float64 {
	var v []float64
	for _, s := range r.Samples {
		v = append(v, of(s))
	}
	return v
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// find returns the row of a name, nil if there is none with a sample in it.
func find(rows []*row, name string) *row {
	for _, r := range rows {
		if r.Name == name && len(r.Samples) > 0 {
			return r
		}
	}
	return nil
}

// ratio returns how the medians of two rows relate, NaN if there is nothing to relate.
func ratio(a, b *row, ofA, ofB func(sample) float64) float64 {
	if a == nil || b == nil {
		return math.NaN()
	}
	over := b.median(ofB)
	if over <= 0 {
		return math.NaN()
	}
	return a.median(ofA) / over
}

// number prints v with so many digits after the point, and a dash for what isn't known.
func number(v float64, digits int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	return fmt.Sprintf("%.*f", digits, v)
}
