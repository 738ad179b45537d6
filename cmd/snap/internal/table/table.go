// Package table prints rows whose columns align, by the cells that a terminal
// shows them in: a wide character takes two, a combining one none.
package table

import (
	"fmt"
	"io"
	"strings"

	"github.com/mattn/go-runewidth"
)

const gap = "  " // between columns

// Table is rows of cells under a line of column heads. Without Columns there is no
// such line, and the longest row says how many columns there are. The zero Table
// is empty and ready to use.
type Table struct {
	Columns []string
	Right   map[string]bool // columns whose cells are numbers, aligned to the right
	rows    [][]string
}

// Add appends a row; a missing cell is empty.
func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

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
	for _, line := range lines {
		var out strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", width[i]-cells(cell))
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
	w io.Writer
	t Table
}

// NewPairs returns Pairs that print to w on Flush.
func NewPairs(w io.Writer) *Pairs { return &Pairs{w: w} }

// Add appends a line.
func (p *Pairs) Add(name, format string, args ...any) {
	p.t.Add(name, fmt.Sprintf(format, args...))
}

// Flush prints the lines that were added since the last Flush.
func (p *Pairs) Flush() error {
	t := p.t
	p.t = Table{}
	return t.Write(p.w, gap)
}
