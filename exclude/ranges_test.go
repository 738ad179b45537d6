package exclude

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// opener opens the files of a map.
func opener(files map[string]string) func(string) (io.ReadCloser, error) {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return func(name string) (io.ReadCloser, error) { return fsys.Open(name) }
}

func TestParseRanges(t *testing.T) {
	pa := func(by string, address, pages uint64) Request {
		return Request{By: by, Reason: Operator, Flags: 2, Address: address, Pages: pages}
	}
	va := func(by string, address, pages uint64) Request {
		return Request{By: by, Reason: Operator, Flags: 1, Address: address, Pages: pages}
	}
	files := map[string]string{
		"keys.txt":  "# where the keys are\n\n  pa:0x1000+16 # sixteen pages\r\nva:0xfffff80000001000\n#pa:4096+1\npa:4096+0x2",
		"empty.txt": "",
		"more.txt":  "pa:0x9000\n",
	}
	tests := []struct {
		args []string
		want []Request
	}{
		{nil, nil},
		{[]string{"pa:0x1000+16"}, []Request{pa("--exclude", 0x1000, 16)}},
		{[]string{"pa:0x1000"}, []Request{pa("--exclude", 0x1000, 1)}},
		{[]string{"pa:0"}, []Request{pa("--exclude", 0, 1)}},
		{[]string{"pa:04096+010"}, []Request{pa("--exclude", 4096, 10)}},
		{[]string{"va:0XFFFFF80012345000+4"}, []Request{va("--exclude", 0xfffff80012345000, 4)}},
		{[]string{"va:0x7ffe0000"}, []Request{va("--exclude", 0x7ffe0000, 1)}},
		{[]string{"va:0xffff800000000000+0x800000000"}, []Request{va("--exclude", 0xffff800000000000, 1<<35)}},
		{[]string{"pa:0xfffffffff0000+16"}, []Request{pa("--exclude", 0xfffffffff0000, 16)}},
		{
			[]string{"pa:4096, va:8192+3", "@keys.txt,@empty.txt", "@more.txt"},
			[]Request{
				pa("--exclude", 4096, 1), va("--exclude", 8192, 3),
				pa("keys.txt", 0x1000, 16), va("keys.txt", 0xfffff80000001000, 1), pa("keys.txt", 4096, 2),
				pa("more.txt", 0x9000, 1),
			},
		},
	}
	for _, tt := range tests {
		got, err := ParseRanges(tt.args, opener(files))
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("ParseRanges(%q) failed with %v, or (-want +got):\n%s", tt.args, err, diff)
		}
	}
}

func TestParseRangesRefuses(t *testing.T) {
	const prefix = "must begin with pa: (physical), va: (virtual) or @ (a file)"
	tests := []struct{ arg, want string }{
		{"", `--exclude: "": ` + prefix},
		{"pa:4096,", `--exclude: "": ` + prefix},
		{"0x1000+16", `--exclude: "0x1000+16": ` + prefix},
		{"PA:1", `--exclude: "PA:1": ` + prefix},
		{"va", `--exclude: "va": ` + prefix},
		{"pa:", `--exclude: "pa:": the address is missing`},
		{"pa:+1", `--exclude: "pa:+1": the address is missing`},
		{"pa:4096+", `--exclude: "pa:4096+": the number of pages is missing`},
		{"pa:0x1fff+1", `--exclude: "pa:0x1fff+1": begins inside a page: write pa:0x1000 for that page`},
		{"va:0xfffff80012340001", `--exclude: "va:0xfffff80012340001": begins inside a page: write va:0xfffff80012340000 for that page`},
		{"pa:4096+0", `--exclude: "pa:4096+0": asks for no pages`},
		{"pa:fffff800", `--exclude: "pa:fffff800": the address "fffff800" is no number: write digits, or 0x and hexadecimal digits`},
		{"pa:0x", `--exclude: "pa:0x": the address "0x" is no number: write digits, or 0x and hexadecimal digits`},
		{"pa:-1", `--exclude: "pa:-1": the address "-1" is no number: write digits, or 0x and hexadecimal digits`},
		{"pa:0x-1", `--exclude: "pa:0x-1": the address "0x-1" is no number: write digits, or 0x and hexadecimal digits`},
		{"pa:0x1_000", `--exclude: "pa:0x1_000": the address "0x1_000" is no number: write digits, or 0x and hexadecimal digits`},
		{"pa:4096+2+3", `--exclude: "pa:4096+2+3": the number of pages "2+3" is no number: write digits, or 0x and hexadecimal digits`},
		{"pa:0x10000000000000000", `--exclude: "pa:0x10000000000000000": the address is larger than 0xffffffffffffffff`},
		{"pa:0x10000000000000", `--exclude: "pa:0x10000000000000": leaves the 52-bit guest-physical address space`},
		{"pa:0xfffffffff0000+17", `--exclude: "pa:0xfffffffff0000+17": leaves the 52-bit guest-physical address space`},
		{"va:0x100000000000000", `--exclude: "va:0x100000000000000": is not a canonical virtual range`},
		{"va:0xfffffffffffff000+2", `--exclude: "va:0xfffffffffffff000+2": is not a canonical virtual range`},
		{"@", `--exclude: "@": a file's name must follow the @`},
		{"@bad.txt", `bad.txt:3: "pa:x": the address "x" is no number: write digits, or 0x and hexadecimal digits`},
		{"@list.txt", `list.txt:1: "pa:4096,pa:2": the address "4096,pa:2" is no number: write digits, or 0x and hexadecimal digits`},
		{"@nested.txt", `nested.txt:2: "@bad.txt": a file can't name another file`},
	}
	files := map[string]string{
		"bad.txt":    "pa:4096\n\npa:x # no\n",
		"list.txt":   "pa:4096,pa:2",
		"nested.txt": "pa:4096\n@bad.txt",
	}
	for _, tt := range tests {
		got, err := ParseRanges([]string{tt.arg}, opener(files))
		if !errors.Is(err, ErrRange) || got != nil || err.Error() != tt.want {
			t.Errorf("ParseRanges(%q) = %v, %v; want error %s", tt.arg, got, err, tt.want)
		}
	}
}

func TestParseRangesFiles(t *testing.T) {
	many := strings.Repeat("pa:4096\n", 65536)
	files := map[string]string{
		"many.txt": many,
		"over.txt": many + "pa:4096\n",
		"long.txt": "pa:4096\n#" + strings.Repeat("x", 1<<20),
	}
	if got, err := ParseRanges([]string{"@many.txt"}, opener(files)); err != nil || len(got) != 65536 {
		t.Errorf("ParseRanges of 65536 lines = %d requests, %v", len(got), err)
	}
	for _, args := range [][]string{{"@over.txt"}, {"@many.txt", "pa:4096"}, {"@many.txt,@many.txt"}, {"@long.txt"}} {
		if got, err := ParseRanges(args, opener(files)); err == nil {
			t.Errorf("ParseRanges(%q) = %d requests; want an error", args, len(got))
		}
	}
	if _, err := ParseRanges([]string{"@none.txt"}, opener(files)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ParseRanges of a missing file failed with %v; want fs.ErrNotExist", err)
	}
	fails := &failing{}
	if _, err := ParseRanges([]string{"@f"}, func(string) (io.ReadCloser, error) { return fails, nil }); !errors.Is(err, errRead) || !fails.closed {
		t.Errorf("ParseRanges of an unreadable file failed with %v, closed %v; want %v, closed", err, fails.closed, errRead)
	}
}

var errRead = errors.New("disk on fire")

// failing is a file that can't be read.
type failing struct{ closed bool }

func (f *failing) Read([]byte) (int, error) { return 0, errRead }
func (f *failing) Close() error             { f.closed = true; return nil }

func TestRequestString(t *testing.T) {
	for want, r := range map[string]Request{
		"pa:0x1000+16":                {Flags: 0x80000002, Address: 0x1000, Pages: 16},
		"va:0xfffff80000000fff+1":     {Flags: 1, Address: 0xfffff80000000fff, Pages: 1},
		"??:0x0+0":                    {Flags: 3},
		"??:0x1+18446744073709551615": {Flags: 4, Address: 1, Pages: ^uint64(0)},
	} {
		if got := r.String(); got != want {
			t.Errorf("%+v prints as %q; want %q", r, got, want)
		}
	}
	if got := fmt.Sprint(Virtual, Physical, Kind(3)); got != "virtual physical unknown" {
		t.Errorf("kinds print as %q", got)
	}
}

// FuzzRanges parses a text as an argument and as a file. What is accepted
// prints as a text that means the same, and can be planned with.
func FuzzRanges(f *testing.F) {
	f.Add("pa:0x1000+16")
	f.Add("va:0xfffff80012345000+4,pa:4096")
	f.Add("# keys\npa:4096+2\n")
	f.Fuzz(func(t *testing.T, text string) {
		open := func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
		for _, arg := range []string{text, "@file"} {
			rs, err := ParseRanges([]string{arg}, open)
			if err != nil {
				if rs != nil {
					t.Fatalf("ParseRanges(%q) gives both %v and %v", arg, rs, err)
				}
				continue
			}
			for _, r := range rs {
				back, err := ParseRanges([]string{r.String()}, open)
				if err != nil || len(back) != 1 {
					t.Fatalf("%+v prints as %q, which is %v, %v", r, r, back, err)
				}
				if back[0].By = r.By; back[0] != r {
					t.Fatalf("%+v prints as %q, which is %+v", r, r, back[0])
				}
			}
			if len(rs) > 100 {
				continue
			}
			in := smallGuest()
			in.Requests, in.Limit = rs, 1<<40
			plan, err := NewPlan(t.Context(), in)
			if err != nil {
				t.Fatalf("NewPlan(%v) failed: %v", rs, err)
			}
			checkPlan(t, in, plan)
		}
	})
}
