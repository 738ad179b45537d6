package capture

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"snap/internal/ntlab"
	"snap/phys"
)

// stretch is a time in which the work goes on at a rate.
type stretch struct {
	during time.Duration
	rate   float64 // parts of all work in a second
}

// play has the work go on in stretches, the last of them for ever, with a look every
// 10 ms, and returns when it was done, or when it was ended and what was projected
// then.
func play(limit, begun time.Duration, slack float64, pace []stretch) (at, ends time.Duration, over bool) {
	const total = 1_000_000
	o := &overrun{limit: limit, after: limit / 100, begun: begun, total: total, slack: slack}
	done, left := 0.0, pace[0].during
	for at = begun; at < 2*limit; {
		at += lookEvery
		done += pace[0].rate * total * lookEvery.Seconds()
		if ends, over = o.look(at, min(total, uint64(done))); over || done >= total {
			return at, ends, over
		}
		if left -= lookEvery; left <= 0 && len(pace) > 1 {
			pace = pace[1:]
			left = pace[0].during
		}
	}
	return at, ends, false
}

func TestOverrun(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name   string
		limit  time.Duration
		begun  time.Duration
		pace   []stretch
		over   bool
		before time.Duration // when it must have ended
	}{
		{"fits", 5 * s, 0, []stretch{{s, 0.5}}, false, 0},
		{"fits as it is", 5 * s, 0, []stretch{{s, 0.205}}, false, 0},
		{"six times too slow", 5 * s, 0, []stretch{{s, 1.0 / 30}}, true, 300 * time.Millisecond},
		{"twice too slow", 5 * s, 0, []stretch{{s, 0.1}}, true, 2 * s},
		{"half as slow again", 5 * s, 0, []stretch{{s, 1 / 7.5}}, true, 3 * s},
		{"nothing at all", 5 * s, 0, []stretch{{s, 0}}, true, s},
		{"nothing after half of it", 5 * s, 0, []stretch{{2 * s, 0.25}, {s, 0}}, true, 4900 * time.Millisecond},
		{"slow for a moment", 5 * s, 0, []stretch{{400 * time.Millisecond, 0.1}, {s, 0.5}}, false, 0},
		{"stands for a moment", 5 * s, 0, []stretch{{s, 0.3}, {300 * time.Millisecond, 0}, {s, 0.3}}, false, 0},
		{"fast, then slow", 5 * s, 0, []stretch{{s, 0.3}, {s, 0.05}}, true, 4 * s},
		{"begun late", 5 * s, 4 * s, []stretch{{s, 0.5}}, true, 4900 * time.Millisecond},
		{"a short limit", 300 * time.Millisecond, 0, []stretch{{s, 0.3}}, true, 150 * time.Millisecond},
		{"a long limit", time.Hour, 0, []stretch{{time.Hour, 1.0 / 36000}}, true, 10 * time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at, ends, over := play(tt.limit, tt.begun, 0, tt.pace)
			if over != tt.over || over && (at > tt.before || ends <= tt.limit) {
				t.Errorf("ended %t after %v, projected %v; want %t before %v", over, at, ends, tt.over, tt.before)
			}
		})
	}
}

// TestOverrunPatient: work that waits for others is not ended for standing still while
// the rest would still fit, and is as soon as it doesn't.
func TestOverrunPatient(t *testing.T) {
	const limit, total = 60 * time.Second, 1000
	for _, before := range []uint64{0, 20, 900} {
		o := &overrun{limit: limit, after: time.Second, total: total, patient: true, slack: writeSlack, prior: rateBetween(progressed{}, progressed{10 * time.Second, total})}
		var at time.Duration
		over := false
		for ; !over && at < limit; at += lookEvery {
			_, over = o.look(at, min(before, uint64(at/(10*time.Millisecond))))
		}
		// What is left takes this part of 10 s at the estimated rate, and no more than that at the rate that was seen.
		rest := 10 * time.Second * time.Duration(total-before) / total
		if latest := limit - time.Second; !over || at < latest-rest-time.Second || at > latest {
			t.Errorf("with %d of %d done before it stood still, ended %t after %v; want it between %v and %v", before, total, over, at, latest-rest, latest)
		}
	}
}

// TestOverrunLaws: at a steady pace a pause that fits is never ended, one that is far
// from fitting is ended in a part of its limit, and the projection is right.
func TestOverrunLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := time.Duration(rapid.Int64Range(int64(200*time.Millisecond), int64(time.Hour)).Draw(t, "limit"))
		part := rapid.Float64Range(0.01, 30).Draw(t, "time needed, of the limit")
		slack := rapid.SampledFrom([]float64{0, 2}).Draw(t, "slack")
		at, ends, over := play(limit, 0, slack, []stretch{{time.Hour, 1 / (part * limit.Seconds())}})
		switch {
		case part < 0.9 && over:
			t.Fatalf("ended after %v, projected %v; it would have taken %v of %v", at, ends, duration(part*float64(limit)), limit)
		case part > 3 && !over:
			t.Fatalf("not ended; it takes %.1f times the limit of %v", part, limit)
		case part > 3 && at > limit/4+10*lookEvery:
			t.Fatalf("ended after %v of %v; want it in the first quarter", at, limit)
		}
		if want := part * float64(limit); over && (float64(ends) < 0.8*want || float64(ends) > 1.3*want+float64(limit)/50) {
			t.Fatalf("projected %v; want about %v", ends, duration(want))
		}
	})
}

// TestOverrunHostile: whatever is told, never a panic, and never an end when all is
// done.
func TestOverrunHostile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := &overrun{
			limit: time.Duration(rapid.Int64().Draw(t, "limit")), after: time.Duration(rapid.Int64().Draw(t, "after")),
			begun: time.Duration(rapid.Int64().Draw(t, "begun")), total: rapid.Uint64().Draw(t, "total"),
		}
		for range rapid.IntRange(1, 30).Draw(t, "looks") {
			at, done := time.Duration(rapid.Int64().Draw(t, "at")), rapid.Uint64().Draw(t, "done")
			if _, over := o.look(at, done); over && done >= o.total {
				t.Fatalf("ended although %d of %d are done", done, o.total)
			}
		}
	})
}

// TestPauseEndedEarly has a guest whose memory is as fast as its estimate says until
// it stands still, and then eight times too slow: the pause is ended in the first third
// of what it may last, in the test's own time, and the guest runs.
func TestPauseEndedEarly(t *testing.T) {
	vm := newGuest(t, ntlab.Config{Seed: 33})
	synctest.Test(t, func(t *testing.T) {
		const limit = time.Hour
		page := 8 * limit / time.Duration(vm.im.Populated().Pages()) * time.Duration(runtime.GOMAXPROCS(0)) // by one worker
		var paused time.Time
		vm.onPause = func() { paused = time.Now() }
		var stood time.Duration
		vm.onRelease = func() { stood = time.Since(paused) }
		vm.onRead = func(ctx context.Context, p []byte, at phys.Addr) error {
			if !vm.paused.Load() {
				return nil
			}
			select {
			case <-time.After(time.Duration(len(p)/phys.PageSize) * page):
				return nil
			case <-ctx.Done():
				return &phys.AccessError{At: at, Len: len(p), Err: ctx.Err()}
			}
		}
		job := pauseJob(vm, spoolSize)
		job.MaxPause = limit
		_, err := job.take(t.Context(), &bytes.Buffer{})
		e, ok := errors.AsType[*PauseError](err)
		if !ok || vm.holds != 1 || vm.paused.Load() {
			t.Fatalf("Take() = %v after %d pauses, paused %t; want a *PauseError and a guest that runs", err, vm.holds, vm.paused.Load())
		}
		if stood > limit/3 || e.Stood > limit || e.Ends <= limit {
			t.Errorf("the guest stood still for %v of %v, and would have for %v; want it to be let go in the first third", stood, limit, e.Ends)
		}
	})
}
