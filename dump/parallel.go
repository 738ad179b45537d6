package dump

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// chunk is how much is read at a time where the container has no frames.
const chunk = 1 << 20

// readMemory bounds the buffers that reading a whole file takes: of each worker one
// of expanded bytes, and one of stored ones.
const readMemory = 128 << 20

// part is some of the expanded bytes.
type part struct {
	off, size int64
	data      []byte // nil where all are zeros
}

// inParallel calls work with what next gives until it reports that there is no more,
// from a goroutine per processor, as far as readMemory allows when each has a buffer of
// size bytes, and n at most. next is called by one at a time. The context that work gets
// ends with the first error.
func inParallel[T any](ctx context.Context, n, size int, next func() (T, bool, error), work func(ctx context.Context, buf []byte, t T) error) error {
	var mu sync.Mutex
	take := func() (T, bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return next()
	}
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), n, max(1, readMemory/2/size)) {
		g.Go(func() error {
			buf := make([]byte, size)
			for {
				t, ok, err := take()
				if err != nil || !ok {
					return err
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := work(ctx, buf, t); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// queue lets goroutines that each have a part of a file go on one by one, in the
// order of the parts. Its zero value is at the start of the file.
type queue struct {
	mu    sync.Mutex
	off   int64
	moved chan struct{} // closed when off changes; nil if nobody waits
}

// wait returns when all that lies ahead of off is done, or ctx has ended.
func (q *queue) wait(ctx context.Context, off int64) error {
	for {
		q.mu.Lock()
		if q.off == off {
			q.mu.Unlock()
			return nil
		}
		if q.moved == nil {
			q.moved = make(chan struct{})
		}
		moved := q.moved
		q.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// done lets the part that follows go on.
func (q *queue) done(end int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.off = end
	if q.moved != nil {
		close(q.moved)
		q.moved = nil
	}
}
