package main

import (
	"math"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"snap/capture"
)

// liveFlags are the flags of mode live. Other modes pay no heed to them, as
// mode live doesn't to --max-pause.
type liveFlags struct {
	maxChanged string
}

func (f *liveFlags) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.maxChanged, "max-changed", "1%",
		"exit with 3 if in mode live more `pages` than that changed while they were read:\na share of the dump's pages, or a number of them")
}

// parse reads 1%, 0.5% or 2000.
func (f *liveFlags) parse() (*capture.ChangeLimit, error) {
	wrong := wrongValue("max-changed", f.maxChanged, "a share of the dump's pages like 1% or 0.5%, or a number of pages like 2000")
	if text, ok := strings.CutSuffix(f.maxChanged, "%"); ok {
		percent, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(percent) || percent < 0 || percent > 100 {
			return nil, wrong
		}
		return &capture.ChangeLimit{Share: percent / 100}, nil
	}
	pages, err := strconv.ParseUint(f.maxChanged, 10, 64)
	if err != nil {
		return nil, wrong
	}
	return &capture.ChangeLimit{Pages: pages}, nil
}
