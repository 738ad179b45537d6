package dump

import (
	"bytes"
	"io"
)

// holeSize is the length and alignment of the holes that are left. Smaller
// ones would save little and cost an extent each.
const holeSize = 64 << 10

var zeroHole [holeSize]byte

// writeSparse writes p at off, leaving out aligned stretches of zeros, and
// returns how many bytes it left out. The file must read as zeros there, and
// whoever calls it must see to its length.
func writeSparse(w io.WriterAt, p []byte, off int64) (holes uint64, err error) {
	start := 0 // of the bytes that are to be written
	flush := func(end int) error {
		if start == end {
			return nil
		}
		_, err := w.WriteAt(p[start:end], off+int64(start))
		return err
	}
	at := int((holeSize - off%holeSize) % holeSize)
	for ; at+holeSize <= len(p); at += holeSize {
		if !bytes.Equal(p[at:at+holeSize], zeroHole[:]) {
			continue
		}
		if err := flush(at); err != nil {
			return holes, err
		}
		start = at + holeSize
		holes += holeSize
	}
	return holes, flush(len(p))
}
