package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		of   []float64
		want float64
	}{
		{nil, math.NaN()},
		{[]float64{3}, 3},
		{[]float64{9, 1}, 5},
		{[]float64{100, 1, 2}, 2},
		{[]float64{4, 1, 3, 1000}, 3.5},
		{[]float64{5, 4, 3, 2, 1}, 3},
	} {
		kept := append([]float64(nil), test.of...)
		got := median(test.of)
		if got != test.want && !(math.IsNaN(got) && math.IsNaN(test.want)) {
			t.Errorf("median(%v) = %v; want %v", test.of, got, test.want)
		}
		if !cmp.Equal(kept, test.of) {
			t.Errorf("median() left %v of %v", test.of, kept)
		}
	}
}

// runs makes a row that took so many milliseconds in its rounds, with files of so many
// MiB.
func runs(name string, mib uint64, ms ...int) *row {
	r := &row{Name: name}
	for _, m := range ms {
		d := time.Duration(m) * time.Millisecond
		r.Samples = append(r.Samples, sample{Took: d, CPU: 2 * d, Still: d / 10, Bytes: mib << 20})
	}
	return r
}

func TestGoals(t *testing.T) {
	t.Parallel()
	rows := []*row{
		runs(rowCopy, 1536, 110, 100, 90), runs(rowCompress, 0, 1000, 900, 5000), runs(rowKdump, 500, 10000, 10000, 10000),
		runs(rowELF, 2048, 1000), runs(rowELFZstd, 600, 4000), runs(rowDecoded, 550, 1500, 1400, 9000),
	}
	var got []string
	for _, g := range goalsOf("guest", rows, false) {
		got = append(got, number(g.Ratio, 3)+" "+g.verdict())
	}
	want := []string{"1.500 reached", "– not measured", "0.150 reached", "0.375 reached", "1.500 **missed**", "1.100 **missed**"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("goals (-want +got):\n%s", d)
	}
	if g := goalsOf("guest", rows, true); len(g) != 1 || g[0].Ratio != 1.5 || g[0].Most != 1 {
		t.Errorf("goals of a guest of zeros are %v; want 1.5 and at most 1", g)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	limit := runs(rowCompress, 7, 1000, 3000, 2000)
	limit.Limit = true
	var b strings.Builder
	tableOf(&b, []*row{limit, runs(rowDecoded, 550, 3000, 5000), {Name: rowWinDmp, Why: "the guest publishes nothing"}})
	want := `|  | takes (s) | least to most | against the limit | processor time (s) | stands still (ms) | file (MiB) |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| limit: compress only | 2.00 | 1.00 to 3.00 | 1.00 | 4.00 | 200 | – |
| snap dump | 4.00 | 3.00 to 5.00 | 2.00 | 8.00 | 400 | 550 |

Left out: virsh dump, win-dmp: the guest publishes nothing.
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("the table (-want +got):\n%s", d)
	}
}

// TestPlot: it is XML, every row that was measured has a bar, as long as its time says,
// and names are escaped.
func TestPlot(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	limit := runs(rowCompress, 0, 1000)
	limit.Limit = true
	groups := []group{{"2 GiB <mixed>", []*row{limit, runs(rowDecoded, 0, 2000), {Name: "none"}}}, {"other", []*row{runs(rowELF, 0, 500)}}}
	if err := plot(&b, "title & more", groups); err != nil {
		t.Fatal(err)
	}
	type bar struct{ width, fill string }
	var bars []bar
	var texts []string
	d := xml.NewDecoder(strings.NewReader(b.String()))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			at := map[string]string{}
			for _, a := range token.Attr {
				at[a.Name.Local] = a.Value
			}
			if at["height"] == "16" {
				bars = append(bars, bar{at["width"], at["fill"]})
			}
		case xml.CharData:
			if s := strings.TrimSpace(string(token)); s != "" {
				texts = append(texts, s)
			}
		}
	}
	if d := cmp.Diff([]bar{{"247", colourLimit}, {"494", colourSnap}, {"494", colourPeer}}, bars, cmp.AllowUnexported(bar{})); d != "" {
		t.Errorf("bars (-want +got):\n%s", d)
	}
	want := []string{
		"title & more", "2 GiB <mixed>", rowCompress, "1.00 s", rowDecoded, "2.00 s", "other", rowELF, "0.50 s",
		"physical limits", "libvirt's own dumps", "snap, the file verified",
	}
	if d := cmp.Diff(want, texts); d != "" {
		t.Errorf("texts (-want +got):\n%s", d)
	}
}

func TestParseCalls(t *testing.T) {
	t.Parallel()
	all, waits, most, err := parseCalls(`% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 70.12    0.400000         200      2000           futex
 20.00    0.100000           1       300        12 read
  0.00    0.000000           0         7         7 access
------ ----------- ----------- --------- --------- ----------------
100.00    0.500000          54      2307        19 total
`)
	if err != nil || all != 2307 || waits != 2000 || !cmp.Equal(most, []string{"futex (2000)", "read (300)", "access (7)"}) {
		t.Errorf("parseCalls() = %d, %d, %q, %v; want 2307 calls, 2000 of them waiting", all, waits, most, err)
	}
	if _, _, _, err := parseCalls("strace: nothing\n"); err == nil {
		t.Error("parseCalls() of no table has no error")
	}
}
