package file

import "sync"

// pieces keeps decoded parts of a file, those that were wanted last, so that the
// many small reads of a search through page tables decode each only once. It is
// safe for concurrent use.
type pieces struct {
	limit int

	mu    sync.Mutex
	byKey map[int64][]byte
	order []int64 // the oldest first
}

func newPieces(limit int) *pieces { return &pieces{limit: limit, byKey: map[int64][]byte{}} }

// get returns the piece of that key, made by decode if it isn't kept. It must not
// be written to.
func (c *pieces) get(key int64, decode func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	b, ok := c.byKey[key]
	c.mu.Unlock()
	if ok {
		return b, nil
	}
	b, err := decode()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byKey[key]; ok {
		return b, nil
	}
	if len(c.order) == c.limit {
		delete(c.byKey, c.order[0])
		c.order = append(c.order[:0], c.order[1:]...)
	}
	c.byKey[key] = b
	c.order = append(c.order, key)
	return b, nil
}
