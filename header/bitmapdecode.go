package header

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"snap/phys"
)

// DecodeBitmap reads the bitmap of the dump in r, which begins with a dump
// header of width w. It takes what readers can work with: either signature,
// first pages that are not aligned and bitmaps that end anywhere, as Windows
// writes them. It fails with a *FormatError for a wrong signature, a bitmap
// above MaxBitmapBits or MaxBitmapRuns, a number of pages that is not that of
// the bits set, pages that would lie in the bitmap, and a file that ends in
// it; and with the reader's error where that fails otherwise.
//
// The bitmap is read twice, in pieces: nothing is allocated before its claims
// have been checked.
func DecodeBitmap(r io.ReaderAt, w Width) (*Bitmap, error) {
	b, err := openBitmap(r, w)
	if err != nil {
		return nil, err
	}
	runs, err := b.countRuns(r, func(int, phys.Run) {})
	if err != nil {
		return nil, err
	}
	b.Runs = make(phys.Runs, 0, runs)
	err = b.scan(r, func(run phys.Run) bool {
		b.Runs = append(b.Runs, run)
		return len(b.Runs) <= runs
	})
	if err != nil {
		return nil, err
	}
	if len(b.Runs) != runs || b.Runs.Pages() != b.Pages {
		return nil, bitmapError(w, namePages, b.Pages, "the bitmap changes while it is read")
	}
	return b, nil
}

// MatchBitmap is DecodeBitmap where it is known which pages the bitmap should have: it
// reports whether it has just these, and makes no list of its own.
func MatchBitmap(r io.ReaderAt, w Width, pages phys.Runs) (b *Bitmap, same bool, err error) {
	b, err = openBitmap(r, w)
	if err != nil {
		return nil, false, err
	}
	same = true
	runs, err := b.countRuns(r, func(i int, run phys.Run) {
		same = same && i < len(pages) && pages[i] == run
	})
	if err != nil {
		return nil, false, err
	}
	if same = same && runs == len(pages); same {
		b.Runs = pages
	}
	return b, same, nil
}

// openBitmap reads all but the bits.
func openBitmap(r io.ReaderAt, w Width) (*Bitmap, error) {
	if w.Size() == 0 {
		return nil, &FormatError{"Width", -1, uint64(w), "no such width"}
	}
	img := make([]byte, bitmapHeaderSize)
	if err := readAt(r, w, img, int64(w.Size())); err != nil {
		return nil, err
	}
	b := loadBitmap(w, img)
	if err := b.check(); err != nil {
		return nil, err
	}
	return b, nil
}

// countRuns returns the number of runs of pages, and calls use with each. The pages in
// them must be as many as the header says.
func (b *Bitmap) countRuns(r io.ReaderAt, use func(i int, run phys.Run)) (int, error) {
	var pages uint64
	runs := 0
	err := b.scan(r, func(run phys.Run) bool {
		use(runs, run)
		pages += run.Pages
		runs++
		return runs <= MaxBitmapRuns
	})
	switch {
	case err != nil:
		return 0, err
	case runs > MaxBitmapRuns:
		return 0, bitmapError(b.Width, nameBitmap, uint64(runs), "more than %d runs of pages", MaxBitmapRuns)
	case pages != b.Pages:
		return 0, bitmapError(b.Width, namePages, b.Pages, "the bitmap has %#x pages", pages)
	}
	return runs, nil
}

// loadBitmap reads all fields.
func loadBitmap(w Width, img []byte) *Bitmap {
	b := &Bitmap{Width: w, raw: bytes.Clone(img)}
	for _, r := range bitmapRows {
		if r.cell != nil {
			r.cell(b).load(b.raw[r.at.offset : r.at.offset+r.at.size])
		}
	}
	return b
}

// check holds the fields against each other and the limits.
func (b *Bitmap) check() error {
	w := b.Width
	switch {
	case b.Signature != BitmapSignatureFull && b.Signature != BitmapSignatureKernel:
		return bitmapError(w, nameBitmapSignature, uint64(b.Signature), "neither FDMP nor SDMP")
	case b.ValidDump != BitmapValidDump:
		return bitmapError(w, nameBitmapValidDump, uint64(b.ValidDump), "not DUMP")
	case b.BitmapSize == 0 || b.BitmapSize > MaxBitmapBits:
		return bitmapError(w, nameBitmapSize, b.BitmapSize, "want 1 to %#x bits", uint64(MaxBitmapBits))
	case b.Pages == 0 || b.Pages > b.BitmapSize:
		return bitmapError(w, namePages, b.Pages, "in a bitmap of %#x bits", b.BitmapSize)
	case b.FirstPage < b.bitmapEnd():
		return bitmapError(w, nameFirstPage, b.FirstPage, "the bitmap ends at %#x", b.bitmapEnd())
	case b.FirstPage > maxFirstPage:
		return bitmapError(w, nameFirstPage, b.FirstPage, "far behind the bitmap, which ends at %#x", b.bitmapEnd())
	}
	return nil
}

// bitmapEnd is the file offset of the first byte behind the bitmap.
func (b *Bitmap) bitmapEnd() uint64 {
	return uint64(b.Width.Size()) + bitmapHeaderSize + (b.BitmapSize+7)/8
}

// scanPiece is how much of a bitmap is held at a time, a multiple of 8 bytes.
const scanPiece = 64 << 10

// scan calls use with the pages of r's bitmap in ascending order, as few runs
// as possible, until it returns false.
func (b *Bitmap) scan(r io.ReaderAt, use func(phys.Run) bool) error {
	s := bitScanner{use: use}
	buf := make([]byte, min(scanPiece, (b.BitmapSize+63)/64*8))
	start := int64(b.Width.Size()) + bitmapHeaderSize
	length := (b.BitmapSize + 7) / 8
	for at := uint64(0); at < length; at += uint64(len(buf)) {
		p := buf[:min(uint64(len(buf)), length-at)]
		if err := readAt(r, b.Width, p, start+int64(at)); err != nil {
			return err
		}
		for i := 0; i < len(p); i += 8 {
			word := binary.LittleEndian.Uint64(buf[i:]) // at the end with bytes from before
			if left := b.BitmapSize - s.at; left < 64 {
				word &= 1<<left - 1
			}
			if !s.word(word) {
				return nil
			}
		}
	}
	s.end()
	return nil
}

// bitScanner makes runs of consecutive bits.
type bitScanner struct {
	use   func(phys.Run) bool
	at    uint64 // bits done
	start uint64 // of the run that goes on at at
	open  bool   // whether one does
}

// word takes the next 64 bits, and reports whether to go on.
func (s *bitScanner) word(v uint64) bool {
	base := s.at
	s.at += 64
	for pos := uint64(0); ; {
		rest := v >> pos
		if s.open {
			rest = ^rest
		}
		pos += uint64(bits.TrailingZeros64(rest)) // to where the bits change
		if pos >= 64 {
			return true
		}
		if !s.open {
			s.start, s.open = base+pos, true
			continue
		}
		s.open = false
		if !s.use(phys.Run{Base: phys.PFN(s.start), Pages: base + pos - s.start}) {
			return false
		}
	}
}

func (s *bitScanner) end() {
	if s.open {
		s.use(phys.Run{Base: phys.PFN(s.start), Pages: s.at - s.start})
	}
}

// readAt fills p. That the file ends there is a fault of the dump.
func readAt(r io.ReaderAt, w Width, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return bitmapError(w, nameBitmap, uint64(off)+uint64(n), "the file ends there, in the bitmap or ahead of it")
	}
	return fmt.Errorf("read the bitmap at offset %#x: %w", off, err)
}
