package dump

import (
	"container/list"
	"sync"
)

// cacheBytes is how many expanded bytes a File keeps, in at least cacheMin frames.
const (
	cacheBytes = 32 << 20
	cacheMin   = 2
	cacheMax   = 4096
)

// frameCache keeps the frames that were used last. Readers that want the same
// frame at the same time decode it once. What fails isn't kept: a file that could not be
// read may be there again. It is safe for concurrent use.
type frameCache struct {
	limit  int // frames
	decode func(i int) ([]byte, error)

	mu    sync.Mutex
	byID  map[int]*list.Element // of *cachedFrame
	order *list.List            // the last used first
}

type cachedFrame struct {
	id   int
	once sync.Once
	data []byte
	err  error
}

func newFrameCache(frameSize int, decode func(i int) ([]byte, error)) *frameCache {
	return &frameCache{
		limit:  min(max(cacheBytes/max(frameSize, 1), cacheMin), cacheMax),
		decode: decode,
		byID:   map[int]*list.Element{},
		order:  list.New(),
	}
}

// get returns what decode returns of frame i, which must not be written to. It stays
// valid after the frame has left the cache.
func (c *frameCache) get(i int) ([]byte, error) {
	f := c.entry(i)
	f.once.Do(func() {
		if f.data, f.err = c.decode(i); f.err != nil {
			c.forget(f)
		}
	})
	return f.data, f.err
}

// forget drops a frame, if it is still kept.
func (c *frameCache) forget(f *cachedFrame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byID[f.id]; ok && e.Value == f {
		delete(c.byID, f.id)
		c.order.Remove(e)
	}
}

// has reports whether frame i is kept, or is being decoded.
func (c *frameCache) has(i int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.byID[i]
	return ok
}

func (c *frameCache) entry(i int) *cachedFrame {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.byID[i]; ok {
		c.order.MoveToFront(e)
		return e.Value.(*cachedFrame)
	}
	if c.order.Len() >= c.limit {
		last := c.order.Back()
		delete(c.byID, last.Value.(*cachedFrame).id)
		c.order.Remove(last)
	}
	f := &cachedFrame{id: i}
	c.byID[i] = c.order.PushFront(f)
	return f
}
