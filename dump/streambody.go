package dump

import (
	"context"
	"errors"
	"fmt"
	"io"

	"snap/header"
)

// streamBody is the dump as somebody else compressed it, in one stream. Where anything
// is in it is not known before everything ahead of that is expanded.
type streamBody struct {
	field  string // of errors: what the stream is
	tool   string // that expands it
	open   func() (io.ReadCloser, error)
	length int64 // as the header says
}

var _ sequentialBody = (*streamBody)(nil)

func (b *streamBody) size() int64 { return b.length }

func (b *streamBody) head() io.ReaderAt { return &streamHead{streamBody: b} }

// setSize takes the length from f's header, without which it can't be known.
func (b *streamBody) setSize(f *File) error {
	if f.headerErr != nil {
		return f.headerErr
	}
	if t := f.header.DumpType; t != header.DumpTypeFull && !t.HasBitmap() {
		return formatError(-1, b.field, "a %v dump can't be read from it; expand it with %s", t, b.tool)
	}
	b.length = int64(f.layout.size())
	return nil
}

// ReadAt fails: see ErrSequential.
func (b *streamBody) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("%s: %w", b.field, ErrSequential)
}

func (b *streamBody) start() (io.ReadCloser, error) {
	z, err := b.open()
	if err != nil {
		return nil, b.failed(err)
	}
	return z, nil
}

func (b *streamBody) failed(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return &FormatError{Off: -1, Field: b.field, Reason: "truncated", Err: io.ErrUnexpectedEOF}
	}
	return &FormatError{Off: -1, Field: b.field, Err: err}
}

// streamHead reads the start of the stream, the header and the bitmap, at any
// offset: what lies ahead is passed over, and going back begins anew.
type streamHead struct {
	*streamBody
	z   io.ReadCloser
	pos int64
}

// ReadAt implements io.ReaderAt for one goroutine at a time.
func (h *streamHead) ReadAt(p []byte, off int64) (int, error) {
	if h.z == nil || off < h.pos {
		if h.z != nil {
			_ = h.z.Close() // nothing was written to it
		}
		var err error
		if h.z, err = h.start(); err != nil {
			h.z = nil
			return 0, err
		}
		h.pos = 0
	}
	skipped, err := io.CopyN(io.Discard, h.z, off-h.pos)
	h.pos += skipped
	if err != nil {
		return 0, h.ended(err)
	}
	n, err := io.ReadFull(h.z, p)
	h.pos += int64(n)
	return n, h.ended(err)
}

// ended tells the end of what is expanded, which is no fault of the container, from
// other errors.
func (h *streamHead) ended(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.EOF
	}
	return h.failed(err)
}

func (b *streamBody) each(ctx context.Context, use func(ctx context.Context, p part) error) error {
	z, err := b.start()
	if err != nil {
		return err
	}
	defer func() { _ = z.Close() }()
	buf := make([]byte, chunk)
	for off := int64(0); off < b.length; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := buf[:min(chunk, b.length-off)]
		if _, err := io.ReadFull(z, p); err != nil {
			return b.failed(err)
		}
		if err := use(ctx, part{off, int64(len(p)), p}); err != nil {
			return err
		}
		off += int64(len(p))
	}
	// The end of the stream is where the last checksum is verified.
	switch n, err := z.Read(buf[:1]); {
	case n > 0:
		return formatError(-1, b.field, "more bytes than the header accounts for")
	case !errors.Is(err, io.EOF):
		return b.failed(err)
	}
	return nil
}
