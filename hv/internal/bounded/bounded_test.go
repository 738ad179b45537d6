package bounded

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestEnded: who is waited for in vain is told from who stops waiting.
func TestEnded(t *testing.T) {
	errCause := errors.New("somebody hung up")
	cancelled, cancel := context.WithCancelCause(t.Context())
	cancel(errCause)
	late, stop := context.WithTimeout(t.Context(), 0)
	defer stop()
	bounded, end := Within(t.Context(), 0)
	defer end()
	tests := []struct {
		name string
		ctx  context.Context
		want []error
		not  error
	}{
		{"cancelled", cancelled, []error{errCause, context.Canceled}, context.DeadlineExceeded},
		{"too late", late, []error{context.DeadlineExceeded}, TimeoutError{}},
		{"without an answer", bounded, []error{TimeoutError{}}, context.DeadlineExceeded},
	}
	for _, tt := range tests {
		err := Ended(tt.ctx)
		for _, want := range tt.want {
			if !errors.Is(err, want) {
				t.Errorf("%s: Ended() = %v; want %v", tt.name, err, want)
			}
		}
		if errors.Is(err, tt.not) {
			t.Errorf("%s: Ended() = %v; want no %v", tt.name, err, tt.not)
		}
	}
}

// TestInsist: attempts are made further and further apart until one is done.
func TestInsist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var at []time.Duration
		began := time.Now()
		errNo := errors.New("not yet")
		err := Insist(t.Context(), time.Second, 4*time.Second, func(context.Context) (bool, error) {
			at = append(at, time.Since(began))
			return len(at) == 5, errNo
		})
		if !errors.Is(err, errNo) || len(at) != 5 || at[4] != 11*time.Second {
			t.Errorf("Insist() = %v after attempts at %v; want the last one's error after 0, 1, 3, 7 and 11 s", err, at)
		}
		ctx, cancel := Within(t.Context(), 10*time.Second)
		defer cancel()
		err = Insist(ctx, time.Second, time.Second, func(context.Context) (bool, error) { return false, errNo })
		if !errors.Is(err, errNo) || !errors.Is(err, TimeoutError{10 * time.Second}) {
			t.Errorf("Insist() = %v; want the last attempt's error and %v", err, TimeoutError{10 * time.Second})
		}
		// The attempt that is under way when the time is up learns only that.
		ctx, cancel = Within(t.Context(), 10*time.Second)
		defer cancel()
		attempts := 0
		err = Insist(ctx, time.Second, time.Second, func(ctx context.Context) (bool, error) {
			if attempts++; attempts < 3 {
				return false, errNo
			}
			<-ctx.Done()
			return false, Ended(ctx)
		})
		if !errors.Is(err, errNo) || !errors.Is(err, TimeoutError{10 * time.Second}) {
			t.Errorf("Insist() with an attempt that is cut = %v; want %v, of the one before, and %v", err, errNo, TimeoutError{10 * time.Second})
		}
	})
}
