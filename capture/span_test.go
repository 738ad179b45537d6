package capture

import (
	"math"
	"testing"
	"testing/fstest"
	"time"

	"pgregory.net/rapid"
)

func TestRateOf(t *testing.T) {
	const ms = time.Millisecond
	tests := []struct {
		name    string
		samples []timed
		want    rate
	}{
		{"nothing", nil, rate{}},
		{"no pages", []timed{{0, ms}}, rate{}},
		{"one", []timed{{1000, ms}}, rate{1000, 1000, 0, 1, 1000}},
		{"alike", []timed{{1000, ms}, {2000, 2 * ms}}, rate{1000, 1000, 0, 2, 1500}},
		// A mean of 2000 ns, from which both are 1000 away.
		{"apart", []timed{{1000, ms}, {1000, 3 * ms}}, rate{2000, 3000, 0.5, 2, 1000}},
	}
	for _, tt := range tests {
		if got := rateOf(tt.samples); got != tt.want {
			t.Errorf("%s: rateOf() = %+v; want %+v", tt.name, got, tt.want)
		}
	}
}

func TestRateSpan(t *testing.T) {
	const s = time.Second
	calm, busy := hostLoad{}, hostLoad{Waiting: 2}
	tests := []struct {
		name string
		r    rate
		load hostLoad
		want Span // of a million pages
	}{
		{"steady", rate{1000, 1000, 0, 9, 1000}, calm, Span{s, 1500 * time.Millisecond}},
		{"steady, busy", rate{1000, 1000, 0, 9, 1000}, busy, Span{s, 2 * s}},
		{"steady, very busy", rate{1000, 1000, 0, 9, 1000}, hostLoad{Waiting: 100}, Span{s, 3 * s}},
		{"uneven", rate{1000, 9000, 0.75, 9, 1000}, calm, Span{s, 2250 * time.Millisecond}},
		{"uneven, as short as a sample", rate{1000, 9000, 0.5, 9, 1e6}, calm, Span{s, 3 * s}},
		{"no slower than the slowest", rate{1000, 1200, 0.5, 1, 1000}, calm, Span{s, 1800 * time.Millisecond}},
	}
	for _, tt := range tests {
		if got := tt.r.of(1_000_000, tt.load); got != tt.want {
			t.Errorf("%s: of() = %v; want %v", tt.name, got, tt.want)
		}
	}
}

// TestSpanLaws: the pessimistic end is never before the likely one, grows with the
// host's load, and stays a time whatever is measured.
func TestSpanLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		samples := rapid.SliceOf(rapid.Custom(func(t *rapid.T) timed {
			return timed{rapid.Uint64().Draw(t, "pages"), time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "took"))}
		})).Draw(t, "samples")
		load := hostLoad{rapid.Float64Range(0, 1e9).Draw(t, "waiting"), rapid.Float64Range(0, 1).Draw(t, "stolen")}
		pages := rapid.Uint64().Draw(t, "pages")
		r := rateOf(samples)
		calm, busy := r.of(pages, hostLoad{}), r.of(pages, load)
		if calm.Likely < 0 || calm.Most < calm.Likely || busy.Most < calm.Most || busy.Likely != calm.Likely {
			t.Fatalf("of() = %v, and %v on a host with load %+v; want likely before most, and more with load", calm, busy, load)
		}
	})
}

// What Linux 6.18 says of a host with two processors (proc(5)), twice.
const (
	stat1 = "cpu  1000 0 500 8000 100 0 0 400 0 0\ncpu0 500 0 250 4000 50 0 0 200 0 0\nintr 1 2 3\nctxt 5\nprocs_running 6\nprocs_blocked 0\n"
	stat2 = "cpu  1100 0 550 8025 100 0 0 425 0 0\ncpu0 500 0 250 4000 50 0 0 200 0 0\nintr 1 2 3\nctxt 5\nprocs_running 4\nprocs_blocked 0\n"
)

func TestHostLoad(t *testing.T) {
	proc := fstest.MapFS{"stat": {Data: []byte(stat1)}}
	m := &loadMeter{proc: proc, cpus: 2, first: readProcStat(proc)}
	m.look(1)
	proc["stat"] = &fstest.MapFile{Data: []byte(stat2)}
	m.look(1)
	// 5 and 3 tasks but for ours; 25 ticks of 200 were stolen.
	if got, want := m.load(), (hostLoad{Waiting: 2, Stolen: 0.125}); got != want {
		t.Errorf("load() = %+v; want %+v", got, want)
	}
}

// TestHostLoadUnknown: a host that doesn't say is taken to be calm.
func TestHostLoadUnknown(t *testing.T) {
	for name, stat := range map[string]string{
		"missing": "", "empty": "\n", "no numbers": "cpu a b c d e f g h\nprocs_running x\n", "short": "cpu 1 2 3\n",
		"more than fits": "cpu  99999999999999999999999 0 0 0 0 0 0 0\n",
	} {
		proc := fstest.MapFS{}
		if stat != "" {
			proc["stat"] = &fstest.MapFile{Data: []byte(stat)}
		}
		m := &loadMeter{proc: proc, cpus: 2, first: readProcStat(proc)}
		m.look(1)
		if got := m.load(); got != (hostLoad{}) {
			t.Errorf("%s: load() = %+v; want none", name, got)
		}
	}
}

func TestConfidence(t *testing.T) {
	tests := []struct {
		e    PauseEstimate
		want Confidence
	}{
		{PauseEstimate{Samples: 9}, ConfidenceHigh},
		{PauseEstimate{Samples: 1}, ConfidenceLow},
		{PauseEstimate{Samples: 9, Deviation: 0.5}, ConfidenceFair},
		{PauseEstimate{Samples: 9, Deviation: 2}, ConfidenceLow},
		{PauseEstimate{Samples: 9, Load: hostLoad{Waiting: 0.5}}, ConfidenceFair},
		{PauseEstimate{Samples: 9, Load: hostLoad{Waiting: 3}}, ConfidenceLow},
		{PauseEstimate{Samples: 9, Load: hostLoad{Stolen: 0.05}}, ConfidenceFair},
		{PauseEstimate{Samples: 9, Load: hostLoad{Stolen: 0.5}}, ConfidenceLow},
	}
	for _, tt := range tests {
		if got := tt.e.Confidence(); got != tt.want {
			t.Errorf("Confidence() of %+v = %s; want %s", tt.e, got, tt.want)
		}
	}
}
