package dump

import (
	"errors"
	"testing"
)

// TestCacheForgetsFailures: a frame that could not be read is read again when it is
// wanted again, and is kept as soon as it could be.
func TestCacheForgetsFailures(t *testing.T) {
	gone := errors.New("the server is gone")
	fail, reads := gone, 0
	c := newFrameCache(1<<20, func(i int) ([]byte, error) {
		reads++
		return []byte{byte(i)}, fail
	})
	for range 2 {
		if _, err := c.get(7); !errors.Is(err, gone) {
			t.Errorf("get = %v; want %v", err, gone)
		}
	}
	if c.has(7) {
		t.Error("a frame that could not be read is kept")
	}
	fail = nil
	for range 2 {
		if got, err := c.get(7); err != nil || len(got) != 1 || got[0] != 7 {
			t.Errorf("get = %v, %v; want the frame", got, err)
		}
	}
	if reads != 3 {
		t.Errorf("%d reads; want 3: each that failed, and one", reads)
	}
}
