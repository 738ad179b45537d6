package dump

import (
	"bufio"
	"bytes"
	"io"
	"iter"
)

// HoleWriter is a file that can leave out zeros, such as those of package store.
// Write and Expand leave them out where they are given one.
type HoleWriter interface {
	io.Writer

	// WriteHole is Write of n zero bytes that need not take room.
	WriteHole(n int64) error
}

// ScatterWriter is a file that can be written in any order, such as those of package
// store.
type ScatterWriter interface {
	// Scatter makes the file, which is empty, size bytes of zeros, and returns what
	// writes others over them. That is safe for concurrent use; bytes that are given
	// to a WriteAt which fails must not be written to any more. The error is
	// errors.ErrUnsupported where the file can only be written from its start.
	Scatter(size int64) (io.WriterAt, error)
}

// Borrower is a file that can write memory without a copy of its own, such as those of
// package store. Write and Expand lend theirs where they are given one.
type Borrower interface {
	io.Writer

	// WriteLent is Write of memory that nobody writes to again if it fails: what
	// can't be ended may go on with it.
	WriteLent(p []byte) (int, error)
}

// lender writes to a Borrower.
type lender struct{ Borrower }

func (l lender) Write(p []byte) (int, error) { return l.WriteLent(p) }

// lending returns what writes to w by lending, if w can borrow.
func lending(w io.Writer) io.Writer {
	if b, ok := w.(Borrower); ok {
		return lender{b}
	}
	return w
}

// holeSize is the alignment of the holes that are left, and the length of the
// smallest. Smaller ones would save little and cost an extent each.
const holeSize = 64 << 10

var zeroHole [holeSize]byte

// divided yields p in parts: those that may be holes without bytes, which end at
// multiples of holeSize in the file but for the end of p, and what is between them.
func divided(p part) iter.Seq[part] {
	return func(yield func(part) bool) {
		if p.data == nil {
			if p.size > 0 {
				yield(p)
			}
			return
		}
		var last part // not yet yielded
		for at := int64(0); at < p.size; {
			off := p.off + at
			end := min(p.size, at+holeSize-off%holeSize)
			block := p.data[at:end]
			hole := bytes.Equal(block, zeroHole[:len(block)])
			if last.size > 0 && hole != (last.data == nil) {
				if !yield(last) {
					return
				}
				last = part{}
			}
			if last.size == 0 {
				last.off = off
			}
			last.size += end - at
			if !hole {
				last.data = p.data[last.off-p.off : end]
			}
			at = end
		}
		if last.size > 0 {
			yield(last)
		}
	}
}

// outlet is what bytes of a file go to in order. Flush ends it.
type outlet interface {
	io.Writer
	// part writes p, and returns how many bytes of it were left out.
	part(p part) (holes int64, err error)
	Flush() error
}

// newOutlet returns the outlet to w. If the bytes may have holes, and w can leave
// out zeros, they become holes.
func newOutlet(w io.Writer, holes bool) outlet {
	if h, ok := w.(HoleWriter); ok && holes {
		return &holeOutlet{w: lending(w), h: h}
	}
	return gatherOutlet{bufio.NewWriterSize(lending(w), outletBuffer)}
}

// gatherOutlet gathers small pieces; larger ones pass through it.
type gatherOutlet struct{ *bufio.Writer }

const outletBuffer = 256 << 10

func (o gatherOutlet) part(p part) (int64, error) {
	if p.data != nil {
		_, err := o.Write(p.data)
		return 0, err
	}
	for left := p.size; left > 0; left -= holeSize {
		if _, err := o.Write(zeroHole[:min(left, holeSize)]); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// holeOutlet leaves out blocks of zeros.
type holeOutlet struct {
	w   io.Writer
	h   HoleWriter // the same
	off int64
}

func (o *holeOutlet) part(p part) (holes int64, err error) {
	p.off = o.off
	for q := range divided(p) {
		if q.data == nil {
			err = o.h.WriteHole(q.size)
			holes += q.size
		} else {
			var n int
			if n, err = o.w.Write(q.data); err == nil && n < len(q.data) {
				err = io.ErrShortWrite
			}
		}
		if err != nil {
			return holes, err
		}
		o.off += q.size
	}
	return holes, nil
}

func (o *holeOutlet) Write(p []byte) (int, error) {
	start := o.off
	_, err := o.part(part{size: int64(len(p)), data: p})
	return int(o.off - start), err
}

// Flush implements outlet: nothing is held back.
func (o *holeOutlet) Flush() error { return nil }
