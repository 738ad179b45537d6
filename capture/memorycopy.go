package capture

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"sort"
	"sync"

	"snap/hv"
	"snap/phys"
)

// memoryCopy is a copy of a guest's memory of one moment, in memory of the host. It
// is the guest's memory for everything that happens after the guest runs again.
//
// Populated pages lie as its layout says; all other
// pages of RAM read as zero. A page that could not be copied fails to be read
// with the reason of that time, so that it becomes a gap of the dump.
type memoryCopy struct {
	mechanism hv.Mechanism
	ram       phys.Runs
	index     *phys.Index // of the pages that were to be copied
	known     bool        // those are what was populated, not all of ram
	gaps      []copyGap

	mu     sync.RWMutex // held for reading by reads, so that Close waits for them
	layout copyLayout
	closed bool
}

var _ hv.Memory = (*memoryCopy)(nil)

// copyGap is a range of pages that could not be copied.
type copyGap struct {
	run phys.Run
	err error // without the address
}

// errCopyFull says that the memory is too small for the pages.
var errCopyFull = errors.New("the spool is too small")

// newMemoryCopy lays the pages of set out side by side in memory, which belongs to the
// copy from then on. Nothing is copied yet.
func newMemoryCopy(memory hostMemory, mem hv.Memory, set phys.Runs, known bool) (*memoryCopy, error) {
	if set.Pages() > uint64(len(memory))/phys.PageSize {
		return nil, errCopyFull
	}
	return newMemoryCopyIn(flatLayout(memory), mem, set, known), nil
}

// newMemoryCopyIn is newMemoryCopy by any layout.
func newMemoryCopyIn(l copyLayout, mem hv.Memory, set phys.Runs, known bool) *memoryCopy {
	return &memoryCopy{mechanism: mem.Mechanism(), ram: mem.RAM(), index: phys.NewIndex(set), known: known, layout: l}
}

// Mechanism implements hv.Memory: it is that of the memory that was copied.
func (s *memoryCopy) Mechanism() hv.Mechanism { return s.mechanism }

// RAM implements hv.Memory.
func (s *memoryCopy) RAM() phys.Runs { return s.ram }

// Populated implements hv.Memory.
func (s *memoryCopy) Populated(ctx context.Context) (phys.Runs, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, false, os.ErrClosed
	}
	return s.index.Set(), s.known, ctx.Err()
}

// ReadPhys implements phys.Reader.
func (s *memoryCopy) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	fail := func(err error) error { return &phys.AccessError{At: at, Len: len(p), Err: err} }
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	if s.closed {
		return fail(os.ErrClosed)
	}
	if !s.ram.Covers(at, uint64(len(p))) {
		return fail(phys.ErrNotRAM)
	}
	if len(p) == 0 {
		return nil
	}
	if g := s.gapIn(at, uint64(len(p))); g != nil {
		first := max(at, g.run.Base.Addr())
		return &phys.AccessError{At: first, Len: len(p) - int(first-at), Err: g.err}
	}
	pages := s.index.Set()
	for i, _ := pages.Find(at.PFN()); len(p) > 0; i++ {
		if i == len(pages) {
			clear(p)
			return nil
		}
		if start := pages[i].Base.Addr(); at < start {
			n := min(uint64(len(p)), uint64(start-at))
			clear(p[:n])
			p, at = p[n:], at+phys.Addr(n)
		}
		if len(p) > 0 {
			n := min(uint64(len(p)), uint64(pages[i].End().Addr()-at))
			s.layout.read(p[:n], s.index.NumberOfRun(i)<<phys.PageShift+uint64(at-pages[i].Base.Addr()))
			p, at = p[n:], at+phys.Addr(n)
		}
	}
	return nil
}

// page returns the copy of page p, nil if it is none of those that were to be
// copied, and false if it could not be.
func (s *memoryCopy) page(p phys.PFN) ([]byte, bool) {
	n, ok := s.index.Number(p)
	if !ok {
		return nil, true
	}
	if s.gapIn(p.Addr(), phys.PageSize) != nil {
		return nil, false
	}
	return s.layout.page(n), true
}

// gapIn returns the first gap in the n bytes at address at, or nil.
func (s *memoryCopy) gapIn(at phys.Addr, n uint64) *copyGap {
	i := sort.Search(len(s.gaps), func(i int) bool { return s.gaps[i].run.End().Addr() > at })
	if i < len(s.gaps) && s.gaps[i].run.Base.Addr() < at+phys.Addr(n) {
		return &s.gaps[i]
	}
	return nil
}

// setGaps sorts and keeps the gaps, and joins neighbours of one reason.
func (s *memoryCopy) setGaps(gaps []copyGap) {
	slices.SortFunc(gaps, func(a, b copyGap) int { return cmp.Compare(a.run.Base, b.run.Base) })
	s.gaps = nil
	for _, g := range gaps {
		if n := len(s.gaps); n > 0 && s.gaps[n-1].run.End() == g.run.Base && s.gaps[n-1].err.Error() == g.err.Error() {
			s.gaps[n-1].run.Pages += g.run.Pages
			continue
		}
		s.gaps = append(s.gaps, g)
	}
}

// Close implements hv.Memory: the memory goes back to the host.
func (s *memoryCopy) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.layout.free()
}
