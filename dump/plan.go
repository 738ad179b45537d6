package dump

import (
	"cmp"
	"fmt"
	"slices"
	"sort"

	"snap/guest/phys"
	"snap/header"
)

// maxHeader bounds what comes before the pages. A bitmap header of 512 GiB of
// address space is 16 MiB, the most that LeechCore reads (device_file.c).
const maxHeader = 16<<20 + phys.PageSize

// Plan is everything that decides the bytes of a dump: the same plan over the
// same memory is the same file, whatever the Options' Workers and Memory.
type Plan struct {
	// Header is the encoded header, the first bytes of the expanded file: a
	// multiple of phys.PageSize, 0x2000 or 0x1000 for a type 1 dump.
	Header []byte

	// Runs are the guest pages in file order, as the header lists them:
	// ascending and disjoint. Runs may touch. That the header of a type 1 dump
	// lists exactly these is checked.
	Runs []phys.Run

	// Overlays are bytes that differ from the guest's, in any order.
	Overlays []Overlay

	// Populated, if not nil, is the set of pages that can hold anything but
	// zeros: pages of Runs outside of it are written as zeros and not read.
	Populated phys.Runs
}

// Overlay replaces bytes of the guest's memory in the dump.
type Overlay struct {
	At   phys.Addr // guest-physical
	Data []byte    // at least one byte, all of it within Plan.Runs and outside every other overlay
	What string    // for messages, e.g. "KDBG" or "CONTEXT of processor 2"
}

// layout is a validated Plan: the mapping from the expanded file to pages.
type layout struct {
	header    []byte
	runs      []phys.Run
	first     []uint64 // by run: the index in the file of its first page
	pages     uint64
	overlays  []placed // ascending by page offset
	populated phys.Runs
	partial   bool // populated restricts what is read
}

// placed is an overlay's place behind the header.
type placed struct {
	off  uint64 // bytes from the first page
	data []byte
}

func (o placed) end() uint64 { return o.off + uint64(len(o.data)) }

func (p *Plan) layout() (*layout, error) {
	if n := len(p.Header); n == 0 || n > maxHeader || n%phys.PageSize != 0 {
		return nil, fmt.Errorf("%w: header of %d bytes", ErrPlan, n)
	}
	l := &layout{header: p.Header, populated: p.Populated, partial: p.Populated != nil}
	if err := l.addRuns(p.Runs); err != nil {
		return nil, err
	}
	for _, o := range p.Overlays {
		off, ok := l.offset(o.At, uint64(len(o.Data)))
		if !ok {
			return nil, fmt.Errorf("%w: overlay %q of %d bytes at %#x is outside the dumped pages", ErrPlan, o.What, len(o.Data), uint64(o.At))
		}
		l.overlays = append(l.overlays, placed{off, o.Data})
	}
	slices.SortFunc(l.overlays, func(a, b placed) int { return cmp.Compare(a.off, b.off) })
	for i := 1; i < len(l.overlays); i++ {
		if l.overlays[i].off < l.overlays[i-1].end() {
			return nil, fmt.Errorf("%w: two overlays at file offset %#x", ErrPlan, l.overlays[i].off+uint64(len(p.Header)))
		}
	}
	return l, p.checkHeader()
}

// checkHeader holds the header against the runs: readers have only the header
// to find pages by, so one that was made before the guest's memory changed
// would put every page behind the change in the wrong place.
func (p *Plan) checkHeader() error {
	h, err := header.Decode(p.Header)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPlan, err)
	}
	if h.DumpType == header.DumpTypeFull && (len(p.Header) != h.Width.Size() || !slices.Equal(h.Runs, p.Runs)) {
		return fmt.Errorf("%w: the header is not of these %d runs", ErrPlan, len(p.Runs))
	}
	return nil
}

// addRuns sets the runs of l.
func (l *layout) addRuns(runs []phys.Run) error {
	for i, r := range runs {
		if !r.Valid() {
			return fmt.Errorf("%w: run %d, %d pages from PFN %#x, is not in the address space", ErrPlan, i, r.Pages, uint64(r.Base))
		}
		if i > 0 && r.Base < runs[i-1].End() {
			return fmt.Errorf("%w: run %d, %v, is not above run %d, %v", ErrPlan, i, r, i-1, runs[i-1])
		}
		l.first = append(l.first, l.pages)
		l.pages += r.Pages // can't overflow: disjoint runs of valid pages
	}
	l.runs = runs
	return nil
}

// size returns the length of the expanded file.
func (l *layout) size() uint64 { return uint64(len(l.header)) + l.pages*phys.PageSize }

// at returns the index of the run that holds the file's page i, which must be
// below l.pages.
func (l *layout) at(i uint64) int {
	return sort.Search(len(l.first), func(k int) bool { return l.first[k] > i }) - 1
}

// offset returns where the n bytes at physical address at begin, in bytes
// from the first page, and false unless all of them are in the runs. They are
// consecutive in the file, because runs are ascending.
func (l *layout) offset(at phys.Addr, n uint64) (uint64, bool) {
	want, ok := phys.RunOf(at, n)
	if !ok {
		return 0, false
	}
	k := sort.Search(len(l.runs), func(k int) bool { return l.runs[k].End() > want.Base })
	if k == len(l.runs) || l.runs[k].Base > want.Base {
		return 0, false
	}
	off := (l.first[k]+uint64(want.Base-l.runs[k].Base))*phys.PageSize + at.Offset()
	for end := l.runs[k].End(); end < want.End(); end = l.runs[k].End() {
		if k++; k == len(l.runs) || l.runs[k].Base != end {
			return 0, false
		}
	}
	return off, true
}
