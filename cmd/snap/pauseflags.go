package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/capture"
	"snap/cmd/snap/internal/limits"
	"snap/phys"
)

// pauseFlags are the flags that say how long a guest may stand still, and at
// what cost to the host.
type pauseFlags struct {
	maxPause time.Duration
	spool    string
}

// Words that --spool takes instead of a size.
const (
	spoolAuto = "auto"
	spoolOff  = "off"
)

// spoolShare is the part of the host's available memory, one in so many, that
// --spool auto takes at most, and spoolLeaves the one that a --spool of any size leaves:
// the host must not have to end a process, which may be a guest's, to get memory.
const (
	spoolShare  = 4
	spoolLeaves = 8
)

func (f *pauseFlags) addTo(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.DurationVar(&f.maxPause, "max-pause", 5*time.Second, "the longest that a running guest may stand still in mode pause")
	fl.StringVar(&f.spool, "spool", spoolAuto,
		"host memory that the guest's pages are copied to first: a `size`, at most seven\neighths of what is available; auto: at most a quarter of it; off: they are\ncompressed as they are read (in mode pause during the pause), as they are where the\nsize doesn't suffice")
	_ = cmd.RegisterFlagCompletionFunc("spool", cobra.FixedCompletions([]string{spoolAuto, spoolOff}, cobra.ShellCompDirectiveNoFileComp))
}

// apply checks the flags and gives them to the capture.
func (f *pauseFlags) apply(o *capture.Options) error {
	if f.maxPause <= 0 {
		return wrongValue("max-pause", f.maxPause, "a time above 0, like 500ms or 5s; a guest that must not stand still is dumped with --mode snapshot or live")
	}
	o.MaxPause = f.maxPause
	switch f.spool {
	case spoolAuto:
		available, err := limits.Available(os.DirFS("/"))
		if err != nil {
			return next(err, "say how much the spool may take with --spool SIZE, or do without: --spool off")
		}
		o.MemoryCopy = available / spoolShare
	case spoolOff:
	default:
		size, err := parseMemory(f.spool)
		if err != nil {
			return wrongValue("spool", f.spool, "auto, off or a size from 1M: "+err.Error())
		}
		o.MemoryCopy = size
		available, err := limits.Available(os.DirFS("/"))
		if most := available - available/spoolLeaves; err == nil && size > most {
			o.MemoryCopy = most
			o.Log.Warn(fmt.Sprintf("--spool %s: the host has %s of memory available, of which snap takes %s at most",
				f.spool, humanize.IBytes(available), humanize.IBytes(most)))
		}
	}
	return nil
}

// pauseAdvice says what would make a pause fit.
func pauseAdvice(err error) error {
	e, ok := errors.AsType[*capture.PauseError](err)
	if !ok {
		return err
	}
	enough := max(e.Estimate.Total().Most, e.Stood, e.Ends) * 3 / 2
	advice := fmt.Sprintf("allow more with --max-pause %v", max(enough.Round(100*time.Millisecond), 100*time.Millisecond))
	if !e.Estimate.Copied {
		advice += fmt.Sprintf("; or copy first, with --spool %s", roundUp(e.Estimate.Pages<<phys.PageShift))
	}
	return next(err, "%s; --source direct is faster than peek; snap check says what each way takes", advice)
}

// roundUp prints a size for --spool that n bytes and some growth fit.
func roundUp(n uint64) string { return fmt.Sprintf("%dMiB", (n+n/8)>>20+64) }
