package dump

import (
	"bytes"
	"io"
)

// holeSize is the alignment of the holes that are left, and the length of the
// smallest. Smaller ones would save little and cost an extent each.
const holeSize = 64 << 10

var zeroHole [holeSize]byte

// writeSparse writes p at off, leaving out blocks of zeros, and returns how
// many bytes it left out. Blocks end at multiples of holeSize in the file. The
// file must read as zeros there, and whoever calls it must see to its length.
func writeSparse(w io.WriterAt, p []byte, off int64) (holes uint64, err error) {
	start := 0 // of the bytes that are to be written
	flush := func(end int) error {
		if start == end {
			return nil
		}
		_, err := w.WriteAt(p[start:end], off+int64(start))
		return err
	}
	for at := 0; at < len(p); {
		end := min(len(p), at+holeSize-int((off+int64(at))%holeSize))
		if bytes.Equal(p[at:end], zeroHole[:end-at]) {
			if err := flush(at); err != nil {
				return holes, err
			}
			start = end
			holes += uint64(end - at)
		}
		at = end
	}
	return holes, flush(len(p))
}
