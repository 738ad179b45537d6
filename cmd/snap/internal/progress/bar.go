package progress

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/mattn/go-runewidth"
	"github.com/vbauerster/cupwriter"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"snap/cmd/snap/internal/outlet"
)

// How bars look. A line takes at most 79 cells: some terminals break it at 80.
const (
	barInterval = 200 * time.Millisecond
	barCells    = 14
	textCells   = 27
)

// barReporter draws a line for each phase, with a bar if it counts something. The
// lines of phases that are over stay.
type barReporter struct {
	container *mpb.Progress
	bar       *mpb.Bar
	phase     *shown
}

// shown is a phase as a line shows it, from mpb's goroutine.
type shown struct {
	begun
	ended atomic.Pointer[time.Time]
}

func newBarReporter(w io.Writer) *barReporter {
	return &barReporter{container: newContainer(w)}
}

func newContainer(w io.Writer) *mpb.Progress {
	cw := cupwriter.New(w, false)
	if f := outlet.File(w); f != nil {
		cw.SetTermFd(int(f.Fd())) // w may stand before it
	}
	return mpb.New(mpb.WithConsoleWriter(cw), mpb.WithWidth(barCells), mpb.WithAutoRefresh(), mpb.PopCompletedMode(), mpb.WithRefreshRate(barInterval))
}

func (r *barReporter) begin(p begun) {
	s := &shown{begun: p}
	text := runewidth.FillRight(runewidth.Truncate(p.Text, textCells, "…"), textCells)
	name := decor.Any(func(decor.Statistics) string { return text })
	about := decor.Any(func(decor.Statistics) string { return s.about(time.Now()) })
	filler := mpb.NopStyle()
	if p.Counter != nil {
		filler = countedStyle{p.Counter}
	}
	r.phase = s
	r.bar = r.container.New(1000, filler, mpb.PrependDecorators(name), mpb.AppendDecorators(about))
	if p.Once {
		r.end(p.at)
	}
}

// countedStyle draws a bar from when there is something to count.
type countedStyle struct{ Counter }

// Build implements mpb.BarFillerBuilder.
func (c countedStyle) Build() mpb.BarFiller {
	bar := mpb.BarStyle().Build()
	return mpb.BarFillerFunc(func(w io.Writer, st decor.Statistics) error {
		if c.Total() == 0 {
			return nil
		}
		return bar.Fill(w, st)
	})
}

func (r *barReporter) tick(time.Time) {
	if share, ok := r.phase.share(); ok && share < 1 {
		r.bar.SetCurrent(int64(1000 * share))
	}
}

func (r *barReporter) end(now time.Time) {
	r.phase.ended.Store(&now)
	// A phase that ended early keeps the share that it reached.
	if share, ok := r.phase.share(); !ok || share >= 1 {
		r.bar.SetCurrent(1000)
	} else {
		r.bar.SetCurrent(int64(1000 * share))
		r.bar.Abort(false)
	}
	r.bar.Wait()
}

func (r *barReporter) finish() { r.container.Wait() }

// about is what follows the bar: how far the phase is, and how long it takes yet, or
// took.
func (s *shown) about(now time.Time) string {
	if s.Once {
		return ""
	}
	if end := s.ended.Load(); end != nil {
		took := end.Sub(s.at)
		if s.Counter == nil || s.Counter.Total() == 0 || took <= 0 {
			return " " + exactly(took)
		}
		return fmt.Sprintf(" %s in %s", humanize.IBytes(s.Counter.Done()), exactly(took))
	}
	text := " "
	if share, ok := s.share(); ok {
		text = fmt.Sprintf(" %3d %% of %s, ", int(100*share), humanize.IBytes(s.Counter.Total()))
	}
	if left, ok := s.left(now); ok {
		return text + "about " + about(left) + " left"
	}
	return text + "for " + about(now.Sub(s.at))
}
