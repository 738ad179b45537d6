package capture

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"snap/hv"
	"snap/internal/ntlab"
	"snap/phys"
)

// toldHold counts how often it was said to go on.
type toldHold struct{ times int }

func (h *toldHold) Progressed()                     { h.times++ }
func (h *toldHold) Release() (time.Duration, error) { return 0, nil }

// TestTellProgress: whoever keeps a pause hears that it goes on as long as pages are
// read, and no longer.
func TestTellProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vm := newGuest(t, ntlab.Config{Seed: 21})
		h, told := &holding{}, &toldHold{}
		mem := heldMemory{imageMemory{vm.im, vm}, h}
		done := make(chan struct{})
		go h.tellProgress(told, done)
		page := make([]byte, phys.PageSize)
		for i := range 5 {
			if err := mem.ReadPhys(t.Context(), page, vm.im.RAM()[0].Base.Addr()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(progressEvery)
			synctest.Wait()
			if told.times != i+1 {
				t.Errorf("after %d reads it was told %d times; want as often", i+1, told.times)
			}
		}
		before := told.times
		if err := mem.ReadPhys(t.Context(), page, 1<<50); err == nil {
			t.Error("a read outside of RAM didn't fail")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if told.times != before {
			t.Errorf("it was told %d times more without a page read; want none", told.times-before)
		}
		h.releasing.Store(true)
		time.Sleep(3 * progressEvery)
		synctest.Wait()
		if told.times != before+3 {
			t.Errorf("it was told %d times while the guest was let go; want 3 times", told.times-before)
		}
		close(done)
		synctest.Wait()
	})
}

// TestHeldTooLongIsNoPauseError: what kept the guest for too long is not that the
// pause takes so long, and more time would not help.
func TestHeldTooLongIsNoPauseError(t *testing.T) {
	late := &hv.OverdueError{Held: time.Second, Why: "the test says so"}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 0, errRanOver)
	defer cancel()
	h := &holding{ctx: ctx, parent: t.Context(), cancel: cancel, limit: time.Second, acc: &Account{}}
	if err := h.judge(errors.Join(context.Cause(ctx), late)); errors.Is(err, ErrPauseTooLong) || !errors.Is(err, hv.ErrOverdue) {
		t.Errorf("a pause that its keeper ended, and whose time is up = %v; want %v alone", err, hv.ErrOverdue)
	}
}

// TestHeldTooLong: pages of a guest that was let go meanwhile are not one point in
// time, whoever says so and whatever else went well.
func TestHeldTooLong(t *testing.T) {
	late := &hv.OverdueError{Held: 7 * time.Second, Why: "the test says so"}
	for _, spool := range []uint64{spoolSize, 0} {
		vm := newGuest(t, ntlab.Config{Seed: 22})
		vm.releaseErr = late
		res, err := pauseJob(vm, spool).take(t.Context(), io.Discard)
		if e, ok := errors.AsType[*hv.OverdueError](err); res != nil || !ok || *e != *late {
			t.Errorf("spool of %d: a dump of a guest that was let go = %v, %v; want no dump and %v", spool, res, err, late)
		}
	}
}
