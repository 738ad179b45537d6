package store

import (
	"context"
	"errors"
	"io"
	"sync"
)

// Bounds on what is kept of an object that is read.
const (
	// blockSize is how much is asked for at a time.
	blockSize = 2 << 20
	// maxBlocks is how many blocks are kept.
	maxBlocks = 32
	// ahead is how many blocks are asked for before they are wanted, of an object that
	// is read from one end to the other.
	ahead = 4
)

// errNegative is an offset that nothing is at.
var errNegative = errors.New("negative offset")

// blockCache keeps what of a far file was read last. It is safe for concurrent use.
type blockCache struct {
	ctx   context.Context
	size  int64                                 // of the file
	fetch func(p []byte, off int64) (err error) // fills p

	mu   sync.Mutex
	kept map[int64]*block // by number
	tick uint64
	next int64 // the number of the block that follows the last one that was wanted
}

// block is a piece of a file.
type block struct {
	done chan struct{} // closed when it is here, or can't be had
	data []byte
	err  error
	used uint64 // tick when it was last wanted
}

func newBlockCache(ctx context.Context, size int64, fetch func([]byte, int64) error) *blockCache {
	return &blockCache{ctx: ctx, size: size, fetch: fetch, kept: map[int64]*block{}}
}

// put keeps a block that was got by other ways.
func (b *blockCache) put(n int64, data []byte) {
	got := &block{done: make(chan struct{}), data: data}
	close(got.done)
	b.kept[n] = got
}

// readAt is io.ReaderAt's.
func (b *blockCache) readAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errNegative
	}
	for n < len(p) {
		at := off + int64(n)
		if at >= b.size {
			return n, io.EOF
		}
		got := b.want(at / blockSize)
		select {
		case <-got.done:
		case <-b.ctx.Done():
			return n, context.Cause(b.ctx)
		}
		if got.err != nil {
			return n, got.err
		}
		n += copy(p[n:], got.data[at%blockSize:])
	}
	return n, nil
}

// want returns a block, and has it fetched if it isn't kept, and those behind it if the
// file is read in order.
func (b *blockCache) want(n int64) *block {
	b.mu.Lock()
	defer b.mu.Unlock()
	got := b.get(n)
	if n == b.next {
		for i := n + 1; i <= n+ahead && i*blockSize < b.size; i++ {
			b.get(i)
		}
	}
	b.next = n + 1
	return got
}

// get returns a block that is kept, or is being fetched from now on.
func (b *blockCache) get(n int64) *block {
	b.tick++
	if got := b.kept[n]; got != nil {
		got.used = b.tick
		return got
	}
	got := &block{done: make(chan struct{}), used: b.tick}
	b.kept[n] = got
	b.drop()
	go func() {
		data := make([]byte, min(blockSize, b.size-n*blockSize))
		if got.err = b.fetch(data, n*blockSize); got.err == nil {
			got.data = data
		} else {
			b.mu.Lock()
			delete(b.kept, n) // it may come the next time
			b.mu.Unlock()
		}
		close(got.done)
	}()
	return got
}

// drop forgets what wasn't wanted for the longest time.
func (b *blockCache) drop() {
	for len(b.kept) > maxBlocks {
		oldest := int64(-1)
		for n, k := range b.kept {
			if oldest < 0 || k.used < b.kept[oldest].used {
				oldest = n
			}
		}
		delete(b.kept, oldest)
	}
}
