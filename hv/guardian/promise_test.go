package guardian

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"snap/hv"
)

// TestPromise: what isn't kept is undone once, and known from then on.
func TestPromise(t *testing.T) {
	const patience = time.Minute
	tests := []struct {
		name   string
		within time.Duration
		do     func(p *promise)
		want   string // in why it is broken; empty if it is kept
		held   time.Duration
	}{
		{"kept", 5 * time.Second, func(*promise) { time.Sleep(5 * time.Second) }, "", 0},
		{"late", 5 * time.Second, func(*promise) { time.Sleep(time.Hour) }, "5s at most", 5*time.Second + promiseGrace},
		{"without progress", 0, func(*promise) { time.Sleep(time.Hour) }, "no progress for 1m0s", patience + promiseGrace},
		{"with progress", 0, func(p *promise) {
			for range 100 {
				time.Sleep(patience)
				p.progressed()
			}
		}, "", 0},
		{"late in spite of progress", 3 * time.Minute, func(p *promise) {
			for range 10 {
				time.Sleep(patience / 2)
				p.progressed()
			}
		}, "3m0s at most", 3*time.Minute + promiseGrace},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var p promise
				var undone []overdue
				if err := p.make(tt.within, patience, func(_ context.Context, o overdue) { undone = append(undone, o) }); err != nil {
					t.Fatal(err)
				}
				tt.do(&p)
				o := p.kept()
				synctest.Wait()
				time.Sleep(time.Hour) // nothing happens any more
				switch {
				case tt.want == "" && (o != nil || len(undone) > 0):
					t.Errorf("the promise is broken: %+v, and %d times undone; want it kept", o, len(undone))
				case tt.want != "" && (o == nil || !strings.Contains(o.Why, tt.want) || o.Held != tt.held || len(undone) != 1):
					t.Errorf("kept() = %+v, and %d times undone; want %q after %v, and once", o, len(undone), tt.want, tt.held)
				}
			})
		})
	}
}

// TestPromiseAgain: no new promise is taken while the last is being dealt with, and
// the end of all ends that.
func TestPromiseAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p promise
		ended := false
		forever := func(ctx context.Context, _ overdue) { <-ctx.Done(); ended = true }
		if err := p.make(time.Second, time.Minute, forever); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if p.kept() == nil {
			t.Error("kept() = nil; want that it wasn't")
		}
		if err := p.make(time.Second, time.Minute, forever); err == nil {
			t.Error("make() while the last is being dealt with = no error")
		}
		p.end()
		if !ended {
			t.Error("end() doesn't end what is being done")
		}
		if err := p.make(time.Second, time.Minute, forever); err != nil || p.kept() != nil {
			t.Errorf("make() afterwards = %v; want no error, and a new promise", err)
		}
	})
}

// TestOverdue: a guardian whose snap doesn't let the guest go does so, and tells snap
// when that asks. Another snap that is in time isn't told anything.
func TestOverdue(t *testing.T) {
	for _, late := range []bool{true, false} {
		t.Run(map[bool]string{true: "late", false: "in time"}[late], func(t *testing.T) {
			t.Parallel()
			r, y := deadRun(t, hv.ForPause)
			r.Snap = aRun(t).Snap // it lives
			y.undone = make(chan struct{}, 1)
			g, s := talking(t, r, y)
			until := time.Now().Add(time.Hour)
			if late {
				until = time.Now()
			}
			if err := g.Hold(t.Context(), hv.ForPause, until); err != nil {
				t.Fatal(err)
			}
			g.Progressed()
			if late {
				within(t, "that the guest is let go", y.undone)
			}
			err := g.Freed()
			if errors.Is(err, hv.ErrOverdue) != late {
				t.Errorf("Freed() = %v; want hv.ErrOverdue: %v", err, late)
			}
			if err := g.conn.Close(); err != nil {
				t.Fatal(err)
			}
			<-s
			if (len(y.left) > 0) != late || late && (y.left[0].Run != r.ID || y.left[0].Watch == nil || y.marker != nil) {
				t.Errorf("Undo() was told %+v, and the mark is %+v; want it undone and unmarked: %v", y.left, y.marker, late)
			}
		})
	}
}

// talking returns snap's end of a guardian that runs in this process until the
// channel is closed.
func talking(t *testing.T, r *Run, y *toy) (*Guardian, chan struct{}) {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &server{dir: dir, socket: theirs, connect: y.open, report: func(string) {}, self: r.Snap}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.listen()
		s.promise.end()
	}()
	r.Holding = false
	return &Guardian{dir: dir, conn: ours, in: json.NewDecoder(ours), run: *r}, ended
}
