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

// spool is a copy of a guest's memory of one moment, in memory of the host. It
// is the guest's memory for everything that happens after the guest runs again.
//
// Populated pages lie side by side in the order of their numbers; all other
// pages of RAM read as zero. A page that could not be copied fails to be read
// with the reason of that time, so that it becomes a gap of the dump.
type spool struct {
	mechanism hv.Mechanism
	ram       phys.Runs
	pages     phys.Runs // that were to be copied
	known     bool      // pages are those that were populated, not all of ram
	first     []uint64  // by run of pages: how many pages lie before it
	gaps      []spoolGap

	mu     sync.RWMutex // held for reading by reads, so that Close waits for them
	memory region
	closed bool
}

var _ hv.Memory = (*spool)(nil)

// spoolGap is a range of pages that could not be copied.
type spoolGap struct {
	run phys.Run
	err error // without the address
}

// errSpoolFull says that a region is too small for the pages.
var errSpoolFull = errors.New("the spool is too small")

// newSpool lays the pages of set out in memory, which belongs to the spool from
// then on. Nothing is copied yet.
func newSpool(memory region, mem hv.Memory, set phys.Runs, known bool) (*spool, error) {
	s := &spool{mechanism: mem.Mechanism(), ram: mem.RAM(), pages: set, known: known, memory: memory}
	var pages uint64
	for _, r := range set {
		s.first = append(s.first, pages)
		pages += r.Pages
	}
	if pages > uint64(len(memory))/phys.PageSize {
		return nil, errSpoolFull
	}
	return s, nil
}

// place returns the memory of the pages of r, which lie in run i of s.pages.
func (s *spool) place(i int, r phys.Run) []byte {
	at := (s.first[i] + uint64(r.Base-s.pages[i].Base)) * phys.PageSize
	return s.memory[at : at+r.Size()]
}

// Mechanism implements hv.Memory: it is that of the memory that was copied.
func (s *spool) Mechanism() hv.Mechanism { return s.mechanism }

// RAM implements hv.Memory.
func (s *spool) RAM() phys.Runs { return s.ram }

// Populated implements hv.Memory.
func (s *spool) Populated(context.Context) (phys.Runs, bool, error) {
	return s.pages, s.known, nil
}

// ReadPhys implements phys.Reader.
func (s *spool) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
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
	for i, _ := s.pages.Find(at.PFN()); len(p) > 0; i++ {
		if i == len(s.pages) {
			clear(p)
			return nil
		}
		if start := s.pages[i].Base.Addr(); at < start {
			n := min(uint64(len(p)), uint64(start-at))
			clear(p[:n])
			p, at = p[n:], at+phys.Addr(n)
		}
		if len(p) > 0 {
			n := copy(p, s.place(i, s.pages[i])[at-s.pages[i].Base.Addr():])
			p, at = p[n:], at+phys.Addr(n)
		}
	}
	return nil
}

// page returns the copy of page p, nil if it is none of those that were to be
// copied, and false if it could not be.
func (s *spool) page(p phys.PFN) ([]byte, bool) {
	i, ok := s.pages.Find(p)
	if !ok {
		return nil, true
	}
	if s.gapIn(p.Addr(), phys.PageSize) != nil {
		return nil, false
	}
	return s.place(i, phys.Run{Base: p, Pages: 1}), true
}

// gapIn returns the first gap in the n bytes at address at, or nil.
func (s *spool) gapIn(at phys.Addr, n uint64) *spoolGap {
	i := sort.Search(len(s.gaps), func(i int) bool { return s.gaps[i].run.End().Addr() > at })
	if i < len(s.gaps) && s.gaps[i].run.Base.Addr() < at+phys.Addr(n) {
		return &s.gaps[i]
	}
	return nil
}

// setGaps sorts and keeps the gaps, and joins neighbours of one reason.
func (s *spool) setGaps(gaps []spoolGap) {
	slices.SortFunc(gaps, func(a, b spoolGap) int { return cmp.Compare(a.run.Base, b.run.Base) })
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
func (s *spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.memory.free()
	s.memory, s.closed = nil, true
	return err
}
