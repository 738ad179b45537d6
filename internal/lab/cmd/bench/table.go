package main

import (
	"fmt"
	"io"
	"strings"
)

// tableOf prints the rows as a table in Markdown, each beside what compresses the same
// pages and nothing else.
func tableOf(w io.Writer, rows []*row) {
	unit := find(rows, rowCompress)
	if unit == nil {
		unit = find(rows, rowPeekRead)
	}
	var left []string
	head := []string{"", "takes (s)", "least to most", "against the limit", "processor time (s)", "stands still (ms)", "file (MiB)"}
	lines := [][]string{head, {"---", "---:", "---:", "---:", "---:", "---:", "---:"}}
	for _, r := range rows {
		if r.Why != "" {
			left = append(left, fmt.Sprintf("Left out: %s: %s.", r.Name, r.Why))
		}
		if len(r.Samples) == 0 {
			continue
		}
		least, most := r.spread(took)
		file := number(r.median(stored)/(1<<20), 0)
		if r.Limit {
			file = "–"
		}
		lines = append(lines, []string{
			r.Name, number(r.median(took), 2), number(least, 2) + " to " + number(most, 2), number(ratio(r, unit, took, took), 2),
			orDash(r.median(cpu), 2), orDash(1000*r.median(still), 0), file,
		})
	}
	printTable(w, lines)
	for _, l := range left {
		fmt.Fprintf(w, "\n%s\n", l)
	}
}

// orDash is number, and a dash for 0.
func orDash(v float64, digits int) string {
	if v == 0 {
		return "–"
	}
	return number(v, digits)
}

// goalTable prints goals as a table in Markdown.
func goalTable(w io.Writer, goals []goal) {
	lines := [][]string{{"goal", "at most", "measured", ""}, {"---", "---:", "---:", "---"}}
	for _, g := range goals {
		lines = append(lines, []string{g.What, number(g.Most, 2), number(g.Ratio, 3), g.verdict()})
	}
	printTable(w, lines)
}

func printTable(w io.Writer, lines [][]string) {
	for _, cells := range lines {
		fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
	}
}
