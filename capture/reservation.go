package capture

import (
	"context"
	"errors"
	"fmt"
	"runtime/trace"
	"sync"

	"golang.org/x/sync/errgroup"

	"snap/hv"
	"snap/phys"
)

// faultBytes is how much of a reservation is got by one system call.
const faultBytes = 4 << 20

// reservation is memory of the host for a copy of a guest's. Finding room for it and
// clearing that takes the host longer than the copy itself, so it is done before, and
// where nothing speaks against it in the background.
type reservation struct {
	memory hostMemory

	// quiet is held for reading by who gets a piece, and for writing by who must not
	// be disturbed by that.
	quiet sync.RWMutex

	mu  sync.Mutex
	got uint64 // bytes from the start that are there, or that somebody gets right now

	stop context.CancelFunc // of what is done in the background
	done chan struct{}      // closed when that has ended, nil where nothing was begun
	err  error              // of that
}

// newReservation reserves size bytes. Nothing is got of the host yet.
func newReservation(size uint64) (*reservation, error) {
	memory, err := newHostMemory(size)
	if err != nil {
		return nil, err
	}
	return &reservation{memory: memory}, nil
}

// claim returns the next piece of the first n bytes that nobody has got yet, nil
// if there is none.
func (r *reservation) claim(n uint64) hostMemory {
	r.mu.Lock()
	defer r.mu.Unlock()
	end := min(r.got+faultBytes, n)
	if end <= r.got {
		return nil
	}
	part := r.memory[r.got:end]
	r.got = end
	return part
}

// fault gets what is missing of the first n bytes by so many workers.
func (r *reservation) fault(ctx context.Context, n uint64, workers int) error {
	return inPieces(ctx, n, workers, r.faultPiece)
}

// inPieces has so many workers get pieces of the first n bytes of memory until there are
// no more.
func inPieces(ctx context.Context, n uint64, workers int, piece func(context.Context, uint64) (more bool, err error)) error {
	group, ctx := errgroup.WithContext(ctx)
	for range max(1, workers) {
		group.Go(func() error {
			for {
				more, err := piece(ctx, n)
				if err != nil || !more {
					return err
				}
			}
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("get %d bytes of memory for the spool: %w", n, err)
	}
	return nil
}

// faultPiece gets the next piece of the first n bytes, false if there is none, when
// nobody minds.
func (r *reservation) faultPiece(ctx context.Context, n uint64) (more bool, err error) {
	r.quiet.RLock()
	defer r.quiet.RUnlock()
	return r.hushedPiece(ctx, n)
}

// hushedPiece is faultPiece for who hushed the others.
func (r *reservation) hushedPiece(ctx context.Context, n uint64) (more bool, err error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	part := r.claim(n)
	if part == nil {
		return false, nil
	}
	return true, part.populate()
}

// begin has the first n bytes got in the background.
func (r *reservation) begin(ctx context.Context, n uint64, workers int) {
	ctx, r.stop = context.WithCancel(ctx)
	r.done = make(chan struct{})
	go func() {
		defer close(r.done)
		defer trace.StartRegion(ctx, "reserve ahead").End()
		r.err = r.fault(ctx, n, workers)
	}()
}

// finish returns when the first n bytes are there.
func (r *reservation) finish(ctx context.Context, n uint64, workers int) error {
	err := r.fault(ctx, n, workers)
	if r.done != nil {
		if err != nil {
			r.stop()
		}
		<-r.done // a piece at most
		r.stop()
		err = errors.Join(err, r.err)
		r.done = nil
	}
	return err
}

// hush keeps what is done in the background from being done until the result is
// called. Of a reservation that is nil there is nothing to keep.
func (r *reservation) hush() (resume func()) {
	if r == nil {
		return func() {}
	}
	r.quiet.Lock()
	return r.quiet.Unlock
}

// lend returns the first n bytes while r is hushed, nil where r is nil or too small.
// What is missing of them is got by the caller.
func (r *reservation) lend(ctx context.Context, n uint64, workers int) (hostMemory, error) {
	if r == nil || n > uint64(len(r.memory)) {
		return nil, nil
	}
	return r.memory[:n], inPieces(ctx, n, workers, r.hushedPiece)
}

// free gives the memory back.
func (r *reservation) free() error {
	if r == nil {
		return nil
	}
	if r.done != nil {
		r.stop()
		<-r.done
	}
	return r.memory.free()
}

// reserveAhead begins to get memory for a copy of the guest's pages, if there is
// going to be one as far as can be told, while the guest is looked at. That it can't be
// had is found out when it is needed.
func (s *Session) reserveAhead(ctx context.Context) {
	switch s.Options.Mode.(type) {
	case nil, Pause, Live:
	default:
		return
	}
	// One processor is left for who looks at the guest.
	workers := s.Options.workers() - 1
	if workers < 1 || !s.Options.reserveAhead || s.state.Still() {
		return
	}
	pages, fit, err := s.copyPages(ctx)
	if err != nil || !fit {
		return
	}
	r, err := newReservation(s.copyRoom(s.Memory, pages))
	if err != nil {
		return
	}
	r.begin(ctx, min(s.layoutTakes(withMargin(pages))<<phys.PageShift, uint64(len(r.memory))), workers)
	s.ahead = r
}

// dropAhead gives back what was got for a copy that there won't be.
func (s *Session) dropAhead() error {
	r := s.ahead
	s.ahead = nil
	return r.free()
}

// copyRoom is how many bytes are reserved for a copy of the guest's pages, of which so
// many are populated now: for every page that it may have by then, as far as it is
// allowed. Only what is expected is taken from the host beforehand.
func (s *Session) copyRoom(mem hv.Memory, pages uint64) uint64 {
	return min(s.layoutRoom(max(mem.RAM().Pages(), pages)), s.Options.MemoryCopy>>phys.PageShift) << phys.PageShift
}

// reserve gets memory for a copy of the guest's pages, of which so many are
// populated now. An error of class errNoCopy says that it has to be done
// without.
func (s *Session) reserve(ctx context.Context, mem hv.Memory, pages uint64) (hostMemory, error) {
	defer trace.StartRegion(ctx, "reserve").End()
	s.Options.tell(Event{Phase: PhaseReserve})
	room := s.copyRoom(mem, pages)
	if s.ahead != nil && uint64(len(s.ahead.memory)) < room {
		if err := s.dropAhead(); err != nil {
			return nil, err
		}
	}
	r := s.ahead
	s.ahead = nil
	if r == nil {
		var err error
		if r, err = newReservation(room); err != nil {
			return nil, fmt.Errorf("%w: %w", errNoCopy, err)
		}
	}
	if err := r.finish(ctx, min(s.layoutTakes(withMargin(pages))<<phys.PageShift, room), s.Options.workers()); err != nil {
		if ctx.Err() != nil {
			return nil, errors.Join(err, r.free())
		}
		return nil, errors.Join(fmt.Errorf("%w: %w", errNoCopy, err), r.free())
	}
	return r.memory, nil
}
