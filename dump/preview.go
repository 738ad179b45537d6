package dump

import (
	"context"
	"io"

	"snap/phys"
)

// previewFrame is how much of a dump that isn't written is read at a time: few pages,
// as whoever looks into it follows pointers.
const previewFrame = 4 * phys.PageSize

// Preview returns the dump that Write makes of p over mem, to be read as if it had been
// written and opened: the header, the overlays, zeros where a page can't be read. A page
// is read from mem when somebody asks for it. So it says what the file will hold only
// as long as mem doesn't change. ctx ends its reads.
func Preview(ctx context.Context, mem phys.Reader, p *Plan) (*File, error) {
	l, err := p.layout()
	if err != nil {
		return nil, err
	}
	b := &previewBody{gatherer: gatherer{layout: l, mem: mem, frameSize: previewFrame}, ctx: ctx}
	b.cache = newFrameCache(previewFrame, func(i int) ([]byte, error) { return b.gather(ctx, uint64(i)) })
	f := &File{
		container: Container{Compression: CompressionNone, FileSize: b.size(), RandomAccess: true},
		stored:    b, body: b, layout: layout{pages: phys.NewIndex(nil)},
	}
	return f, f.readHeader()
}

// previewBody is a dump of which nothing is written.
type previewBody struct {
	gatherer
	ctx   context.Context // of ReadAt, which has none
	cache *frameCache
}

func (b *previewBody) size() int64 { return int64(b.layout.size()) }

// gather returns the bytes of frame i, nil if they are all zeros.
func (b *previewBody) gather(ctx context.Context, i uint64) ([]byte, error) {
	f := newFrame(b.frameSize)
	if err := b.fill(ctx, f, i); err != nil || f.zero {
		return nil, err
	}
	return f.in, nil
}

// frameAt returns the frame that holds offset off, and where it begins and ends.
func (b *previewBody) frameAt(off int64) (i uint64, begin, end int64) {
	size, start := int64(b.frameSize), int64(b.start)
	if off < start {
		begin = off / size * size
		return uint64(off / size), begin, min(begin+size, start)
	}
	n := (off - start) / size
	begin = start + n*size
	return b.headerFrames() + uint64(n), begin, min(begin+size, b.size())
}

// ReadAt implements io.ReaderAt.
func (b *previewBody) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		if err := b.ctx.Err(); err != nil {
			return n, context.Cause(b.ctx)
		}
		at := off + int64(n)
		if at < 0 || at >= b.size() {
			return n, io.EOF
		}
		i, begin, end := b.frameAt(at)
		data, err := b.cache.get(int(i))
		if err != nil {
			return n, err
		}
		if data != nil {
			data = data[at-begin:]
		}
		own := p[n : n+int(min(int64(len(p)-n), end-at))]
		fill(own, data)
		n += len(own)
	}
	return n, nil
}

func (b *previewBody) each(ctx context.Context, use func(ctx context.Context, p part) error) error {
	for off := int64(0); off < b.size(); {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		i, _, end := b.frameAt(off)
		data, err := b.gather(ctx, i)
		if err != nil {
			return err
		}
		if err := use(ctx, part{off, end - off, data}); err != nil {
			return err
		}
		off = end
	}
	return nil
}
