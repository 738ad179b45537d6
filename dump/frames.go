package dump

import (
	"context"
	"fmt"
	"io"
	"sort"
	"sync"
)

// Bounds on what an index of frames may say.
const (
	maxFrames        = 1 << 25
	maxExpandedFrame = MaxFrameSize
	maxExpanded      = 1 << 53 // twice the guest-physical address space
)

// frameTable says where the frames of a file are. It has been checked against
// the file's length.
type frameTable struct {
	frames  []frameRef // those that hold data
	size    int64      // expanded
	largest int        // expanded bytes of the largest frame
}

type frameRef struct {
	at         int64 // file offset
	expandedAt int64
	entry
}

// find returns the frame that holds expanded offset off, which must be below size.
func (t *frameTable) find(off int64) int {
	return sort.Search(len(t.frames), func(i int) bool { return t.frames[i].expandedAt > off }) - 1
}

// add appends a frame with data that lies ahead of file offset end.
func (t *frameTable) add(f frameRef, end int64) error {
	what := fmt.Sprintf("frame %d", len(t.frames))
	switch {
	case len(t.frames) >= maxFrames:
		return formatError(f.at, what, "more than %d frames", maxFrames)
	case f.stored == 0 || int64(f.stored) > end-f.at:
		return formatError(f.at, what, "%d bytes of the file; the frames end at %#x", f.stored, end)
	case f.expanded == 0 || f.expanded > maxExpandedFrame:
		return formatError(f.at, what, "%d bytes expanded; the most is %d", f.expanded, maxExpandedFrame)
	case int(f.stored) > storedBound(int(f.expanded)):
		return formatError(f.at, what, "%d bytes for %d expanded ones", f.stored, f.expanded)
	case t.size+int64(f.expanded) > maxExpanded:
		return formatError(f.at, what, "expanded size beyond any guest's memory")
	}
	f.expandedAt = t.size
	t.frames = append(t.frames, f)
	t.size += int64(f.expanded)
	t.largest = max(t.largest, int(f.expanded))
	return nil
}

// expander gives back what a container's frames hold. It is safe for
// concurrent use.
type expander interface {
	// expand returns the f.expanded bytes that src, the stored bytes of f,
	// hold, in the memory of dst where it needs any and has the room. It has
	// verified all checksums. The result may be shared and must not be written
	// to.
	expand(dst, src []byte, f frameRef) ([]byte, error)
}

// framedBody is a dump in independent frames.
type framedBody struct {
	r      io.ReaderAt
	table  *frameTable
	exp    expander
	cache  *frameCache
	stored sync.Pool // *[]byte, for the stored bytes of a frame
}

func newFramedBody(r io.ReaderAt, t *frameTable, exp expander) *framedBody {
	b := &framedBody{r: r, table: t, exp: exp}
	b.stored.New = func() any { return new([]byte) }
	b.cache = newFrameCache(t.largest, b.decode)
	return b
}

func (b *framedBody) size() int64 { return b.table.size }

// decode returns the expanded bytes of frame i, in dst if it has the room. The
// result may be shared and must not be written to.
func (b *framedBody) decode(dst []byte, i int) ([]byte, error) {
	f := b.table.frames[i]
	stored := b.stored.Get().(*[]byte)
	defer b.stored.Put(stored)
	if n := int(f.stored); cap(*stored) < n {
		*stored = make([]byte, n)
	}
	src := (*stored)[:f.stored]
	if err := readFull(b.r, src, f.at); err != nil {
		return nil, fmt.Errorf("read frame %d at file offset %#x: %w", i, f.at, err)
	}
	p, err := b.exp.expand(dst, src, f)
	if err != nil {
		return nil, &FormatError{Off: f.at, Field: fmt.Sprintf("frame %d", i), Err: err}
	}
	return p, nil
}

// ReadAt implements io.ReaderAt over the expanded bytes.
func (b *framedBody) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at < 0 || at >= b.table.size {
			return n, io.EOF
		}
		i := b.table.find(at)
		frame, err := b.cache.get(i)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], frame[at-b.table.frames[i].expandedAt:])
	}
	return n, nil
}

func (b *framedBody) each(ctx context.Context, use func(ctx context.Context, p []byte, off int64) error) error {
	return inParallel(ctx, len(b.table.frames), b.table.largest, func(ctx context.Context, buf []byte) func(int) error {
		return func(i int) error {
			p, err := b.decode(buf, i)
			if err != nil {
				return err
			}
			return use(ctx, p, b.table.frames[i].expandedAt)
		}
	})
}
