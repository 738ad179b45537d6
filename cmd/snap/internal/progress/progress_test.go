package progress

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

type counter struct{ done, total atomic.Uint64 }

func (c *counter) Done() uint64  { return c.done.Load() }
func (c *counter) Total() uint64 { return c.total.Load() }

func counted(done, total uint64) *counter {
	c := new(counter)
	c.done.Store(done)
	c.total.Store(total)
	return c
}

// What is left is what was measured, what was expected, or both by how much is
// done; and nothing is said where nothing is known.
func TestLeft(t *testing.T) {
	const s = time.Second
	for _, tt := range []struct {
		name    string
		counter Counter
		expect  time.Duration
		after   time.Duration
		want    time.Duration
		known   bool
	}{
		{"nothing is known", nil, 0, s, 0, false},
		{"no total yet", counted(0, 0), 0, s, 0, false},
		{"nothing done yet", counted(0, 100), 0, s, 0, false},
		{"expected, from the first moment", nil, 10 * s, 0, 10 * s, true},
		{"expected", nil, 10 * s, 4 * s, 6 * s, true},
		{"longer than expected", nil, 10 * s, 11 * s, 0, false},
		{"measured", counted(25, 100), 0, 10 * s, 30 * s, true},
		{"expected, nothing done yet", counted(0, 100), 10 * s, s, 9 * s, true},
		{"half trusted", counted(5, 100), 21 * s, s, (19*s + 20*s) / 2, true},
		{"measured, whatever was expected", counted(50, 100), 100 * s, 10 * s, 10 * s, true},
		{"measured, longer than expected", counted(2, 100), s, 2 * s, 98 * s, true},
		{"done", counted(100, 100), 10 * s, 4 * s, 0, true},
		{"more than all", counted(200, 100), 0, 4 * s, 0, true},
	} {
		start := time.Unix(0, 0)
		p := begun{Phase{Counter: tt.counter, Expect: tt.expect}, start}
		got, known := p.left(start.Add(tt.after))
		if got = got.Round(time.Millisecond); got != tt.want || known != tt.known {
			t.Errorf("%s: %v, %v; want %v, %v", tt.name, got, known, tt.want, tt.known)
		}
	}
}

// job runs phases in a bubble of time and returns what was logged.
func job(t *testing.T, style Style) string {
	t.Helper()
	var out bytes.Buffer
	synctest.Test(t, func(*testing.T) {
		var log zerolog.Logger
		if style == JSON {
			log = zerolog.New(&out)
		} else {
			log = zerolog.New(zerolog.ConsoleWriter{Out: &out, NoColor: true, PartsOrder: []string{"message"}})
		}
		s := New(&out, log.Level(zerolog.InfoLevel), style)
		s.Begin(Phase{Name: "looking", Text: "looking at web01"})
		time.Sleep(300 * time.Millisecond)
		s.Begin(Phase{Name: "estimating", Text: "estimating"})
		s.Begin(Phase{Name: "estimating", Text: "estimating"}) // goes on
		time.Sleep(time.Millisecond)
		s.Begin(Phase{Name: "paused", Text: "PAUSED web01", Held: true, Expect: 2 * time.Second})
		time.Sleep(212 * time.Millisecond)
		s.Begin(Phase{Name: "running", Text: "RUNNING again after 212 ms", Stood: 212 * time.Millisecond, Once: true})
		c := counted(0, 1000<<20)
		s.Begin(Phase{Name: "compressing", Text: "compressing web01", Counter: c})
		for range 245 {
			time.Sleep(100 * time.Millisecond)
			c.done.Add(4 << 20)
		}
		s.End()
	})
	return out.String()
}

func TestLogOfAJob(t *testing.T) {
	got := strings.Split(strings.TrimSpace(job(t, Log)), "\n")
	want := []string{
		"looking at web01",
		"estimating",
		"PAUSED web01: about 2 s left",
		"RUNNING again after 212 ms",
		"compressing web01",
		"compressing web01: 4 %, 40 MiB of 1000 MiB, 40 MiB/s, about 24 s left",
		"compressing web01: 40 %, 400 MiB of 1000 MiB, 40 MiB/s, about 15 s left",
		"compressing web01: 80 %, 800 MiB of 1000 MiB, 40 MiB/s, about 5 s left",
	}
	// The ticker of the show isn't in step with the phase.
	loose := func(s string) string {
		text, _, _ := strings.Cut(s, " %")
		return strings.TrimRight(text, "0123456789")
	}
	for i := range want {
		if i >= len(got) || loose(got[i]) != loose(want[i]) {
			t.Fatalf("log (-want +got):\n%s", cmp.Diff(want, got))
		}
	}
	if len(got) != len(want) || !strings.Contains(got[5], " left") {
		t.Errorf("log (-want +got):\n%s", cmp.Diff(want, got))
	}
}

// Records have the fields that programs read, all of them always.
func TestRecordsOfAJob(t *testing.T) {
	var events, phases []string
	for _, line := range strings.Split(strings.TrimSpace(job(t, JSON)), "\n") {
		var r map[string]any
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		fields := []string{"event", "held", "phase", "percent", "eta_s", "message", "level"}
		if r["phase"] == "running" {
			fields = []string{"event", "phase", "stood_ms", "message", "level"}
		}
		if r["phase"] == "compressing" {
			fields = append(fields, "bytes_done", "bytes_total", "bytes_per_s")
		}
		for _, f := range fields {
			if _, ok := r[f]; !ok {
				t.Errorf("record %s has no %s", line, f)
			}
		}
		if len(r) != len(fields) {
			t.Errorf("record %s has %d fields; want %q", line, len(r), fields)
		}
		if eta, ok := r["eta_s"].(float64); ok && r["phase"] == "paused" && eta != 2 {
			t.Errorf("record %s; want an ETA of 2 s, as was expected", line)
		}
		if r["event"] == "progress" && (r["eta_s"] == nil || r["percent"] == nil) {
			t.Errorf("record %s; want an ETA and a share", line)
		}
		events, phases = append(events, fmt.Sprint(r["event"])), append(phases, fmt.Sprint(r["phase"]))
	}
	wantPhases := []string{"looking", "estimating", "paused", "running", "compressing"}
	if got := slices.Compact(phases); !slices.Equal(got, wantPhases) {
		t.Errorf("phases %q; want %q", got, wantPhases)
	}
	if want := []string{"phase", "phase", "phase", "phase", "phase", "progress", "progress", "progress"}; !slices.Equal(events, want) {
		t.Errorf("events %q; want %q", events, want)
	}
}

// Nobody who begins a phase waits for whoever reads.
func TestBeginDoesNotWait(t *testing.T) {
	release := make(chan struct{})
	s := New(nil, zerolog.New(blocked{release}), JSON)
	for i := range 1000 {
		s.Begin(Phase{Name: fmt.Sprint(i)})
	}
	close(release)
	s.End()
}

// blocked is a writer whose reader does something else.
type blocked struct{ release chan struct{} }

func (b blocked) Write(p []byte) (int, error) {
	<-b.release
	return len(p), nil
}

func TestNothingIsShown(t *testing.T) {
	var out bytes.Buffer
	s := New(&out, zerolog.New(&out), None)
	s.Begin(Phase{Name: "looking"})
	s.End()
	if out.Len() != 0 {
		t.Errorf("%q was written; want nothing", out.String())
	}
}

func TestTimesForPeople(t *testing.T) {
	for d, want := range map[time.Duration][2]string{
		0:                               {"1 s", "0 ms"},
		212 * time.Millisecond:          {"1 s", "212 ms"},
		4200 * time.Millisecond:         {"4 s", "4.2 s"},
		90 * time.Second:                {"1 min 30 s", "1 min 30 s"},
		2*time.Hour + 5*time.Minute + 9: {"2 h 5 min", "2 h 5 min"},
	} {
		if got := [2]string{about(d), exactly(d)}; got != want {
			t.Errorf("%v: %q; want %q", d, got, want)
		}
	}
}
