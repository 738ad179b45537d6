package progress

import (
	"fmt"
	"time"
)

// How much must be done before what was measured alone says how long the rest
// takes: a tenth. Until then it is weighed with what was expected.
const trusted = 0.1

// share returns which share of the phase is done, and whether that is known.
func (p *begun) share() (float64, bool) {
	if p.Counter == nil {
		return 0, false
	}
	done, total := p.Counter.Done(), p.Counter.Total()
	if total == 0 {
		return 0, false
	}
	return float64(min(done, total)) / float64(total), true
}

// left returns how long the phase is going to take yet, and whether anything is
// known of that: by the rate so far, by what was expected, or at first by both.
// A phase that takes longer than was expected, and counts nothing, has no end that
// anybody knows.
func (p *begun) left(now time.Time) (time.Duration, bool) {
	elapsed := now.Sub(p.at)
	share, counted := p.share()
	measured, known := time.Duration(0), counted && share > 0 && elapsed > 0
	if known {
		measured = time.Duration(float64(elapsed) * (1 - share) / share)
	}
	expected := p.Expect - elapsed
	switch {
	case p.Expect <= 0 || known && expected <= 0:
		return measured, known
	case expected <= 0:
		return 0, false
	case !known:
		return expected, true
	}
	weight := min(1, share/trusted)
	return time.Duration(weight*float64(measured) + (1-weight)*float64(expected)), true
}

// rate returns the bytes in a second so far, 0 if nothing is counted.
func (p *begun) rate(now time.Time) float64 {
	if s := now.Sub(p.at).Seconds(); p.Counter != nil && s > 0 {
		return float64(p.Counter.Done()) / s
	}
	return 0
}

// about is how long something is going to take, for people: whole seconds, and the
// more the rounder.
func about(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(1, int(d.Round(time.Second)/time.Second)))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d/time.Minute), int(d%time.Minute/time.Second))
	}
	return fmt.Sprintf("%d h %d min", int(d/time.Hour), int(d%time.Hour/time.Minute))
}

// exactly is how long something took, for people.
func exactly(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return about(d)
}
