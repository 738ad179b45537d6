package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/cmd/snap/internal/capture"
	"snap/cmd/snap/internal/limits"
	"snap/manifest"
)

// pauseOptions are the flags that say how long a guest may stand still, and at
// what cost to the host.
type pauseOptions struct {
	maxPause time.Duration
	spool    string
}

// Words that --spool takes instead of a size.
const (
	spoolAuto = "auto"
	spoolOff  = "off"
)

// spoolShare is the part of the host's available memory, one in so many, that
// --spool auto takes at most.
const spoolShare = 4

func (o *pauseOptions) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.DurationVar(&o.maxPause, "max-pause", 5*time.Second, "the longest that a running guest may stand still in mode pause")
	f.StringVar(&o.spool, "spool", spoolAuto,
		"host memory that the guest's pages are copied to first: a `size`; auto: at most\na quarter of what is available; off: they are compressed as they are read (in\nmode pause during the pause), as they are where the size doesn't suffice")
	_ = cmd.RegisterFlagCompletionFunc("spool", cobra.FixedCompletions([]string{spoolAuto, spoolOff}, cobra.ShellCompDirectiveNoFileComp))
}

// apply checks the flags and gives them to the job.
func (o *pauseOptions) apply(job *capture.Job) error {
	if o.maxPause <= 0 {
		return usageError("--max-pause is %v; it takes a time like 500ms or 5s", o.maxPause)
	}
	job.MaxPause = o.maxPause
	switch o.spool {
	case spoolAuto:
		available, err := limits.Available(os.DirFS("/"))
		if err != nil {
			return next(err, "say how much the spool may take with --spool SIZE, or do without: --spool off")
		}
		job.Spool = available / spoolShare
	case spoolOff:
	default:
		size, err := humanize.ParseBytes(o.spool)
		if err != nil || size == 0 {
			return usageError("--spool is %q; it takes a size like 8GiB, auto or off", o.spool)
		}
		job.Spool = size
	}
	return nil
}

// addPause adds how the guest was held still, as far as it is known.
func addPause(sum *manifest.Manifest, r *capture.Result) {
	sum.Source, sum.Consistent, sum.Spooled = string(r.Mechanism), r.Consistent, r.Spooled
	sum.PauseMS, sum.PauseEstimateMS = milliseconds(r.Pause), milliseconds(r.Estimate.Total())
	if r.Mode != "" {
		sum.Mode = string(r.Mode)
	}
	if r.Mode == capture.ModeSnapshot {
		down := milliseconds(r.Downtime)
		sum.DowntimeMS = &down
		if r.StallSeen {
			stall := milliseconds(r.Stall)
			sum.StallMS = &stall
		}
	}
}

// pauseAdvice says what would make a pause fit.
func pauseAdvice(err error) error {
	e, ok := errors.AsType[*capture.PauseError](err)
	if !ok {
		return err
	}
	enough := max(e.Estimate.Total(), e.Stood) * 3 / 2
	advice := fmt.Sprintf("allow more with --max-pause %v", max(enough.Round(100*time.Millisecond), 100*time.Millisecond))
	if !e.Estimate.Spooled {
		advice += fmt.Sprintf("; or copy first, with --spool %s", roundUp(e.Estimate.Pages<<12))
	}
	return next(err, "%s; --source direct is faster than peek; snap check says what each way takes", advice)
}

// roundUp prints a size for --spool that n bytes and some growth fit.
func roundUp(n uint64) string { return fmt.Sprintf("%dMiB", (n+n/8)>>20+64) }
