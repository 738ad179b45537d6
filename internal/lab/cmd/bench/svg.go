package main

import (
	"fmt"
	"html"
	"io"
	"math"
)

// Measures of the plot, in pixels.
const (
	plotWidth  = 900
	labelWidth = 300
	barHeight  = 16
	barStep    = 22
	titleStep  = 34
	margin     = 16
	valueWidth = 90 // room for the number behind a bar
)

// Colours of bars: what there is no way around, others, and snap.
const (
	colourLimit = "#9aa0a6"
	colourPeer  = "#d98c3f"
	colourSnap  = "#2f74c0"
)

// group is the rows of one guest.
type group struct {
	Title string
	Rows  []*row
}

// plot writes an SVG with a bar for what each row takes, one block for each group.
// Every group has a scale of its own.
func plot(w io.Writer, title string, groups []group) error {
	height := margin + titleStep
	for _, g := range groups {
		height += titleStep + barStep*len(measured(g.Rows))
	}
	height += barStep + margin
	p := &printer{w: w}
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, height, plotWidth, height)
	p.printf(`<rect width="100%%" height="100%%" fill="white"/>` + "\n")
	y := margin + 14
	p.text(margin, y, "start", `font-size="16" font-weight="bold"`, title)
	y += titleStep / 2
	for _, g := range groups {
		y = p.group(y, g)
	}
	p.legend(y + barStep)
	p.printf("</svg>\n")
	return p.err
}

// measured are the rows that have a sample.
func measured(rows []*row) []*row {
	var out []*row
	for _, r := range rows {
		if len(r.Samples) > 0 {
			out = append(out, r)
		}
	}
	return out
}

// printer writes until it fails.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (p *printer) text(x, y int, anchor, style, text string) {
	p.printf(`<text x="%d" y="%d" text-anchor="%s" %s>%s</text>`+"\n", x, y, anchor, style, html.EscapeString(text))
}

// group draws one block below y and returns where it ends.
func (p *printer) group(y int, g group) int {
	y += titleStep / 2
	p.text(margin, y, "start", `font-weight="bold"`, g.Title)
	y += titleStep / 2
	rows := measured(g.Rows)
	longest := 0.0
	for _, r := range rows {
		longest = math.Max(longest, r.median(took))
	}
	for _, r := range rows {
		v := r.median(took)
		length := barLength(v, longest)
		p.text(labelWidth-8, y, "end", "", r.Name)
		p.printf(`<rect x="%d" y="%d" width="%d" height="%d" fill="%s"/>`+"\n", labelWidth, y-12, length, barHeight, colourOf(r))
		p.text(labelWidth+length+6, y, "start", "", number(v, 2)+" s")
		y += barStep
	}
	return y
}

// barLength is that of v where the longest bar is that of longest: at least a pixel.
func barLength(v, longest float64) int {
	const room = plotWidth - labelWidth - margin - valueWidth
	if longest <= 0 {
		return 1
	}
	return max(1, int(math.Round(v/longest*room)))
}

func colourOf(r *row) string {
	switch {
	case r.Limit:
		return colourLimit
	case len(r.Name) > 4 && r.Name[:4] == "snap":
		return colourSnap
	}
	return colourPeer
}

func (p *printer) legend(y int) {
	x := margin
	for _, l := range []struct{ colour, text string }{
		{colourLimit, "physical limits"}, {colourPeer, "libvirt's own dumps"}, {colourSnap, "snap, the file verified"},
	} {
		p.printf(`<rect x="%d" y="%d" width="12" height="12" fill="%s"/>`+"\n", x, y-10, l.colour)
		p.text(x+18, y, "start", "", l.text)
		x += 190
	}
}
