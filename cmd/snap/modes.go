package main

import (
	"context"
	"time"

	"snap/cmd/snap/internal/capture"
	"snap/hv"
)

// modeEstimate is what a dump would take in one mode.
type modeEstimate struct {
	Mode       string  `json:"mode"`
	Spooled    bool    `json:"spooled"`       // the guest stands still for a copy only
	Fits       bool    `json:"fits"`          // it can be taken, and its pause is not too long
	Why        string  `json:"why,omitempty"` // it can't be taken at all
	PauseMS    float64 `json:"pause_estimate_ms"`
	DurationMS float64 `json:"duration_estimate_ms"`
	Consistent bool    `json:"consistent"`
}

// modesOf says what each mode would take: those of snap's own choice, in the order
// in which it prefers them, and then mode live. w is what writing the dump takes.
func modesOf(ctx context.Context, state hv.State, mem hv.Memory, job *capture.Job, s *capture.Survey, w *capture.Estimate) ([]modeEstimate, error) {
	if state == hv.StatePaused {
		return []modeEstimate{{Mode: string(capture.ModePause), Fits: true, DurationMS: milliseconds(w.Duration), Consistent: true}}, nil
	}
	spooled, unspooled, err := job.PauseEstimates(ctx, mem, s, w)
	if err != nil {
		return nil, err
	}
	var modes []modeEstimate
	if spooled != nil {
		modes = append(modes, pauseMode(spooled, w.Duration, job.MaxPause))
	}
	modes = append(modes, pauseMode(unspooled, 0, job.MaxPause))
	snapshot, err := job.SnapshotEstimate(ctx, mem)
	if err != nil {
		return nil, err
	}
	return append(modes, snapshotMode(snapshot, w.Duration, job.MaxPause), liveMode(mem, spooled, w.Duration)), nil
}

// pauseMode is a pause after which there are things left to do.
func pauseMode(e *capture.PauseEstimate, after, limit time.Duration) modeEstimate {
	return modeEstimate{
		Mode: string(capture.ModePause), Spooled: e.Spooled, Fits: e.Total() <= limit,
		PauseMS: milliseconds(e.Total()), DurationMS: milliseconds(e.Total() + after), Consistent: true,
	}
}

func snapshotMode(e *capture.SnapshotEstimate, after, limit time.Duration) modeEstimate {
	m := modeEstimate{Mode: string(capture.ModeSnapshot), Consistent: true}
	if e.Why != nil {
		m.Why = e.Why.Error()
		return m
	}
	m.Fits = e.Downtime <= limit
	m.PauseMS, m.DurationMS = milliseconds(e.Downtime), milliseconds(e.Saving+after)
	return m
}

// liveMode reads everything twice: the second time to count what changed. Where it
// doesn't copy first, only reading that is slow adds to what writing takes.
func liveMode(mem hv.Memory, spooled *capture.PauseEstimate, writing time.Duration) modeEstimate {
	m := modeEstimate{Mode: string(capture.ModeLive), Fits: true}
	switch {
	case spooled != nil:
		m.Spooled, writing = true, writing+2*spooled.Reading
	case mem.Mechanism() != hv.MechanismDirect:
		writing *= 2
	}
	m.DurationMS = milliseconds(writing)
	return m
}

// how tells the ways of mode pause apart.
func how(m modeEstimate) string {
	switch {
	case m.Spooled:
		return " (copy first)"
	case m.Mode == string(capture.ModePause) && m.PauseMS > 0:
		return " (--spool off)"
	}
	return ""
}
