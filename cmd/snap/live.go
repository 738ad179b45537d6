package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/cmd/snap/internal/capture"
	"snap/manifest"
)

// liveOptions are the flags of mode live. Other modes pay no heed to them, as
// mode live doesn't to --max-pause.
type liveOptions struct {
	maxChanged string

	pages uint64  // that may change
	share float64 // of the dump's pages; counts if it is not negative
}

func (o *liveOptions) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.maxChanged, "max-changed", "1%",
		"exit with 3 if in mode live more `pages` than that changed while they were read:\na share of the dump's pages, or a number of them")
}

// parse reads 1%, 0.5% or 2000.
func (o *liveOptions) parse() error {
	wrong := usageError("--max-changed is %q; it takes a share of the dump's pages like 1%% or 0.5%%, or a number of pages", o.maxChanged)
	if text, ok := strings.CutSuffix(o.maxChanged, "%"); ok {
		percent, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(percent) || percent < 0 || percent > 100 {
			return wrong
		}
		o.share = percent / 100
		return nil
	}
	var err error
	if o.pages, err = strconv.ParseUint(o.maxChanged, 10, 64); err != nil {
		return wrong
	}
	o.share = -1
	return nil
}

// limit returns how many pages may change of a dump with so many.
func (o *liveOptions) limit(pages uint64) uint64 {
	if o.share < 0 {
		return o.pages
	}
	return uint64(math.Round(o.share * float64(pages)))
}

// addLive adds what mode live counted, as soon as that and how many pages the
// dump has are known.
func (o *liveOptions) addLive(sum *manifest.Manifest, r *capture.Result) {
	if r.Live == nil {
		return
	}
	sum.Pages.ChangedWhileReading = r.Live.Changed
	sum.Live = &manifest.Live{MaxChanged: o.limit(sum.Pages.Written), Core: manifest.Core(r.Live.Core)}
	if r.Live.Changed > sum.Live.MaxChanged {
		sum.Warn("%s of the pages changed while they were read, and --max-changed %s allows %s: use --mode pause, or --mode snapshot where the guest must not stand still",
			changedPages(sum), o.maxChanged, humanize.Comma(int64(sum.Live.MaxChanged)))
	}
}

// smeared reports whether a dump of mode live is worse than it may be.
func smeared(sum *manifest.Manifest) bool {
	l := sum.Live
	return l != nil && (l.Core.Unsettled > 0 || sum.Pages.ChangedWhileReading > l.MaxChanged)
}

// changedPages says how many pages changed, and which share of the dump they
// are.
func changedPages(sum *manifest.Manifest) string {
	n := sum.Pages.ChangedWhileReading
	percent := 0.0
	if sum.Pages.Written > 0 {
		percent = 100 * float64(n) / float64(sum.Pages.Written)
	}
	share := fmt.Sprintf("%.1f %%", percent)
	if n > 0 && percent < 0.05 {
		share = "below 0.1 %"
	}
	return fmt.Sprintf("%s (%s)", humanize.Comma(int64(n)), share)
}
