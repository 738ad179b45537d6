package dump

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// chunk is how much is read at a time where the container has no frames.
const chunk = 1 << 20

// readMemory bounds the buffers that reading a whole file takes.
const readMemory = DefaultMemory

// inParallel calls work with 0..n-1, from a goroutine per processor as far as
// readMemory allows when each has a buffer of size bytes. The context that start
// gets ends with the first error.
func inParallel(ctx context.Context, n, size int, start func(ctx context.Context, buf []byte) (work func(i int) error)) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), n, max(1, readMemory/size)) {
		g.Go(func() error {
			work := start(ctx, make([]byte, size))
			for {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := work(int(i)); err != nil {
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
