package dump

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"snap/header"
	"snap/phys"
)

// maxHeader bounds what comes before the pages: the longest bitmap, the header
// ahead of it, and what aligns the first page.
const maxHeader = header.Size64 + header.MaxBitmapBits/8 + phys.PageSize

// Plan is everything that decides the bytes of a dump: the same plan over the
// same memory is the same file, whatever the Options' Workers and Memory.
type Plan struct {
	// Header is everything ahead of the first page, a multiple of
	// phys.PageSize: the encoded header of a type 1 dump, 0x2000 or 0x1000
	// bytes, or that of a type 5 or 6 dump with its bitmap, as
	// header.InitializeBitmapDumpHeader and Header.EncodeBitmap make it.
	Header []byte

	// Runs are the guest pages in file order, as the header lists them:
	// ascending and disjoint, at most header.MaxRuns in a type 1 dump and any
	// number in one with a bitmap. Runs may touch. That the header has exactly
	// these is checked. Pages outside of them are never read from the guest.
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
	header    []byte      // of a Plan
	start     uint64      // file offset of the first page
	pages     *phys.Index // by number, in the order of the file
	overlays  []placed    // ascending by page offset
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
	l := &layout{header: p.Header, start: uint64(len(p.Header)), populated: p.Populated, partial: p.Populated != nil}
	if err := l.setRuns(p.Runs); err != nil {
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
			return nil, fmt.Errorf("%w: two overlays at file offset %#x", ErrPlan, l.overlays[i].off+l.start)
		}
	}
	return l, p.checkHeader(l.pages.Set())
}

// checkHeader holds the header against the runs: readers have only the header
// to find pages by, so one that was made before the guest's memory changed
// would put every page behind the change in the wrong place.
func (p *Plan) checkHeader(pages phys.Runs) error {
	h, err := header.Decode(p.Header)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPlan, err)
	}
	same := false
	switch {
	case h.DumpType == header.DumpTypeFull:
		same = len(p.Header) == h.Width.Size() && slices.Equal(h.Runs, p.Runs)
	case h.DumpType.HasBitmap():
		b, match, err := header.MatchBitmap(bytes.NewReader(p.Header), h.Width, pages)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrPlan, err)
		}
		same = match && b.FirstPage == uint64(len(p.Header))
	default:
		return fmt.Errorf("%w: a %v dump is not made of a guest's pages", ErrPlan, h.DumpType)
	}
	if !same {
		return fmt.Errorf("%w: the header is not of these %d runs", ErrPlan, len(p.Runs))
	}
	return nil
}

// setRuns sets the pages of l. Runs that touch become one: so pages that lie
// side by side are read together, wherever the file's header divides them.
func (l *layout) setRuns(runs []phys.Run) error {
	touching := 0
	for i, r := range runs {
		if !r.Valid() {
			return fmt.Errorf("%w: run %d, %d pages from PFN %#x, is not in the address space", ErrPlan, i, r.Pages, uint64(r.Base))
		}
		if i > 0 && r.Base < runs[i-1].End() {
			return fmt.Errorf("%w: run %d, %v, is not above run %d, %v", ErrPlan, i, r, i-1, runs[i-1])
		}
		if i > 0 && r.Base == runs[i-1].End() {
			touching++
		}
	}
	set := phys.Runs(runs)
	if touching > 0 {
		set, _ = phys.NewRuns(runs...) // all are valid
	}
	l.pages = phys.NewIndex(set)
	return nil
}

// size returns the length of the expanded file.
func (l *layout) size() uint64 { return l.start + l.pages.Pages()*phys.PageSize }

// offset returns where the n bytes at physical address at begin, in bytes
// from the first page, and false unless all of them are in one run.
func (l *layout) offset(at phys.Addr, n uint64) (uint64, bool) {
	want, ok := phys.RunOf(at, n)
	if !ok {
		return 0, false
	}
	number, ok := l.pages.Number(want.Base)
	if !ok || l.pages.Run(number, want.Pages).Pages < want.Pages {
		return 0, false
	}
	return number*phys.PageSize + at.Offset(), true
}
