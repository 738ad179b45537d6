package header

import (
	"errors"
	"fmt"

	"snap/phys"
)

// InitializeBitmapDumpHeader makes the header of a dump of DumpTypeBitmapFull
// of the guest that facts describes, holding pages: everything that comes
// before the first page, which is where the result ends, at a multiple of the
// page size. It is for guests whose pages have more runs than a header of
// DumpTypeFull has room for, and the only limit is MaxBitmapRuns.
//
// The header's fields are those that InitializeCrashDumpHeader sets, but for
// the physical memory, whose area is zero; facts.Runs is not used. pages must
// hold the System process's top-level page table. Runs of pages may touch.
//
// For a failure that is about a fact errors.As finds the *FactError, for one
// about pages the *FormatError.
func InitializeBitmapDumpHeader(facts *Facts, pages phys.Runs) ([]byte, error) {
	const doing = "initialize bitmap dump header: %w"
	if facts == nil {
		return nil, fmt.Errorf(doing, errors.New("no facts about the guest"))
	}
	w, err := facts.width()
	if err != nil {
		return nil, fmt.Errorf(doing, err)
	}
	_, img, err := facts.makeBitmap(w, pages)
	if err != nil {
		return nil, fmt.Errorf(doing, err)
	}
	return img, nil
}

// EncodeBitmap returns the header's bytes and, behind them, the bitmap of
// pages: all that comes before the first page, which is where the result ends,
// at a multiple of the page size. The header must be of a type that HasBitmap;
// the bitmap's signature follows from it. RequiredDumpSpace is set in the
// result to what header and pages take. pages are ascending and disjoint, and
// may touch. It fails with a *FormatError as Encode does, or if pages are not
// in order or beyond MaxBitmapBits or MaxBitmapRuns.
func (h *Header) EncodeBitmap(pages phys.Runs) ([]byte, error) {
	if !h.DumpType.HasBitmap() {
		return nil, formatError(h.Width, "DumpType", uint64(h.DumpType), "a dump of this type has no bitmap")
	}
	b, err := newBitmap(h.Width, pages)
	if err != nil {
		return nil, err
	}
	b.Signature = BitmapSignatureFull
	if h.DumpType == DumpTypeBitmapKernel {
		b.Signature = BitmapSignatureKernel
	}
	whole := *h
	whole.RequiredDumpSpace = b.FirstPage + b.Pages*phys.PageSize
	head, err := whole.Encode()
	if err != nil {
		return nil, err
	}
	img := make([]byte, b.FirstPage)
	copy(img, head)
	behind := img[len(head):]
	for _, r := range bitmapRows {
		if r.cell != nil {
			_, _ = r.cell(b).store(behind[r.at.offset : r.at.offset+r.at.size]) // each is as wide as its field
		}
	}
	bitmap := behind[bitmapHeaderSize:]
	for _, r := range pages {
		setBits(bitmap, uint64(r.Base), uint64(r.End()))
	}
	return img, nil
}

// newBitmap sets what follows from the pages.
func newBitmap(w Width, pages phys.Runs) (*Bitmap, error) {
	if w.Size() == 0 {
		return nil, &FormatError{"Width", -1, uint64(w), "no such width"}
	}
	b := &Bitmap{Width: w, ValidDump: BitmapValidDump}
	var end phys.PFN
	runs := 0
	for i, r := range pages {
		if reason := runFault(w, r, end); reason != "" {
			return nil, bitmapError(w, nameBitmap, uint64(r.Base), "run %d of its pages: %s", i, reason)
		}
		if i == 0 || r.Base > end {
			runs++
		}
		end = r.End()
		b.Pages += r.Pages
	}
	switch {
	case runs == 0:
		return nil, bitmapError(w, namePages, 0, "a dump has at least one page")
	case runs > MaxBitmapRuns:
		return nil, bitmapError(w, nameBitmap, uint64(runs), "more than %d runs of pages", MaxBitmapRuns)
	case uint64(end) > MaxBitmapBits:
		return nil, bitmapError(w, nameBitmapSize, uint64(end), "the most is %#x bits", uint64(MaxBitmapBits))
	}
	// Readers drop what is behind the last whole byte (kdmp-parser) or the last
	// 64 bits (LeechCore).
	b.BitmapSize = (uint64(end) + 63) &^ 63
	b.FirstPage = (b.bitmapEnd() + phys.PageSize - 1) &^ (phys.PageSize - 1)
	return b, nil
}

// setBits sets the bits [from, to) of p, lowest bit first.
func setBits(p []byte, from, to uint64) {
	first, last := from/8, to/8
	head, tail := byte(0xFF)<<(from%8), byte(1)<<(to%8)-1
	if first == last {
		p[first] |= head & tail
		return
	}
	p[first] |= head
	for i := first + 1; i < last; i++ {
		p[i] = 0xFF
	}
	if tail != 0 {
		p[last] |= tail
	}
}
