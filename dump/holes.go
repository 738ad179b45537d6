package dump

import (
	"bufio"
	"bytes"
	"io"
)

// HoleWriter is a file that can leave out zeros, such as those of package store.
// Write and Expand leave them out where they are given one.
type HoleWriter interface {
	io.Writer

	// WriteHole is Write of n zero bytes that need not take room.
	WriteHole(n int64) error
}

// holeSize is the alignment of the holes that are left, and the length of the
// smallest. Smaller ones would save little and cost an extent each.
const holeSize = 64 << 10

var zeroHole [holeSize]byte

// outlet is what bytes of a file go to in order. Flush ends it.
type outlet interface {
	io.Writer
	Flush() error
}

// outletBuffer gathers small pieces; larger ones pass through it.
const outletBuffer = 256 << 10

// newOutlet returns the outlet to w. If the bytes may have holes, and w can leave
// out zeros, they become holes: then it is a *holeOutlet.
func newOutlet(w io.Writer, holes bool) outlet {
	if h, ok := w.(HoleWriter); ok && holes {
		return &holeOutlet{w: h}
	}
	return bufio.NewWriterSize(w, outletBuffer)
}

// holeOutlet leaves out blocks of zeros, which end at multiples of holeSize.
type holeOutlet struct {
	w   HoleWriter
	off int64
	n   uint64 // bytes that were left out
}

func (o *holeOutlet) Write(p []byte) (int, error) {
	start := 0 // of the bytes that are to be written
	flush := func(end int) error {
		if start == end {
			return nil
		}
		_, err := o.w.Write(p[start:end])
		return err
	}
	for at := 0; at < len(p); {
		end := min(len(p), at+holeSize-int((o.off+int64(at))%holeSize))
		if bytes.Equal(p[at:end], zeroHole[:end-at]) {
			if err := flush(at); err != nil {
				return start, err
			}
			if err := o.w.WriteHole(int64(end - at)); err != nil {
				return at, err
			}
			start = end
			o.n += uint64(end - at)
		}
		at = end
	}
	if err := flush(len(p)); err != nil {
		return start, err
	}
	o.off += int64(len(p))
	return len(p), nil
}

// Flush implements outlet: nothing is held back.
func (o *holeOutlet) Flush() error { return nil }
