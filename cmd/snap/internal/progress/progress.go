// Package progress tells a person or a log how far a long job is.
package progress

import (
	"io"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rs/zerolog"
	"github.com/vbauerster/cupwriter"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"snap/cmd/snap/internal/outlet"
)

// Intervals between two reports.
const (
	barInterval = 200 * time.Millisecond
	logInterval = 10 * time.Second
)

// Counter is what a job exposes: bytes done so far and in all. The total may
// be 0 while it is not known yet. Both are called from another goroutine.
type Counter interface {
	Done() uint64
	Total() uint64
}

// Style says how progress is shown.
type Style int

// Styles of progress.
const (
	None Style = iota
	Bar        // a bar that redraws itself, for terminals
	Log        // a record every 10 s
)

// Show reports c under the given name until the returned function is called,
// which waits for the last report.
func Show(w io.Writer, log zerolog.Logger, style Style, name string, c Counter) (stop func()) {
	if style == None {
		return func() {}
	}
	quit, done := make(chan struct{}), make(chan struct{})
	report, interval, finish := logReporter(log, name, c), logInterval, func() {}
	if style == Bar {
		report, finish = barReporter(w, name, c)
		interval = barInterval
	}
	go func() {
		defer close(done)
		t := time.NewTicker(interval)
		defer t.Stop()
		for {
			select {
			case <-quit:
				return
			case <-t.C:
				report()
			}
		}
	}()
	return func() {
		close(quit)
		<-done
		if style == Bar {
			report()
		}
		finish()
	}
}

func logReporter(log zerolog.Logger, name string, c Counter) func() {
	start := time.Now()
	return func() {
		done, total := c.Done(), c.Total()
		e := log.Info().Uint64("bytes_done", done).Uint64("bytes_total", total)
		if total > 0 {
			e = e.Int("percent", int(min(done, total)*100/total))
		}
		if s := time.Since(start).Seconds(); s > 0 {
			e = e.Str("rate", humanize.IBytes(uint64(float64(done)/s))+"/s")
		}
		e.Msg(name)
	}
}

func barReporter(w io.Writer, name string, c Counter) (report, finish func()) {
	cw := cupwriter.New(w, false)
	if f := outlet.File(w); f != nil {
		cw.SetTermFd(int(f.Fd())) // w may stand before it
	}
	p := mpb.New(mpb.WithConsoleWriter(cw), mpb.WithWidth(40), mpb.WithAutoRefresh())
	bar := p.AddBar(int64(c.Total()),
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR), decor.Percentage(decor.WC{W: 5})),
		mpb.AppendDecorators(
			decor.Counters(decor.SizeB1024(0), "% .1f / % .1f"),
			decor.OnComplete(decor.AverageSpeed(decor.SizeB1024(0), " % .1f"), ""),
			decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace), ""),
		),
	)
	report = func() {
		bar.SetTotal(int64(c.Total()), false)
		bar.SetCurrent(int64(c.Done()))
	}
	finish = func() {
		// A job that ended early keeps the share that it reached.
		if done, total := c.Done(), c.Total(); total > 0 && done >= total {
			bar.SetTotal(int64(total), true)
		} else {
			bar.Abort(false)
		}
		p.Wait()
	}
	return report, finish
}
