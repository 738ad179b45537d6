package main

import (
	"snap/capture"
	"snap/cmd/snap/internal/progress"
	"snap/dump"
)

// display shows how far a dump is: it is the observer of the capture. The phases
// that count something get a bar or, in a log, a record now and then.
type display struct {
	a    *app
	name string // of what is dumped

	// writing is what writing is called, empty for "dumping".
	writing string
	// begins is called with each phase, nil for nothing.
	begins func(capture.Event)

	stop func() // ends what is shown, nil if nothing is
}

// phaseNames are the phases that are shown, and how.
var phaseNames = map[capture.Phase]string{
	capture.PhaseSave:   "saving",
	capture.PhaseWrite:  "dumping",
	capture.PhaseVerify: "verifying",
}

// Begins implements capture.Observer.
func (d *display) Begins(e capture.Event) {
	d.end()
	if d.begins != nil {
		d.begins(e)
	}
	d.a.log.Debug().Str("phase", string(e.Phase)).Bool("held", e.Held).Dur("stood", e.Stood).Msg("phase")
	what := phaseNames[e.Phase]
	if e.Phase == capture.PhaseWrite && d.writing != "" {
		what = d.writing
	}
	if what != "" && e.Progress != nil {
		d.stop = d.a.showProgress(what+" "+d.name, e.Progress)
	}
}

// end ends what is shown.
func (d *display) end() {
	if d.stop != nil {
		d.stop()
		d.stop = nil
	}
}

// showProgress displays p in the way that suits where standard error goes.
func (a *app) showProgress(name string, p *dump.Progress) (stop func()) {
	style := progress.Log
	switch {
	case a.quiet:
		style = progress.None
	case a.logFormat == logConsole && isTerminal(a.stderr):
		style = progress.Bar
	}
	return progress.Show(a.stderr, a.log, style, name, counter{p})
}

// counter shows a dump.Progress as bytes of the expanded dump.
type counter struct{ p *dump.Progress }

func (c counter) Done() uint64  { return c.p.Done.Load() }
func (c counter) Total() uint64 { return c.p.Total.Load() }
