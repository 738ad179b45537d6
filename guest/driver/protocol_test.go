package driver

import (
	"encoding/hex"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// played is one operation of testdata/play.c.
type played struct {
	Status  string
	Calls   []string   // how the routine was called
	Nested  string     // status of an update from inside the routine
	After   []advert   // what a host reads afterwards
	Between [][]advert // what a host reads while it goes on
	Late    [][]advert // and what it reads if it took the way to a bank before
}

// Where the banks of a table of two entries are, from the symbol on.
const (
	firstBank = 0x30
	bankSize  = 0x20 + 2*0x20
)

// play compiles the player for tables of two entries and runs it.
func play(t *testing.T, ops ...string) []played {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "play")
	run(t, "gcc", "-std=c89", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wno-long-long",
		"-DCAPACITY=2", "-o", bin, "testdata/play.c")
	out, err := exec.CommandContext(t.Context(), bin, ops...).Output()
	if err != nil {
		t.Fatalf("play %v: %v", ops, err)
	}
	var (
		base  uint64
		all   []played
		now   played
		first = true
	)
	for line := range strings.Lines(string(out)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "base":
			if base, err = strconv.ParseUint(rest, 16, 64); err != nil {
				t.Fatal(err)
			}
		case "call":
			now.Calls = append(now.Calls, rest)
		case "nested":
			now.Nested = rest
		case "status":
			now.Status = rest
		case "barrier", "table":
			memory, err := hex.DecodeString(rest)
			if err != nil {
				t.Fatal(err)
			}
			view, err := hostView(memory, base)
			if err != nil {
				t.Fatalf("play %v: a host that looks at a %s fails: %v", ops, word, err)
			}
			switch {
			case word == "barrier":
				now.Between = append(now.Between, view)
				for bank := firstBank; bank < len(memory); bank += bankSize {
					if late, err := hostView(memory[bank:bank+bankSize], base); err == nil {
						now.Late = append(now.Late, late)
					} else if memory[bank+0x10]%2 == 0 {
						t.Fatalf("play %v: a late host fails: %v", ops, err)
					}
				}
			case first:
				if first = false; len(view) != 0 {
					t.Fatalf("the table begins as %v; want it empty", view)
				}
			default:
				now.After = view
				all, now = append(all, now), played{}
			}
		}
	}
	if len(all) != len(ops) {
		t.Fatalf("play %v printed %d tables; want %d", ops, len(all), len(ops))
	}
	return all
}

func call(context int) string {
	return "reason=6 record=1 length=32 context=" + strconv.Itoa(context) + " flags=0 code=0x161 address=0 count=0"
}

var (
	one   = advert{Flags: 1, Address: 0x1000, Count: 2}
	more  = advert{Flags: 0x80000001, Address: 0x1000, Count: 2}
	phys  = advert{Flags: 2, Address: 0x5000, Count: 1}
	coded = advert{Flags: 2, Address: 0x5000, Count: 1, Code: 0xe2}
)

func TestRefresh(t *testing.T) {
	tests := []struct {
		name, op string
		want     played // without Between and Late
	}{
		{"one range", "refresh=1:0x1000:2", played{Status: "0 calls 1", Calls: []string{call(0)}, After: []advert{one}}},
		{
			"two ranges, Context kept", "refresh=0x80000001:0x1000:2,2:0x5000:1",
			played{Status: "0 calls 2", Calls: []string{call(0), call(10)}, After: []advert{more, phys}},
		},
		{"no range", "refresh=1:0x1000:0", played{Status: "0 calls 1", Calls: []string{call(0)}}},
		{
			"no range ends it even if more are promised", "refresh=0x80000001:0x1000:0,1:0x1000:2",
			played{Status: "0 calls 1", Calls: []string{call(0)}},
		},
		{
			"promised range doesn't come", "refresh=0x80000001:0x1000:2",
			played{Status: "0 calls 2", Calls: []string{call(0), call(10)}, After: []advert{more}},
		},
		{"wrong flags of no range", "refresh=0x10000:0:0", played{Status: "0 calls 1", Calls: []string{call(0)}}},
		{
			"feature nibbles", "refresh=0xff1:0x1000:2",
			played{Status: "0 calls 1", Calls: []string{call(0)}, After: []advert{{Flags: 0xff1, Address: 0x1000, Count: 2}}},
		},
		{"both kinds", "refresh=3:0x1000:2", played{Status: "0xc000000d calls 1", Calls: []string{call(0)}}},
		{"neither kind", "refresh=0x10:0x1000:2", played{Status: "0xc000000d calls 1", Calls: []string{call(0)}}},
		{"unknown flag", "refresh=0x1001:0x1000:2", played{Status: "0xc00000f2 calls 1", Calls: []string{call(0)}}},
		{
			"wrong range after a good one", "refresh=0x80000001:0x1000:2,0:0x5000:1",
			played{Status: "0xc000000d calls 2", Calls: []string{call(0), call(10)}},
		},
		{
			"more ranges than fit", "refresh=0x80000001:0x1000:2,0x80000001:0x1000:2,1:0x1000:2",
			played{Status: "0xc0000023 calls 3", Calls: []string{call(0), call(10), call(20)}},
		},
		{
			"exactly as many as fit", "refresh=0x80000001:0x1000:2,0x80000001:0x1000:2,1:0x1000:0",
			played{Status: "0 calls 3", Calls: []string{call(0), call(10), call(20)}, After: []advert{more, more}},
		},
		{
			"an update inside of an update", "nested=1:0x1000:2",
			played{Status: "0 calls 1", Calls: []string{call(0)}, Nested: "0x80000011", After: []advert{one}},
		},
		{
			"publish, each with its own code", "publish=1:0x1000:2,2:0x5000:1",
			played{Status: "0 calls 0", After: []advert{{Flags: 1, Address: 0x1000, Count: 2, Code: 0xe2}, coded}},
		},
		{"publish too many", "publish=1:1:1,1:1:1,1:1:1", played{Status: "0xc0000023 calls 0"}},
		{"publish a wrong one", "publish=1:1:1,3:1:1", played{Status: "0xc000000d calls 0"}},
		{"clear", "clear", played{Status: "0 calls 0"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := play(t, tt.op)[0]
			got.Between, got.Late = nil, nil
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("play(%s) (-want +got):\n%s", tt.op, diff)
			}
		})
	}
}

// A host that looks at any moment finds the ranges of before or of after, and
// a failed update changes nothing.
func TestUpdatesAreWhole(t *testing.T) {
	const (
		first  = "refresh=0x80000001:0x1000:2,2:0x5000:1"
		second = "refresh=1:0x1000:2"
		wrong  = "refresh=0x80000001:0x9000:9,3:1:1"
		large  = "refresh=0x80000001:0x9000:9,0x80000001:0x9000:9,1:1:1"
	)
	ops := []string{first, second, wrong, large, "clear", wrong, first, "clear", second, first}
	want := [][]advert{{more, phys}, {one}, {one}, {one}, nil, nil, {more, phys}, nil, {one}, {more, phys}}
	var before, earlier []advert
	for i, op := range play(t, ops...) {
		if diff := cmp.Diff(want[i], op.After); diff != "" {
			t.Errorf("after %d (%s) (-want +got):\n%s", i, ops[i], diff)
		}
		if len(op.Between) < 3 {
			t.Errorf("%d (%s): looked at %d times; want 3 or more", i, ops[i], len(op.Between))
		}
		for j, view := range op.Between {
			if !cmp.Equal(view, before) && !cmp.Equal(view, op.After) {
				t.Errorf("%d (%s), look %d: %v; want %v or %v", i, ops[i], j, view, before, op.After)
			}
		}
		for j, view := range op.Late {
			if !cmp.Equal(view, before) && !cmp.Equal(view, op.After) && !cmp.Equal(view, earlier) {
				t.Errorf("%d (%s), late look %d: %v; want %v, %v or %v", i, ops[i], j, view, before, op.After, earlier)
			}
		}
		earlier, before = before, op.After
	}
}

// A reader on another processor never gets a mixture of two updates, nor is it
// kept from reading by a driver that does nothing but update.
func TestRacingReader(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "race")
	run(t, "gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-DCAPACITY=31", "-o", bin, "testdata/race.c")
	out, err := exec.CommandContext(t.Context(), bin, "3000").CombinedOutput()
	if got, want := string(out), "torn 0 unstable 0\n"; err != nil || got != want {
		t.Errorf("race: %q, %v; want %q", got, err, want)
	}
}
