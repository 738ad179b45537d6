// Package bounded makes calls end: contexts whose end says what was waited for in
// vain, and attempts that are repeated until one is done.
package bounded

import (
	"context"
	"errors"
	"fmt"
	"time"

	"snap/hv"
)

// TimeoutError is somebody who doesn't answer: hv.ErrNoAnswer. It is no context
// error: what the caller bounded went on.
type TimeoutError struct{ After time.Duration }

func (e TimeoutError) Error() string { return fmt.Sprintf("%v within %v", hv.ErrNoAnswer, e.After) }

// Unwrap returns the class of the failure.
func (e TimeoutError) Unwrap() error { return hv.ErrNoAnswer }

// endedError is a call given up because its context ended.
type endedError struct{ cause, err error }

func (e endedError) Error() string   { return e.cause.Error() }
func (e endedError) Unwrap() []error { return []error{e.cause, e.err} }

// Within bounds ctx.
func Within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, TimeoutError{d})
}

// Ended returns why ctx, which has ended, did: a TimeoutError if it was bounded by
// Within, else an error for which errors.Is holds with ctx's error and its cause.
func Ended(ctx context.Context) error {
	cause := context.Cause(ctx)
	if t, ok := errors.AsType[TimeoutError](cause); ok {
		return t
	}
	return endedError{cause, ctx.Err()}
}

// Insist makes attempts, ever further apart, from wait on up to longest, until one
// is done or ctx ends. The error is that of the last attempt, with the context's
// if that was why there is no other. Of an attempt that the context's end cut short
// nothing is learned: the error is then that of the one before.
func Insist(ctx context.Context, wait, longest time.Duration, try func(context.Context) (done bool, err error)) error {
	var last error
	for ; ; wait = min(2*wait, longest) {
		done, err := try(ctx)
		if done {
			return err
		}
		if last != nil && ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
			err = last
		}
		last = err
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return errors.Join(err, Ended(ctx))
		}
	}
}
