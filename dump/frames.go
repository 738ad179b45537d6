package dump

import (
	"fmt"
	"sort"
	"sync/atomic"
)

// Bounds on what an index of frames may say.
const (
	maxFrames        = 1 << 25
	maxExpandedFrame = MaxFrameSize
	maxExpanded      = 1 << 53 // twice the guest-physical address space
)

// Of every tableStep-th frame a table remembers where it is, and tableBlocks
// blocks of so many are kept as they were read last.
const (
	tableStep   = 256
	tableBlocks = 16
)

// frameTable says where the frames of a file are. It holds but a few of them: the
// others are read again from the file when they are wanted, so that a table takes
// next to no memory however long it is. All of it has been checked against the
// file's length. It is safe for concurrent use.
type frameTable struct {
	walk    frameWalk
	end     int64 // file offset behind the last frame
	marks   []mark
	count   int   // frames that hold data
	size    int64 // expanded
	largest int   // expanded bytes of the largest frame

	blocks [tableBlocks]atomic.Pointer[frameBlock]
}

// frameWalk reads a container's frames from a place on, in order: it calls use with
// each that holds data, and where it stands, until use returns false or fails, or
// there are no more. What it passes over lies in the file before its end. The refs
// lack expandedAt.
type frameWalk func(from place, use func(at place, f frameRef) (more bool, err error)) error

// place is where a frame stands; the zero value is the first.
type place struct {
	at    int64 // file offset
	entry int64 // of an index in the file
}

type frameRef struct {
	at         int64 // file offset
	expandedAt int64
	entry
}

// mark is where a block begins.
type mark struct {
	place
	expandedAt int64
}

// frameBlock is tableStep frames in a row, fewer at the end.
type frameBlock struct {
	number int
	frames []frameRef
}

// newFrameTable walks all frames of a file, which end before file offset end.
func newFrameTable(end int64, walk frameWalk) (*frameTable, error) {
	t := &frameTable{walk: walk, end: end}
	err := walk(place{}, func(at place, f frameRef) (bool, error) {
		if err := t.check(f, t.count, t.size); err != nil {
			return false, err
		}
		if t.count%tableStep == 0 {
			t.marks = append(t.marks, mark{at, t.size})
		}
		t.count++
		t.size += int64(f.expanded)
		t.largest = max(t.largest, int(f.expanded))
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// check holds a frame, the i-th, against the bounds.
func (t *frameTable) check(f frameRef, i int, expandedAt int64) error {
	bad := func(format string, args ...any) error {
		return formatError(f.at, fmt.Sprintf("frame %d", i), format, args...)
	}
	switch {
	case i >= maxFrames:
		return bad("more than %d frames", maxFrames)
	case f.stored == 0 || int64(f.stored) > t.end-f.at:
		return bad("%d bytes of the file; the frames end at %#x", f.stored, t.end)
	case f.expanded == 0 || f.expanded > maxExpandedFrame:
		return bad("%d bytes expanded; the most is %d", f.expanded, maxExpandedFrame)
	case int(f.stored) > storedBound(int(f.expanded)):
		return bad("%d bytes for %d expanded ones", f.stored, f.expanded)
	case expandedAt+int64(f.expanded) > maxExpanded:
		return bad("expanded size beyond any guest's memory")
	}
	return nil
}

// block returns a block of frames, which must not be written to. It fails if the
// file has become another one since it was opened.
func (t *frameTable) block(n int) (*frameBlock, error) {
	slot := &t.blocks[n%tableBlocks]
	if b := slot.Load(); b != nil && b.number == n {
		return b, nil
	}
	first, end := t.marks[n], mark{place{at: t.end}, t.size}
	want := t.count - n*tableStep
	if n+1 < len(t.marks) {
		end, want = t.marks[n+1], tableStep
	}
	b := &frameBlock{number: n, frames: make([]frameRef, 0, want)}
	expandedAt, storedEnd := first.expandedAt, first.at
	err := t.walk(first.place, func(_ place, f frameRef) (bool, error) {
		if err := t.check(f, n*tableStep+len(b.frames), expandedAt); err != nil {
			return false, err
		}
		f.expandedAt = expandedAt
		b.frames = append(b.frames, f)
		expandedAt += int64(f.expanded)
		storedEnd = f.at + int64(f.stored)
		return len(b.frames) < want, nil
	})
	if err != nil {
		return nil, err
	}
	if len(b.frames) != want || expandedAt != end.expandedAt || storedEnd > end.at {
		return nil, formatError(first.at, "frames", "they are not those that were there when the file was opened")
	}
	slot.Store(b)
	return b, nil
}

// frame returns frame i.
func (t *frameTable) frame(i int) (frameRef, error) {
	b, err := t.block(i / tableStep)
	if err != nil {
		return frameRef{}, err
	}
	return b.frames[i%tableStep], nil
}

// find returns the frame that holds expanded offset off, which must be below size,
// and its number.
func (t *frameTable) find(off int64) (frameRef, int, error) {
	n := sort.Search(len(t.marks), func(i int) bool { return t.marks[i].expandedAt > off }) - 1
	b, err := t.block(n)
	if err != nil {
		return frameRef{}, 0, err
	}
	i := sort.Search(len(b.frames), func(i int) bool { return b.frames[i].expandedAt > off }) - 1
	return b.frames[i], n*tableStep + i, nil
}

// stretch is some frames, at least one, that follow each other in the file.
type stretch struct {
	first  int // number of the first
	frames []frameRef
}

// stretches returns a function that gives all frames in order, for one goroutine at a
// time: those in a row that are alike together, others one by one. It returns false
// when there are no more.
func (t *frameTable) stretches(alike func(f frameRef) bool) func() (stretch, bool, error) {
	next := 0
	return func() (stretch, bool, error) {
		if next == t.count {
			return stretch{}, false, nil
		}
		b, err := t.block(next / tableStep)
		if err != nil {
			return stretch{}, false, err
		}
		frames := b.frames[next%tableStep:]
		n := 1
		for alike(frames[0]) && n < len(frames) && alike(frames[n]) && frames[n].at == frames[n-1].at+int64(frames[n-1].stored) {
			n++
		}
		s := stretch{next, frames[:n]}
		next += n
		return s, true, nil
	}
}
