package main

import (
	"fmt"
	"io"

	"golang.org/x/term"

	"snap/capture"
	"snap/cmd/snap/internal/outlet"
	"snap/cmd/snap/internal/progress"
	"snap/dump"
)

// display shows the phases of a dump: it is the observer of the capture. What it
// shows is written by a goroutine, so that nobody who reads it delays a pause.
type display struct {
	name string // of what is dumped

	// writing is what writing is called, empty for "compressing".
	writing string
	// begins is called with each phase, nil for nothing.
	begins func(capture.Event)

	show *progress.Show
}

// newDisplay returns a display, of which end must be called.
func (a *app) newDisplay(name, writing string, begins func(capture.Event)) *display {
	return &display{name: name, writing: writing, begins: begins, show: a.newShow()}
}

// phaseNames are what phases are called where that isn't what the library does.
var phaseNames = map[capture.Phase]string{capture.PhaseWrite: "compressing"}

// Begins implements capture.Observer.
func (d *display) Begins(e capture.Event) {
	if d.begins != nil {
		d.begins(e)
	}
	p := progress.Phase{Name: string(e.Phase), Expect: e.Expect, Held: e.Held}
	if name := phaseNames[e.Phase]; name != "" {
		p.Name = name
	}
	p.Text = p.Name
	if e.Progress != nil {
		p.Counter = counter{e.Progress}
	}
	switch {
	case e.Phase == capture.PhasePaused:
		p.Text = "PAUSED"
	case e.Phase == capture.PhaseRunning:
		p.Text = fmt.Sprintf("RUNNING again after %s", duration(milliseconds(e.Stood)))
		p.Once, p.Stood = true, e.Stood
	case e.Phase == capture.PhaseLook:
		p.Text = "looking at"
	case e.Phase == capture.PhaseWrite && d.writing != "":
		p.Text = d.writing
	case e.Phase == capture.PhaseWrite && e.Held:
		p.Text = "PAUSED: compressing"
	}
	switch e.Phase {
	case capture.PhaseReserve, capture.PhaseEstimate, capture.PhaseRunning: // not of the guest
	default:
		p.Text += " " + d.name
	}
	d.show.Begin(p)
}

// end ends what is shown.
func (d *display) end() { d.show.End() }

// newShow returns what shows phases in the way that suits where standard error goes.
// A terminal that gets a debug log too has no room for bars.
func (a *app) newShow() *progress.Show {
	style := progress.Log
	switch {
	case a.quiet:
		style = progress.None
	case a.logFormat == logJSON:
		style = progress.JSON
	case hasLines(a.stderr) && !a.verbose:
		style = progress.Bar
	}
	return progress.New(a.stderr, a.log, style)
}

// showProgress displays a job of one phase until the returned function is called.
// name is for programs, text for people.
func (a *app) showProgress(name, text string, p *dump.Progress) (stop func()) {
	s := a.newShow()
	s.Begin(progress.Phase{Name: name, Text: text, Counter: counter{p}})
	return s.End
}

// counter shows a dump.Progress as bytes of the expanded dump.
type counter struct{ p *dump.Progress }

func (c counter) Done() uint64  { return c.p.Done.Load() }
func (c counter) Total() uint64 { return c.p.Total.Load() }

// Written implements progress.Writer.
func (c counter) Written() uint64 { return c.p.Written.Load() }

// hasLines reports whether w is a terminal that lines can be redrawn on. Some that
// programs make have no size.
func hasLines(w io.Writer) bool {
	_, lines := terminalSize(w)
	return lines > 0
}

// terminalColumns returns how many cells a line of the terminal w has, 0 if it is
// none.
func terminalColumns(w io.Writer) int {
	columns, _ := terminalSize(w)
	return columns
}

func terminalSize(w io.Writer) (columns, lines int) {
	f := outlet.File(w)
	if f == nil {
		return 0, 0
	}
	columns, lines, err := term.GetSize(int(f.Fd()))
	if err != nil || columns <= 0 || lines <= 0 {
		return 0, 0
	}
	return columns, lines
}
