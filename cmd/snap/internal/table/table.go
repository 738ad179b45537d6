// Package table prints rows whose columns align, by the cells that a terminal
// shows them in: a wide character takes two, a combining one none.
package table

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/mattn/go-runewidth"
)

const gap = "  " // between columns

// Table is rows of cells under a line of column heads. Without Columns there is no
// such line, and the longest row says how many columns there are. The zero Table
// is empty and ready to use.
type Table struct {
	Columns []string
	Right   map[string]bool // columns whose cells are numbers, aligned to the right

	// Width is how many cells of a terminal a line may take: for that, what stands
	// in the last column goes on in the lines below. 0 is any number. Most is what a
	// column before it may take, by its name, and counts if there is a Width.
	Width int
	Most  map[string]int

	rows  [][]string
	whole map[int]bool // rows that stay in one line
}

// Add appends a row; a missing cell is empty.
func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

// AddWhole appends a row that stays in one line whatever Width is: something to copy.
func (t *Table) AddWhole(cells ...string) {
	if t.whole == nil {
		t.whole = map[int]bool{}
	}
	t.whole[len(t.rows)] = true
	t.Add(cells...)
}

// Len returns the number of rows.
func (t *Table) Len() int { return len(t.rows) }

// Write prints the table with every line indented by indent. Nothing of what a cell
// holds is escaped, and lines end without white space.
func (t *Table) Write(w io.Writer, indent string) error {
	lines := t.rows
	if len(t.Columns) > 0 {
		lines = append([][]string{t.Columns}, lines...)
	}
	width := widths(lines)
	for _, line := range t.broken(lines, width, t.Width-cells(indent)) {
		var out strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", max(0, width[i]-cells(cell)))
			if i < len(t.Columns) && t.Right[t.Columns[i]] {
				cell, pad = pad, cell
			}
			out.WriteString(gap + cell + pad)
		}
		text := strings.TrimPrefix(out.String(), gap)
		if _, err := fmt.Fprintln(w, strings.TrimRight(indent+text, " ")); err != nil {
			return err
		}
	}
	return nil
}

// leastLast is what the last column keeps of a line at least.
const leastLast = 12

// broken returns the lines with cells broken over several of them so that none takes
// more than its column's share of room, and sets the columns' widths to what they
// then are.
func (t *Table) broken(lines [][]string, width []int, room int) [][]string {
	if len(width) == 0 || room <= 0 {
		return lines
	}
	wide := false
	for i, w := range width {
		most := w
		switch {
		case i == len(width)-1:
			most = max(room, leastLast)
		case i < len(t.Columns) && t.Most[t.Columns[i]] > 0:
			most = t.Most[t.Columns[i]]
		}
		wide = wide || w > most
		width[i] = min(w, most)
		room -= width[i] + len(gap)
	}
	if !wide {
		return lines
	}
	var out [][]string
	heads := len(lines) - len(t.rows)
	for i, line := range lines {
		if t.whole[i-heads] {
			out = append(out, line)
			continue
		}
		out = append(out, brokenLine(line, width)...)
	}
	return out
}

// brokenLine is a line with its cells broken to the widths of their columns.
func brokenLine(line []string, width []int) [][]string {
	var rows [][]string
	for i, cell := range line {
		for n, part := range wrap(cell, width[i]) {
			if n == len(rows) {
				rows = append(rows, make([]string, len(line)))
			}
			rows[n][i] = part
		}
	}
	if rows == nil {
		rows = [][]string{line}
	}
	return rows
}

// wrap breaks s into parts of at most room cells: behind a space or what divides a
// path where there is one, else anywhere.
func wrap(s string, room int) []string {
	var parts []string
	for cells(s) > room {
		end, at := 0, 0 // of what fits, and of that, behind the last place to break
		for end < len(s) {
			r, n := utf8.DecodeRuneInString(s[end:])
			if end > 0 && cells(s[:end+n]) > room {
				break
			}
			end += n
			if strings.ContainsRune(` \/`, r) {
				at = end
			}
		}
		if at == 0 || end < len(s) && s[end] == ' ' {
			at = end
		}
		parts = append(parts, strings.TrimRight(s[:at], " "))
		s = strings.TrimLeft(s[at:], " ")
	}
	if s != "" || len(parts) == 0 {
		parts = append(parts, s)
	}
	return parts
}

// widths returns the width of each column.
func widths(lines [][]string) []int {
	var width []int
	for _, line := range lines {
		for i, cell := range line {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], cells(cell))
		}
	}
	return width
}

// cells returns how many cells of a terminal s takes. It doesn't depend on the
// locale: what is of ambiguous width, such as an ellipsis, takes one.
func cells(s string) int {
	c := runewidth.Condition{StrictEmojiNeutral: true}
	return c.StringWidth(s)
}

// Pairs is a table of names and values without heads, two columns that are printed
// with an indent of two.
type Pairs struct {
	Width int // as that of a Table

	w io.Writer
	t Table
}

// NewPairs returns Pairs that print to w on Flush.
func NewPairs(w io.Writer) *Pairs { return &Pairs{w: w} }

// Add appends a line.
func (p *Pairs) Add(name, format string, args ...any) {
	p.t.Add(name, fmt.Sprintf(format, args...))
}

// AddWhole appends a line that isn't broken: something to copy.
func (p *Pairs) AddWhole(name, format string, args ...any) {
	p.t.AddWhole(name, fmt.Sprintf(format, args...))
}

// Flush prints the lines that were added since the last Flush.
func (p *Pairs) Flush() error {
	t := p.t
	p.t = Table{}
	t.Width = p.Width
	return t.Write(p.w, gap)
}
