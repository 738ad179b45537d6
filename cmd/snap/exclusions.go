package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize"

	"snap/cmd/snap/internal/table"
	"snap/manifest"
	"snap/phys"
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
			if l.Unresolved > 0 {
				why += fmt.Sprintf(", %s MAY BE IN THE DUMP", humanize.Comma(int64(l.Unresolved)))
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

// addLeftOut adds lines on what a dump lacks of the guest's memory because it was
// asked to stay out, and on what is in it all the same.
func addLeftOut(p *table.Pairs, m *manifest.Manifest) {
	if m.Pages.Excluded > 0 {
		p.Add("left out", "%s pages, as asked for; the manifest lists by whom", humanize.Comma(int64(m.Pages.Excluded)))
	}
	addUnmet(p, m)
	if u := m.Unmet; u != nil && u.Kept > 0 {
		p.Add("kept", "%s to leave pages out, by --no-advertised", plural(u.Kept, "request"))
	}
}

// addUnmet adds lines on what was to stay out and is, or may be, in a dump, and on
// the RAM that Windows doesn't list.
func addUnmet(p *table.Pairs, m *manifest.Manifest) {
	if u := m.Unmet; u.Any() {
		var parts []string
		add := func(n int, format string, args ...any) {
			if n > 0 {
				parts = append(parts, fmt.Sprintf(format, args...))
			}
		}
		add(u.Refused, "%s refused", plural(u.Refused, "request"))
		add(u.Unresolved, "%s not found (%s)", plural(int(u.Pages), "page"), plural(u.Unresolved, "request"))
		add(u.Unread, "%s of requests not read", plural(u.Unread, "table"))
		p.Add("NOT left out", "%s: may be in the dump", strings.Join(parts, ", "))
	}
	switch {
	case m.Pages.Hidden > 0:
		p.Add("not listed", "%s of RAM, which Windows doesn't list: not in the dump", humanize.IBytes(m.Pages.Hidden<<phys.PageShift))
	case m.Pages.Unlisted > 0:
		p.Add("not listed", "%s of RAM, which Windows doesn't list: in the dump too", humanize.IBytes(m.Pages.Unlisted<<phys.PageShift))
	}
}

// maxListed bounds the lines of a verdict in a table for people.
const maxListed = 40
