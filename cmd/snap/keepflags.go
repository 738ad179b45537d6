package main

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"snap/retention"
)

// keepFlags are the flags that say which dumps stay.
type keepFlags struct {
	last, hourly, daily, weekly, monthly int
	within                               string
}

func (f *keepFlags) addTo(cmd *cobra.Command, suffix string) {
	fl := cmd.Flags()
	fl.IntVar(&f.last, "keep-last", 0, "keep the `N` newest dumps of a domain"+suffix)
	fl.IntVar(&f.hourly, "keep-hourly", 0, "keep the last dump of each of the last `N` hours that have one"+suffix)
	fl.IntVar(&f.daily, "keep-daily", 0, "the same of `N` days"+suffix)
	fl.IntVar(&f.weekly, "keep-weekly", 0, "the same of `N` weeks, which begin on Monday"+suffix)
	fl.IntVar(&f.monthly, "keep-monthly", 0, "the same of `N` months"+suffix)
	fl.StringVar(&f.within, "keep-within", "", "keep what is at most `SPAN` older than the newest dump of the domain, such as 36h,\n14d or 8w"+suffix)
}

// policy checks the flags.
func (f *keepFlags) policy() (retention.Policy, error) {
	p := retention.Policy{Last: f.last, Hourly: f.hourly, Daily: f.daily, Weekly: f.weekly, Monthly: f.monthly}
	for name, n := range map[string]int{
		"keep-last": f.last, "keep-hourly": f.hourly, "keep-daily": f.daily, "keep-weekly": f.weekly, "keep-monthly": f.monthly,
	} {
		if n < 0 {
			return p, wrongValue(name, n, "a number of dumps to keep, such as 7")
		}
	}
	if f.within != "" {
		var err error
		if p.Within, err = parseSpan(f.within); err != nil {
			return p, wrongValue("keep-within", f.within, err.Error())
		}
	}
	return p, nil
}

// errSpan says what a span of time looks like.
var errSpan = errors.New("a time like 36h, 14d or 8w")

// parseSpan reads a time that may be as long as years: a whole number of days (d) or
// weeks (w), or what time.ParseDuration takes; above 0.
func parseSpan(s string) (time.Duration, error) {
	for unit, size := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		number, ok := strings.CutSuffix(s, unit)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n <= 0 || n > math.MaxInt64/int64(size) {
			return 0, errSpan
		}
		return time.Duration(n) * size, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, errSpan
	}
	return d, nil
}
