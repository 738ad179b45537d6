package dump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"

	"snap/header"
)

// gzipContainer is a gzip file of many members.
func gzipContainer() container {
	return container{
		name:    CompressionGzip,
		doc:     "for where there is no zstd: gunzip expands it; without the account of the dump inside",
		suffix:  ".gz",
		encoder: newGzipEncoder,
		decoder: func(Options) (decoder, error) { return new(memberExpander), nil },
		sniff:   func(head []byte) bool { return bytes.HasPrefix(head, gzipMagic) },
		open:    openGzip,
	}
}

// gzipEncoder makes each frame a member of its own (RFC 1952 2.2), which says
// how long it is.
type gzipEncoder struct {
	z   *gzip.Writer
	out bytes.Buffer
}

func newGzipEncoder(o Options) (encoder, error) {
	z, err := gzip.NewWriterLevel(nil, gzipLevel(o.Level))
	if err != nil {
		return nil, fmt.Errorf("set up gzip: %w", err)
	}
	return &gzipEncoder{z: z}, nil
}

func gzipLevel(l Level) int {
	switch l {
	case LevelDefault:
		return 5
	case LevelBetter:
		return 7
	case LevelBest:
		return gzip.BestCompression
	default:
		return gzip.BestSpeed
	}
}

func (e *gzipEncoder) encode(dst, src []byte) ([]byte, error) {
	e.out = *bytes.NewBuffer(dst[:0])
	e.z.Reset(&e.out)
	e.z.Extra = memberField()
	if _, err := e.z.Write(src); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := e.z.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	member := e.out.Bytes()
	sealMember(member)
	return member, nil
}

// openGzip reads a gzip file: with random access where the members say how long
// they are, as ours do, and else as a stream.
func openGzip(r io.ReaderAt, size int64) (*contents, error) {
	table, err := readMembers(r, size)
	if err != nil {
		return nil, err
	}
	if table == nil {
		return &contents{body: &gzipBody{r: r, stored: size}}, nil
	}
	return &contents{
		Container: Container{
			RandomAccess: true, Checksums: true, Frames: table.count, FrameSize: table.largest,
		},
		body: newFramedBody(r, table, new(memberExpander)),
	}, nil
}

// gzipBody is the dump as somebody else's gzip stream. Where anything is in it
// is not known before everything ahead of that is expanded.
type gzipBody struct {
	r      io.ReaderAt
	stored int64
	length int64 // as the header says; gzip's own length field is of 32 bits
}

var _ sequentialBody = (*gzipBody)(nil)

func (b *gzipBody) size() int64 { return b.length }

func (b *gzipBody) head() io.ReaderAt { return &gzipHead{gzipBody: b} }

// setSize takes the length from f's header, without which it can't be known.
func (b *gzipBody) setSize(f *File) error {
	if f.headerErr != nil {
		return f.headerErr
	}
	if t := f.header.DumpType; t != header.DumpTypeFull && !t.HasBitmap() {
		return formatError(-1, "gzip", "a %v dump can't be read from it; expand it with gunzip", t)
	}
	b.length = int64(f.layout.size())
	return nil
}

// ReadAt fails: see ErrSequential.
func (b *gzipBody) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("gzip: %w", ErrSequential)
}

func (b *gzipBody) open() (*gzip.Reader, error) {
	z, err := gzip.NewReader(io.NewSectionReader(b.r, 0, b.stored))
	if err != nil {
		return nil, gzipError(err)
	}
	return z, nil
}

func gzipError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return &FormatError{Off: -1, Field: "gzip", Reason: "truncated", Err: io.ErrUnexpectedEOF}
	}
	return &FormatError{Off: -1, Field: "gzip", Err: err}
}

// gzipHead reads the start of the stream, the header and the bitmap, at any
// offset: what lies ahead is passed over, and going back begins anew.
type gzipHead struct {
	*gzipBody
	z   *gzip.Reader
	pos int64
}

// ReadAt implements io.ReaderAt for one goroutine at a time.
func (h *gzipHead) ReadAt(p []byte, off int64) (int, error) {
	if h.z == nil || off < h.pos {
		if h.z != nil {
			_ = h.z.Close() // nothing was written to it
		}
		var err error
		if h.z, err = h.open(); err != nil {
			h.z = nil
			return 0, err
		}
		h.pos = 0
	}
	skipped, err := io.CopyN(io.Discard, h.z, off-h.pos)
	h.pos += skipped
	if err != nil {
		return 0, gzipEnd(err)
	}
	n, err := io.ReadFull(h.z, p)
	h.pos += int64(n)
	return n, gzipEnd(err)
}

// gzipEnd tells the end of what is expanded, which is no fault of the
// container, from other errors.
func gzipEnd(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return io.EOF
	}
	return gzipError(err)
}

func (b *gzipBody) each(ctx context.Context, use func(ctx context.Context, p part) error) error {
	z, err := b.open()
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
			return gzipError(err)
		}
		if err := use(ctx, part{off, int64(len(p)), p}); err != nil {
			return err
		}
		off += int64(len(p))
	}
	// The end of the stream is where the last checksum is verified.
	switch n, err := z.Read(buf[:1]); {
	case n > 0:
		return formatError(-1, "gzip", "more bytes than the header accounts for")
	case !errors.Is(err, io.EOF):
		return gzipError(err)
	}
	return nil
}
