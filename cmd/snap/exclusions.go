package main

import (
	"fmt"
	"strconv"

	"github.com/dustin/go-humanize"

	"snap/cmd/snap/internal/table"
	"snap/manifest"
)

// exclusionTable lists what stays out of a dump, what was refused and what was
// ignored, for a person.
func exclusionTable(sum *manifest.Manifest) *table.Table {
	t := &table.Table{
		Columns: []string{"VERDICT", "ASKED BY", "RANGE", "PAGES", "WHY"},
		Right:   map[string]bool{"PAGES": true},
		Most:    map[string]int{"ASKED BY": 16, "RANGE": 26, "PAGES": 8},
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
			t.Add(verdict, printable(brief(l.By)), printable(brief(l.Kind))+" "+l.Address.String(), strconv.FormatUint(l.Pages, 10), printable(brief(why)))
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
