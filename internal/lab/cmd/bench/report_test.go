package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestReport: table and plot of a run are in their files, the table has the machine,
// the goals and every guest, and is printed as well.
func TestReport(t *testing.T) {
	t.Parallel()
	r := report{
		Date: time.Date(2026, 12, 1, 12, 30, 0, 0, time.UTC), Machine: "A machine.", Load: "0.07", Rounds: 5,
		Goals:    []goal{{"this / that", 1.5, 1.25}},
		Sections: []section{{group{"2 GiB, mixed", []*row{runs(rowDecoded, 100, 2000)}}, "A guest."}},
		Notes:    []string{"A note."},
	}
	dir := t.TempDir()
	var out bytes.Buffer
	if err := r.write(dir, &out); err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(filepath.Join(dir, "peers.md"))
	if err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(filepath.Join(dir, "peers.svg"))
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(table) {
		t.Errorf("what is printed is not what is in the file:\n%s", out.String())
	}
	for _, want := range []string{
		"1 December 2026, 12:30 UTC: medians of 5", "A machine. The load before was 0.07.", "(peers.svg)",
		"| this / that | 1.50 | 1.250 | reached |", "\n## 2 GiB, mixed\n\nA guest.\n", "\n| snap dump | 2.00 |", "\nA note.\n",
	} {
		if !strings.Contains(string(table), want) {
			t.Errorf("the table lacks %q:\n%s", want, table)
		}
	}
	if !bytes.Contains(svg, []byte("(medians of 5, 1 December 2026)")) || !bytes.Contains(svg, []byte("2 GiB, mixed")) {
		t.Errorf("the plot lacks its title or the guest:\n%s", svg)
	}
}

// TestMeasure: contenders take turns, every other round the other way round; one that
// fails is left out with its reason, and is a failure of the run unless it may.
func TestMeasure(t *testing.T) {
	t.Parallel()
	b := &bench{settings: settings{rounds: 3}, dir: t.TempDir()}
	var order []string
	of := func(name string, err error) contender {
		return contender{name: name, may: name == "b", run: func(context.Context) (sample, error) {
			order = append(order, name)
			return sample{Took: time.Second}, err
		}}
	}
	no := errors.New("no")
	rows, err := b.measure(t.Context(), []contender{of("a", nil), of("b", no), of("c", no), of("d", nil)})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(order, ""), "abcddaad"; got != want {
		t.Errorf("the order was %s; want %s", got, want)
	}
	for i, want := range []row{{Why: "", Samples: make([]sample, 3)}, {Why: "no"}, {Why: "no"}, {Samples: make([]sample, 3)}} {
		if rows[i].Why != want.Why || len(rows[i].Samples) != len(want.Samples) {
			t.Errorf("row %s has %d samples and %q; want %d and %q", rows[i].Name, len(rows[i].Samples), rows[i].Why, len(want.Samples), want.Why)
		}
	}
	if len(b.failed) != 1 || !errors.Is(b.failed[0], no) {
		t.Errorf("what failed is %v; want c alone", b.failed)
	}
}
