package phys

// RunBuilder makes a set of runs that come in ascending order, and keeps so many at
// most, however many there are: those become one that have the fewest pages between
// them. So a set can't grow without bound where pages that are in it too cost less than
// memory.
type RunBuilder struct {
	Most int // at least 1

	gap  uint64 // runs with no more pages between them are one
	runs []Run
}

// Add adds a valid run that begins no earlier than the last one, and ends no earlier.
func (b *RunBuilder) Add(r Run) {
	for {
		if n := len(b.runs); n > 0 && b.join(&b.runs[n-1], r) {
			return
		}
		if len(b.runs) < b.Most {
			b.runs = append(b.runs, r)
			return
		}
		b.widen()
	}
}

// Runs returns the set, never nil. Nothing may be added any more.
func (b *RunBuilder) Runs() Runs {
	if b.runs == nil {
		return Runs{}
	}
	return b.runs
}

// join makes r, which comes later, a part of last, if it is near enough.
func (b *RunBuilder) join(last *Run, r Run) bool {
	if r.Base > last.End() && uint64(r.Base-last.End()) > b.gap {
		return false
	}
	last.Pages = uint64(r.End() - last.Base)
	return true
}

// widen joins runs that have more between them than any that were joined before, but
// not by much.
func (b *RunBuilder) widen() {
	b.gap = max(2*b.gap, 1)
	kept := b.runs[:1]
	for _, r := range b.runs[1:] {
		if !b.join(&kept[len(kept)-1], r) {
			kept = append(kept, r)
		}
	}
	b.runs = kept
}
