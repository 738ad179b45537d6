package main

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"snap/cmd/snap/internal/capture"
	"snap/cmd/snap/internal/table"
	"snap/exclude"
	"snap/manifest"
	"snap/phys"
)

// lookOptions are the flags that decide what a dump holds.
type lookOptions struct {
	format       string
	exclude      []string
	noAdvertised bool
	maxExcluded  string
}

func (o *lookOptions) addTo(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.format, "format", string(capture.FormatAuto),
		"full: runs of pages (type 1); bitmap: any number of holes (type 5);\nauto: full while the runs fit its header")
	f.StringArrayVar(&o.exclude, "exclude", nil,
		"leave out more: `RANGES` like pa:0x1000+16 or va:0xfffff80012340000+4 (in pages),\nor @file with one on each line; repeatable")
	f.BoolVar(&o.noAdvertised, "no-advertised", false, "leave out nothing that the guest advertises; it is still listed")
	f.StringVar(&o.maxExcluded, "max-excluded", "50%", "fail if more than this would be left out: a size or a share of the guest's memory")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"auto", "full", "bitmap"}, cobra.ShellCompDirectiveNoFileComp))
}

// options checks the flags.
func (o *lookOptions) options() (capture.Options, error) {
	format := capture.Format(o.format)
	switch format {
	case capture.FormatAuto, capture.FormatFull, capture.FormatBitmap:
	default:
		return capture.Options{}, usageError("--format is %q; it can be auto, full or bitmap", o.format)
	}
	limit, err := parseLimit(o.maxExcluded)
	if err != nil {
		return capture.Options{}, err
	}
	requests, err := exclude.ParseRanges(o.exclude, func(name string) (io.ReadCloser, error) { return os.Open(name) })
	if err != nil {
		return capture.Options{}, &cmdError{err: err, code: exitUsage, next: "write ranges like pa:0x1000+16 (guest-physical) or va:0xfffff80012340000+4 (virtual), counted in 4 KiB pages"}
	}
	return capture.Options{
		Comment: comment(), Format: format,
		Exclusion: capture.Exclusion{Requests: requests, NoAdvertised: o.noAdvertised, Limit: limit},
	}, nil
}

// parseLimit reads 50% or 4GiB.
func parseLimit(s string) (capture.Limit, error) {
	wrong := usageError("--max-excluded is %q; it takes a size like 4GiB, or a share like 50%%", s)
	if share, ok := strings.CutSuffix(s, "%"); ok {
		n, err := strconv.ParseUint(share, 10, 8)
		if err != nil || n == 0 || n > 100 {
			return capture.Limit{}, wrong
		}
		return capture.Limit{Percent: n}, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil || n < phys.PageSize {
		return capture.Limit{}, wrong
	}
	return capture.Limit{Pages: n >> phys.PageShift}, nil
}

// maxRefusals bounds the lines on refused requests in a summary: a hostile
// guest may have a hundred thousand refused. What was left out is always
// listed in full.
const maxRefusals = 1000

// addExclusions adds the account of all requests to a summary.
func addExclusions(sum *manifest.Manifest, s *capture.Survey) {
	sum.Pages.Excluded = s.Excluded
	plan := s.Exclusions
	sum.Excluded, sum.Repeated, sum.Refused, sum.Ignored = []manifest.Exclusion{}, 0, nil, nil
	for _, e := range plan.Entries {
		if e.Excluded == 0 && e.Shared > 0 {
			// Nothing but pages that others asked for before.
			sum.Repeated++
			continue
		}
		line := exclusionOf(e.Request)
		line.Pages, line.Shared, line.NotPresent = e.Excluded, e.Shared, e.NotPresent
		sum.Excluded = append(sum.Excluded, line)
	}
	for i, r := range plan.Refused {
		if i == maxRefusals {
			sum.RefusedOmitted = len(plan.Refused) - i
			break
		}
		line := exclusionOf(r.Request)
		line.Reason, line.Status, line.Requests = r.Reason, r.Status.String(), r.Requests
		sum.Refused = append(sum.Refused, line)
	}
	for i, r := range plan.Ignored {
		if i == maxRefusals {
			sum.IgnoredOmitted = len(plan.Ignored) - i
			break
		}
		line := exclusionOf(r.Request)
		line.Reason = r.Why
		sum.Ignored = append(sum.Ignored, line)
	}
}

func exclusionOf(r exclude.Request) manifest.Exclusion {
	return manifest.Exclusion{
		By: r.By, Kind: r.Kind().String(), Address: manifest.Hex(r.Address), Pages: r.Pages,
		Features: manifest.Hex(r.Features()), Reason: string(r.Reason),
	}
}

// exclusionTable lists what stays out of a dump, what was refused and what was
// ignored, for a person.
func exclusionTable(sum *manifest.Manifest) *table.Table {
	t := &table.Table{
		Columns: []string{"VERDICT", "ASKED BY", "RANGE", "PAGES", "WHY"},
		Right:   map[string]bool{"PAGES": true},
	}
	add := func(verdict string, lines []manifest.Exclusion, more int) {
		for i, l := range lines {
			if i == maxListed {
				more += len(lines) - i
				break
			}
			why := l.Reason
			if l.NotPresent > 0 {
				why += fmt.Sprintf(", %s not in memory", humanize.Comma(int64(l.NotPresent)))
			}
			if l.Status != "" {
				why += " (" + l.Status + ")"
			}
			t.Add(verdict, printable(l.By), l.Kind+" "+l.Address.String(), strconv.FormatUint(l.Pages, 10), why)
		}
		if more > 0 {
			t.Add(verdict, fmt.Sprintf("… %d more", more))
		}
	}
	add("left out", sum.Excluded, sum.Repeated)
	add("refused", sum.Refused, sum.RefusedOmitted)
	add("kept", sum.Ignored, sum.IgnoredOmitted)
	return t
}

// maxListed bounds the lines of a verdict in a table for people.
const maxListed = 40
