// Package table prints rows and pairs that align.
package table

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table is rows of cells under a line of column heads.
type Table struct {
	Columns []string
	Right   map[string]bool // columns whose cells are numbers, aligned to the right
	rows    [][]string
}

// Add appends a row; a missing cell is empty.
func (t *Table) Add(cells ...string) { t.rows = append(t.rows, cells) }

// Len returns the number of rows.
func (t *Table) Len() int { return len(t.rows) }

// Write prints the table with every line indented by indent.
func (t *Table) Write(w io.Writer, indent string) error {
	width := make([]int, len(t.Columns))
	all := append([][]string{t.Columns}, t.rows...)
	for _, row := range all {
		for i, c := range row {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	for _, row := range all {
		var line strings.Builder
		line.WriteString(indent)
		for i, name := range t.Columns {
			cell := ""
			if i < len(row) {
				cell = row[i]
			}
			pad := strings.Repeat(" ", width[i]-len([]rune(cell)))
			if t.Right[name] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
			line.WriteString("  ")
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// Pairs prints names and values in two columns.
type Pairs struct {
	tw *tabwriter.Writer
}

// NewPairs returns Pairs that print to w on Flush.
func NewPairs(w io.Writer) *Pairs {
	return &Pairs{tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)}
}

// Add appends a line.
func (p *Pairs) Add(name, format string, args ...any) {
	fmt.Fprintf(p.tw, "  %s\t%s\n", name, fmt.Sprintf(format, args...))
}

// Flush prints the lines.
func (p *Pairs) Flush() error { return p.tw.Flush() }
