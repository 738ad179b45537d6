package dump

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// expander gives back what a container's frames hold. It is safe for
// concurrent use.
type expander interface {
	// expand returns the f.expanded bytes that src, the stored bytes of f,
	// hold, in the memory of dst where it has the room. It has verified all
	// checksums.
	expand(dst, src []byte, f frameRef) ([]byte, error)
}

// framedBody is a dump in independent frames.
type framedBody struct {
	r      io.ReaderAt
	table  *frameTable
	exp    expander
	zeros  zeroFrames
	cache  *frameCache
	stored sync.Pool // *[]byte, for the stored bytes of frames
}

func newFramedBody(r io.ReaderAt, t *frameTable, exp expander) *framedBody {
	b := &framedBody{r: r, table: t, exp: exp}
	b.stored.New = func() any { return new([]byte) }
	b.cache = newFrameCache(t.largest, func(i int) ([]byte, error) { return b.decode(i) })
	return b
}

func (b *framedBody) size() int64 { return b.table.size }

// decode returns the expanded bytes of frame i, nil if they are all zeros.
func (b *framedBody) decode(i int) ([]byte, error) {
	f, err := b.table.frame(i)
	if err != nil {
		return nil, err
	}
	var got []byte
	err = b.expand(nil, stretch{i, []frameRef{f}}, func(p part) error {
		got = p.data
		return nil
	})
	return got, err
}

// expand calls use with what the frames of s hold, in ascending order. dst is memory
// for it.
func (b *framedBody) expand(dst []byte, s stretch, use func(part) error) error {
	n := 0
	for _, f := range s.frames {
		n += int(f.stored)
	}
	stored := b.stored.Get().(*[]byte)
	defer b.stored.Put(stored)
	if cap(*stored) < n {
		*stored = make([]byte, n)
	}
	src := (*stored)[:n]
	if err := readFull(b.r, src, s.frames[0].at); err != nil {
		return fmt.Errorf("read frame %d at file offset %#x: %w", s.first, s.frames[0].at, err)
	}
	empty := part{off: s.frames[0].expandedAt} // what was found to be zeros and is not yet used
	flush := func(next int64) error {
		p := empty
		empty = part{off: next}
		if p.size == 0 {
			return nil
		}
		return use(p)
	}
	for i, f := range s.frames {
		own := src[:f.stored]
		src = src[f.stored:]
		if !b.zeros.has(own, f) {
			p, err := b.exp.expand(dst, own, f)
			if err != nil {
				return &FormatError{Off: f.at, Field: fmt.Sprintf("frame %d", s.first+i), Err: err}
			}
			if !b.zeros.learn(own, p, f) {
				if err := flush(f.expandedAt + int64(f.expanded)); err != nil {
					return err
				}
				if err := use(part{off: f.expandedAt, size: int64(f.expanded), data: p}); err != nil {
					return err
				}
				continue
			}
		}
		empty.size += int64(f.expanded)
	}
	return flush(0)
}

// ReadAt implements io.ReaderAt over the expanded bytes.
func (b *framedBody) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at < 0 || at >= b.table.size {
			return n, io.EOF
		}
		f, i, err := b.table.find(at)
		if err != nil {
			return n, err
		}
		skip := at - f.expandedAt
		own := p[n : n+int(min(int64(len(p)-n), int64(f.expanded)-skip))]
		if err := b.read(own, f, i, skip); err != nil {
			return n, err
		}
		n += len(own)
	}
	return n, nil
}

// read fills p with the bytes of f, the i-th frame, from skip on. A frame of which all
// is wanted is not kept: whoever reads a dump from end to end wants it once.
func (b *framedBody) read(p []byte, f frameRef, i int, skip int64) error {
	if len(p) == int(f.expanded) && !b.cache.has(i) {
		return b.expand(p, stretch{i, []frameRef{f}}, func(q part) error {
			fill(p, q.data)
			return nil
		})
	}
	data, err := b.cache.get(i)
	if data != nil {
		data = data[skip:]
	}
	fill(p, data)
	return err
}

// fill copies data, which may be p itself, to p; zeros if it is nil.
func fill(p, data []byte) {
	switch {
	case data == nil:
		clear(p)
	case &data[0] != &p[0]:
		copy(p, data)
	}
}

func (b *framedBody) each(ctx context.Context, use func(context.Context, part) error) error {
	next := b.table.stretches(b.zeros.may)
	return inParallel(ctx, b.table.count, b.table.largest, next, func(ctx context.Context, buf []byte, s stretch) error {
		return b.expand(buf, s, func(p part) error { return use(ctx, p) })
	})
}

// zeroFrames knows what frames of nothing but zeros look like in a file. Of a large
// guest they are most of all frames, and equal to the byte, since a compressor makes
// the same of the same. So one is expanded, and those whose stored bytes are equal to
// its own need not be: they hold the same. It is safe for concurrent use.
type zeroFrames struct{ form atomic.Pointer[zeroForm] }

// zeroForm is a frame of zeros as it is stored.
type zeroForm struct {
	entry
	bytes []byte
}

// Frames that are stored in more than 1/zeroShare of their length, and more than
// zeroLeast bytes, are not taken for frames of zeros, of which compressors leave less
// (deflate 1/1032).
const (
	zeroShare = 512
	zeroLeast = 64
)

func mayBeZeros(f frameRef) bool { return f.stored <= max(zeroLeast, f.expanded/zeroShare) }

// may reports whether f can be such a frame, by its length and checksum.
func (z *zeroFrames) may(f frameRef) bool {
	form := z.form.Load()
	return form != nil && f.entry == form.entry
}

// has reports whether f, whose stored bytes are src, is such a frame.
func (z *zeroFrames) has(src []byte, f frameRef) bool {
	form := z.form.Load()
	return form != nil && f.entry == form.entry && bytes.Equal(src, form.bytes)
}

// learn looks at what a frame expands to, and reports whether it is zeros.
func (z *zeroFrames) learn(src, p []byte, f frameRef) bool {
	if !mayBeZeros(f) || !isZero(p) {
		return false
	}
	z.form.Store(&zeroForm{f.entry, bytes.Clone(src)})
	return true
}

// isZero reports whether p holds only zeros.
func isZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeroHole))
		if !bytes.Equal(p[:n], zeroHole[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}
