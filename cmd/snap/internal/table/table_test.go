package table

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// printed writes a table and returns its lines.
func printed(t *testing.T, tab *Table, indent string) []string {
	t.Helper()
	var b bytes.Buffer
	if err := tab.Write(&b, indent); err != nil {
		t.Fatal(err)
	}
	return lines(b.String())
}

func lines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

func TestTable(t *testing.T) {
	right := map[string]bool{"PAGES": true}
	for _, tt := range []struct {
		name    string
		columns []string
		rows    [][]string
		want    []string
	}{
		{"nothing", nil, nil, nil},
		{"heads only", []string{"PAGES", "NAME"}, nil, []string{"> PAGES  NAME"}},
		{
			"left and right",
			[]string{"NAME", "PAGES", "WHY"},
			[][]string{{"secrets.sys", "1", "asked"}, {"a", "130,718", ""}},
			[]string{
				"> NAME           PAGES  WHY",
				"> secrets.sys        1  asked",
				"> a            130,718",
			},
		},
		{
			"a column of numbers last and first",
			[]string{"PAGES"},
			[][]string{{"1"}, {"1,000,000"}},
			[]string{">     PAGES", ">         1", "> 1,000,000"},
		},
		{
			"cells missing and too many",
			[]string{"A", "B"},
			[][]string{{}, {"1"}, {"1", "2", "3"}},
			[]string{"> A  B", ">", "> 1", "> 1  2  3"},
		},
		{
			"no heads",
			nil,
			[][]string{{"a", "x"}, {"long", "y", "z"}},
			[]string{"> a     x", "> long  y  z"},
		},
		{
			"wide, narrow, combined and ambiguous",
			[]string{"NAME", "X"},
			[][]string{{"日本語", "x"}, {"für", "x"}, {"e\u0301te\u0301", "x"}, {"😀", "x"}, {"…", "x"}, {"ｱｲｳ", "x"}},
			[]string{
				"> NAME    X",
				"> 日本語  x",
				"> für     x",
				"> e\u0301te\u0301     x",
				"> 😀      x",
				"> …       x",
				"> ｱｲｳ     x",
			},
		},
		{
			"wide and to the right",
			[]string{"PAGES", "X"},
			[][]string{{"四", "x"}, {"12345678", "x"}},
			[]string{">    PAGES  X", ">       四  x", "> 12345678  x"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tab := Table{Columns: tt.columns, Right: right}
			for _, row := range tt.rows {
				tab.Add(row...)
			}
			if got := tab.Len(); got != len(tt.rows) {
				t.Errorf("Len() = %d; want %d", got, len(tt.rows))
			}
			if diff := cmp.Diff(tt.want, printed(t, &tab, "> ")); diff != "" {
				t.Errorf("Write differs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLocale is of an ellipsis, which terminals of some locales show in two cells.
func TestLocale(t *testing.T) {
	t.Setenv("LC_ALL", "ja_JP.UTF-8")
	t.Setenv("RUNEWIDTH_EASTASIAN", "1")
	if got := cells("…"); got != 1 {
		t.Errorf("cells(…) = %d; want 1 in every locale", got)
	}
}

func TestPairs(t *testing.T) {
	var b bytes.Buffer
	p := NewPairs(&b)
	p.Add("dump", "%s", "/backup/web01.dmp.zst")
	p.Add("left out", "%d more", 3)
	p.Add("日本", "100%%")
	p.Add("nothing", "")
	if b.Len() != 0 {
		t.Errorf("Add printed %q; want nothing before Flush", b.String())
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"  dump      /backup/web01.dmp.zst",
		"  left out  3 more",
		"  日本      100%",
		"  nothing",
	}
	if diff := cmp.Diff(want, lines(b.String())); diff != "" {
		t.Errorf("Flush differs (-want +got):\n%s", diff)
	}
	b.Reset()
	p.Add("a", "b")
	if err := p.Flush(); err != nil || b.String() != "  a  b\n" {
		t.Errorf("the second Flush printed %q, %v; want its own line only", b.String(), err)
	}
}

// TestWholeLines: what is to be copied stays in one line and stands where the others
// do; what is beside it is broken.
func TestWholeLines(t *testing.T) {
	var b bytes.Buffer
	p := NewPairs(&b)
	p.Width = 30
	p.AddWhole("dump", "/backup/of/a long name/web01.dmp.zst")
	p.Add("left out", "twelve pages as asked")
	p.AddWhole("", "snap expand /backup/of/web01.dmp.zst")
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"  dump      /backup/of/a long name/web01.dmp.zst",
		"  left out  twelve pages as",
		"            asked",
		"            snap expand /backup/of/web01.dmp.zst",
	}
	if diff := cmp.Diff(want, lines(b.String())); diff != "" {
		t.Errorf("Flush differs (-want +got):\n%s", diff)
	}
}

// full is a writer without room.
type full struct{ err error }

func (f full) Write([]byte) (int, error) { return 0, f.err }

func TestWriteFails(t *testing.T) {
	want := errors.New("no room")
	tab := Table{Columns: []string{"A"}}
	if err := tab.Write(full{want}, ""); !errors.Is(err, want) {
		t.Errorf("Write = %v; want %v", err, want)
	}
	p := NewPairs(full{want})
	p.Add("a", "b")
	if err := p.Flush(); !errors.Is(err, want) {
		t.Errorf("Flush = %v; want %v", err, want)
	}
}

// TestWidth: no line is wider than it may be, nothing is lost, and what fits is as it
// was.
func TestWidth(t *testing.T) {
	for _, tt := range []struct {
		name string
		rows [][]string
		want []string
	}{
		{"fits", [][]string{{"pages", "130,718 of them"}}, []string{"> pages  130,718 of them"}},
		{
			"words",
			[][]string{{"moment", "one point in time; the guest stood still"}, {"time", "1 s"}},
			[]string{"> moment  one point in time; the", ">         guest stood still", "> time    1 s"},
		},
		{
			"a path",
			[][]string{{"ntfs.sys", `\SystemRoot\System32\drivers\ntfs.sys`}},
			[]string{`> ntfs.sys  \SystemRoot\`, `>           System32\drivers\`, `>           ntfs.sys`},
		},
		{
			"a long word",
			[][]string{{"a", strings.Repeat("x", 60)}},
			[]string{"> a  " + strings.Repeat("x", 27), ">    " + strings.Repeat("x", 27), ">    " + strings.Repeat("x", 6)},
		},
		{
			"wide characters",
			[][]string{{"a", strings.Repeat("日", 20)}},
			[]string{"> a  " + strings.Repeat("日", 13), ">    " + strings.Repeat("日", 7)},
		},
		{
			"no room left",
			[][]string{{strings.Repeat("n", 30), "0123456789abcdefghij"}},
			[]string{"> " + strings.Repeat("n", 30) + "  0123456789ab", ">                                 cdefghij"},
		},
		{"the last cell is missing", [][]string{{"a"}, {"b", strings.Repeat("y", 28)}}, []string{"> a", "> b  " + strings.Repeat("y", 27), ">    y"}},
		{"broken UTF-8", [][]string{{"a", strings.Repeat("\xff", 28)}}, []string{"> a  " + strings.Repeat("\xff", 27), ">    \xff"}},
	} {
		tab := &Table{Width: 32}
		for _, r := range tt.rows {
			tab.Add(r...)
		}
		if diff := cmp.Diff(tt.want, printed(t, tab, "> ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestMost: a column before the last one may take no more than it is allowed.
func TestMost(t *testing.T) {
	tab := &Table{Columns: []string{"BY", "PAGES", "WHY"}, Right: map[string]bool{"PAGES": true}, Width: 32, Most: map[string]int{"BY": 8}}
	tab.Add("secrets.sys", "6", "advertised by a driver")
	tab.Add("a.sys", "1,000", "operator")
	want := []string{
		"> BY        PAGES  WHY",
		"> secrets.      6  advertised by",
		"> sys              a driver",
		"> a.sys     1,000  operator",
	}
	if diff := cmp.Diff(want, printed(t, tab, "> ")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzWrap(f *testing.F) {
	f.Add("one point in time; the guest stood still", 16)
	f.Add("\xff\u0301\u200d日本 \\\\ x", 17)
	f.Fuzz(func(t *testing.T, s string, room int) {
		if room < leastLast || room > 200 || len(s) > 2000 {
			return
		}
		squeezed := func(s string) string { return strings.ReplaceAll(s, " ", "") }
		parts := wrap(s, room)
		if squeezed(strings.Join(parts, "")) != squeezed(s) {
			t.Errorf("wrap(%q, %d) = %q; want all of it", s, room, parts)
		}
		for _, p := range parts {
			if cells(p) > room {
				t.Errorf("wrap(%q, %d) has %q, of %d cells", s, room, p, cells(p))
			}
		}
	})
}
