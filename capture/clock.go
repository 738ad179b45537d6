package capture

import (
	"context"
	"encoding/binary"
	"time"

	"snap/guest"
	"snap/hv"
	"snap/phys"
)

// clockEvery is the pause between two looks at a guest's clock. Windows lets it
// tick every 1 to 15.6 ms.
const clockEvery = 500 * time.Microsecond

// clock follows a running guest's own clock: the longest time for which it is
// seen not to move is how long the guest stalled, a tick included.
type clock struct {
	cancel context.CancelFunc
	done   chan struct{}
	stall  time.Duration
	seen   bool
}

// followClock begins to follow the InterruptTime of the guest in mem. Where
// memory can't be read without delay, nothing is seen.
func followClock(ctx context.Context, mem hv.Memory, sys *guest.System) *clock {
	ctx, cancel := context.WithCancel(ctx)
	c := &clock{cancel: cancel, done: make(chan struct{})}
	at, err := sys.InterruptTime(ctx)
	if err != nil || mem.Mechanism() != hv.MechanismDirect {
		close(c.done)
		return c
	}
	go func() {
		defer close(c.done)
		c.follow(ctx, mem, at)
	}()
	return c
}

// follow looks at the clock until ctx ends. Only what was seen counts: time in
// which nobody looked could have been no stall.
func (c *clock) follow(ctx context.Context, mem phys.Reader, at phys.Addr) {
	var b [8]byte
	var last uint64
	var since time.Time // of the first look that showed last
	tick := time.NewTicker(clockEvery)
	defer tick.Stop()
	for {
		if mem.ReadPhys(ctx, b[:], at) != nil {
			return
		}
		now := time.Now()
		if v := binary.LittleEndian.Uint64(b[:]); v != last || since.IsZero() {
			c.seen = c.seen || !since.IsZero()
			last, since = v, now
		}
		c.stall = max(c.stall, now.Sub(since))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// end stops looking, and returns the longest stall. seen is false if the clock
// was never seen to move, so that nothing is known.
func (c *clock) end() (stall time.Duration, seen bool) {
	c.cancel()
	<-c.done
	return c.stall, c.seen
}
