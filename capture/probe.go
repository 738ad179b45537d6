package capture

import (
	"context"
	"errors"
	"fmt"
	"time"

	"snap/hv"
	"snap/phys"
)

// A memory whose reads are dear is sampled once, for how long reading takes and for how
// the pages compress: probePieces times as many of the largest calls as are to be under
// way at once, 16 MiB each time.
const probePieces = 4

// probe is what was read of a dear memory for that.
type probe struct {
	copied *memoryCopy // of the samples
	timed  []timed     // of each
}

// probe samples the session's memory, of which the pages of set can hold anything. It
// is done once.
func (s *Session) probe(ctx context.Context, set phys.Runs, look func()) (_ *probe, err error) {
	if s.probed != nil {
		return s.probed, nil
	}
	cost := hv.ReadCostOf(s.Memory)
	x, shape := phys.NewIndex(set), sampleShape{max(1, cost.Flight), max(1, cost.Most>>phys.PageShift)}
	var parts []phys.Runs
	var all phys.Runs
	for i := range probePieces {
		if part := shape.pick(x, i).Minus(all); len(part) > 0 {
			parts, all = append(parts, part), all.Union(part)
		}
	}
	memory, err := newHostMemory(all.Pages() << phys.PageShift)
	if err != nil {
		return nil, err
	}
	p := new(probe)
	if p.copied, err = newMemoryCopy(memory, s.Memory, all, true); err != nil {
		return nil, errors.Join(err, memory.free())
	}
	for _, part := range parts {
		start := time.Now()
		if err := p.copied.fillPart(ctx, s.Memory, part, s.Options.copyWorkers()); err != nil {
			return nil, errors.Join(fmt.Errorf("probe how fast the guest's memory can be read: %w", err), p.copied.Close())
		}
		p.timed = append(p.timed, timed{part.Pages(), time.Since(start)})
		look()
	}
	s.probed = p
	return p, nil
}

// dropProbe gives its memory back to the host.
func (s *Session) dropProbe() error {
	p := s.probed
	if p == nil {
		return nil
	}
	s.probed = nil
	return p.copied.Close()
}
