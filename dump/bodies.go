package dump

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// chunk is how much is read at a time where the container has no frames.
const chunk = 1 << 20

// readMemory bounds the buffers that reading a whole file takes.
const readMemory = DefaultMemory

// inParallel calls work with 0..n-1, from a goroutine per processor as far as
// readMemory allows when each has a buffer of size bytes.
func inParallel(ctx context.Context, n, size int, start func(buf []byte) (work func(i int) error)) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), n, max(1, readMemory/size)) {
		g.Go(func() error {
			work := start(make([]byte, size))
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

// plainBody is the dump itself.
type plainBody struct {
	io.ReaderAt
	length int64
}

func (b plainBody) size() int64 { return b.length }

func (b plainBody) each(ctx context.Context, use func(p []byte, off int64) error) error {
	n := (b.length + chunk - 1) / chunk
	return inParallel(ctx, int(n), chunk, func(buf []byte) func(int) error {
		return func(i int) error {
			off := int64(i) * chunk
			p := buf[:min(chunk, b.length-off)]
			if err := readFull(b, p, off); err != nil {
				return fmt.Errorf("read dump at offset %#x: %w", off, err)
			}
			return use(p, off)
		}
	})
}
