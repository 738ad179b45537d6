package progress

import (
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/rs/zerolog"
)

// When a log hears of a phase after it has begun: soon, so that it is known how
// long it takes, and then now and then.
const (
	logSoon     = time.Second
	logInterval = 10 * time.Second
)

// logReporter writes records: with fields for programs, or text for people.
//
// The fields are event ("phase" as one begins, "progress" while it lasts), phase,
// percent and eta_s, both null where nothing is known of them; with a counter
// bytes_done, bytes_total and bytes_per_s; held where a guest stands still, and
// stood_ms when it goes on.
type logReporter struct {
	log    zerolog.Logger
	fields bool

	phase begun
	next  time.Time
}

func (r *logReporter) begin(p begun) {
	r.phase, r.next = p, p.at.Add(logSoon)
	r.report("phase", p.at)
}

func (r *logReporter) tick(now time.Time) {
	if now.Before(r.next) {
		return
	}
	r.next = r.phase.at.Add(now.Sub(r.phase.at).Truncate(logInterval) + logInterval)
	r.report("progress", now)
}

func (r *logReporter) end(now time.Time) {
	e := r.log.Debug().Str("event", "phase_end").Str("phase", r.phase.Name).
		Int64("took_ms", now.Sub(r.phase.at).Milliseconds())
	if c := r.phase.Counter; c != nil {
		e = e.Uint64("bytes_done", c.Done()).Str("rate", humanize.IBytes(uint64(r.phase.rate(now)))+"/s")
		if out, ok := c.(Writer); ok && out.Written() > 0 {
			e = e.Uint64("bytes_written", out.Written()).Str("ratio", fmt.Sprintf("%.1f:1", float64(c.Done())/float64(out.Written())))
		}
	}
	e.Msg(r.phase.Text + ": ended")
}

func (r *logReporter) finish() {}

func (r *logReporter) report(event string, now time.Time) {
	p := &r.phase
	share, counted := p.share()
	left, known := p.left(now)
	if !r.fields {
		r.log.Info().Msg(p.line(now))
		return
	}
	e := r.log.Info().Str("event", event).Str("phase", p.Name)
	if p.Once {
		e.Float64("stood_ms", float64(p.Stood.Microseconds())/1000).Msg(p.Text)
		return
	}
	e = e.Bool("held", p.Held)
	if counted {
		e = e.Int("percent", int(100*share))
	} else {
		e = e.Interface("percent", nil)
	}
	if known {
		e = e.Float64("eta_s", seconds(left))
	} else {
		e = e.Interface("eta_s", nil)
	}
	if c := p.Counter; c != nil {
		e = e.Uint64("bytes_done", c.Done()).Uint64("bytes_total", c.Total()).Uint64("bytes_per_s", uint64(p.rate(now)))
	}
	e.Msg(p.Text)
}

// line says how far the phase is.
func (p *begun) line(now time.Time) string {
	var far []string
	if share, ok := p.share(); ok && share > 0 {
		far = append(far, fmt.Sprintf("%d %%", int(100*share)),
			fmt.Sprintf("%s of %s", humanize.IBytes(p.Counter.Done()), humanize.IBytes(p.Counter.Total())))
	}
	if rate := p.rate(now); rate > 0 {
		far = append(far, humanize.IBytes(uint64(rate))+"/s")
	}
	if left, ok := p.left(now); ok {
		far = append(far, "about "+about(left)+" left")
	}
	if len(far) == 0 {
		return p.Text
	}
	return p.Text + ": " + strings.Join(far, ", ")
}

// seconds are rounded to a tenth.
func seconds(d time.Duration) float64 {
	return float64(d.Round(100*time.Millisecond)) / float64(time.Second)
}
