// Package file makes files that hold a guest readable: ELF cores and
// kdump-compressed cores that `virsh dump --memory-only` wrote, LiME and AVML
// images, and raw images with a RAM map. Each format is one file, and a line in one
// list. All are read at any offset, and take memory for an index at most.
package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"

	"snap/hv"
	"snap/input"
	"snap/internal/sparse"
	"snap/phys"
)

// Segment says where a range of guest-physical memory lies in a file.
type Segment struct {
	GPA        phys.Addr // page-aligned
	Size       uint64    // bytes, a multiple of the page size
	FileOffset int64     // bytes
}

// maxSegments bounds the ranges of one file. ELF cores of guests with much
// hot-plugged memory have some hundred.
const maxSegments = 1 << 20

// source is an open file with a map of the guest's memory in it. Whatever opened
// it and each of its memories hold the file; the last one closes it.
type source struct {
	body      body
	mechanism hv.Mechanism
	segs      []Segment // ascending, without overlaps
	ram       phys.Runs
	regs      []phys.Registers
	notes     []string
	published []byte
	lost      uint64 // pages that the guest had and the file hasn't

	mu     sync.Mutex
	users  int
	closed bool // by Close of the source itself
}

var (
	_ hv.Noted     = (*source)(nil)
	_ hv.Published = (*source)(nil)
)

// Notes implements hv.Noted.
func (s *source) Notes() []string { return slices.Clone(s.notes) }

// Published implements hv.Published.
func (s *source) Published() []byte { return slices.Clone(s.published) }

// newSource takes b over, unless the segments, which lie in it, make no sense.
func newSource(b body, mechanism hv.Mechanism, segs []Segment, regs []phys.Registers) (*source, error) {
	s := &source{body: b, mechanism: mechanism, segs: slices.Clone(segs), regs: regs, users: 1}
	if err := s.index(); err != nil {
		return nil, err
	}
	return s, nil
}

// index checks the segments against each other and against the body's length.
func (s *source) index() error {
	if len(s.segs) == 0 || len(s.segs) > maxSegments {
		return fmt.Errorf("%d ranges of memory; want 1 to %d: %w", len(s.segs), maxSegments, hv.ErrFormat)
	}
	slices.SortFunc(s.segs, func(a, b Segment) int { return cmp.Compare(a.GPA, b.GPA) })
	runs := make([]phys.Run, 0, len(s.segs))
	var end phys.Addr
	for _, g := range s.segs {
		if err := g.check(s.body.Size()); err != nil {
			return err
		}
		if g.GPA < end {
			return fmt.Errorf("memory at %#x+%#x overlaps what ends at %#x: %w", uint64(g.GPA), g.Size, uint64(end), hv.ErrFormat)
		}
		end = g.GPA + phys.Addr(g.Size)
		runs = append(runs, phys.Run{Base: g.GPA.PFN(), Pages: g.Size >> phys.PageShift})
	}
	var err error
	s.ram, err = phys.NewRuns(runs...)
	return err
}

// check holds one segment against a file of size bytes.
func (g Segment) check(size int64) error {
	r, ok := phys.RunOf(g.GPA, g.Size)
	if !ok || !g.GPA.Aligned() || r.Size() != g.Size {
		return fmt.Errorf("memory at %#x+%#x is not made of whole pages in the address space: %w", uint64(g.GPA), g.Size, hv.ErrFormat)
	}
	if g.FileOffset < 0 || g.FileOffset > size || g.Size > uint64(size-g.FileOffset) {
		return fmt.Errorf("memory at %#x+%#x would be at %#x+%#x of the file, which ends at %#x: %w; it is cut short",
			uint64(g.GPA), g.Size, g.FileOffset, g.Size, size, hv.ErrFormat)
	}
	return nil
}

// Identity implements hv.Source.
func (s *source) Identity() hv.Identity { return hv.Identity{Name: filepath.Base(s.body.Name())} }

// Registers implements hv.Source.
func (s *source) Registers(context.Context) ([]phys.Registers, error) {
	return slices.Clone(s.regs), nil
}

// OpenMemory implements hv.Source. Files know only hv.MechanismAuto.
func (s *source) OpenMemory(_ context.Context, m hv.Mechanism) (hv.Memory, error) {
	if m != hv.MechanismAuto && m != "" {
		return nil, fmt.Errorf("read %s by mechanism %q: %w: it is a file", s.body.Name(), m, hv.ErrUnsupported)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("read %s: %w", s.body.Name(), os.ErrClosed)
	}
	s.users++
	return &memory{source: s}, nil
}

// Close implements hv.Source. Memories that were opened stay readable.
func (s *source) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	return s.release()
}

func (s *source) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users > 0 {
		return nil
	}
	return s.body.Close()
}

// memory is the memory in a file. It is safe for concurrent use.
type memory struct {
	*source
	lock   sync.RWMutex // held for reading by reads, so that Close waits for them
	closed bool
}

var _ hv.PartialMemory = (*memory)(nil)

// Lost implements hv.PartialMemory.
func (m *memory) Lost() uint64 { return m.lost }

// Mechanism implements hv.Memory.
func (m *memory) Mechanism() hv.Mechanism { return m.mechanism }

// RAM implements hv.Memory.
func (m *memory) RAM() phys.Runs { return m.ram }

// maxRead is how much one system call reads, so that a context's end is noticed.
const maxRead = 4 << 20

// ReadPhys implements phys.Reader.
func (m *memory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	m.lock.RLock()
	defer m.lock.RUnlock()
	if m.closed {
		return &phys.AccessError{At: at, Len: len(p), Err: os.ErrClosed}
	}
	if !m.ram.Covers(at, uint64(len(p))) {
		return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
	}
	for len(p) > 0 {
		if err := ctx.Err(); err != nil {
			return &phys.AccessError{At: at, Len: len(p), Err: err}
		}
		g := m.find(at)
		off := uint64(at - g.GPA)
		n := int(min(uint64(len(p)), g.Size-off, maxRead))
		got, err := m.body.ReadAt(p[:n], g.FileOffset+int64(off))
		switch {
		case got == n:
		case errors.Is(err, input.ErrShrunk):
			// The whole file is in doubt, and not only this page.
			return fmt.Errorf("guest-physical %#x: %w", uint64(at)+uint64(got), err)
		default:
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return &phys.AccessError{At: at + phys.Addr(got), Len: n - got, Err: err}
		}
		p, at = p[n:], at+phys.Addr(n)
	}
	return nil
}

// find returns the segment that holds at, which is in the RAM map.
func (s *source) find(at phys.Addr) Segment {
	i := sort.Search(len(s.segs), func(i int) bool { return s.segs[i].GPA+phys.Addr(s.segs[i].Size) > at })
	return s.segs[i]
}

// maxPopulated bounds the runs of a populated set. It is as many as there can be of
// single pages in 1/100 of 1 TiB.
const maxPopulated = 1 << 22

// Populated implements hv.Memory: a hole in the file is memory full of zeros. The
// smallest holes count as populated where there are more than maxPopulated.
func (m *memory) Populated(ctx context.Context) (phys.Runs, bool, error) {
	m.lock.RLock()
	defer m.lock.RUnlock()
	if m.closed {
		return nil, false, os.ErrClosed
	}
	holes := m.body.holes()
	if holes == nil {
		return m.ram, false, nil
	}
	set := phys.RunBuilder{Most: maxPopulated}
	for _, g := range m.segs {
		err := sparse.Each(ctx, holes, g.FileOffset, g.FileOffset+int64(g.Size), func(lo, hi int64) {
			// It lies in the segment, which is made of whole pages in the address space.
			r, _ := phys.RunOf(g.GPA+phys.Addr(lo-g.FileOffset), uint64(hi-lo))
			set.Add(r)
		})
		if err != nil {
			return nil, false, err
		}
	}
	return set.Runs(), true, nil
}

// Close implements hv.Memory.
func (m *memory) Close() error {
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	return m.release()
}
