package dump

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"snap/header"
)

// chunk is how much is read at a time where the container has no frames.
const chunk = 1 << 20

var gzipMagic = []byte{0x1f, 0x8b} // RFC 1952 2.3.1

// readMemory bounds the buffers that reading a whole file takes.
const readMemory = DefaultMemory

// inParallel calls work with 0..n-1, from a goroutine per processor as far as
// readMemory allows when each has a buffer of size bytes.
func inParallel(ctx context.Context, n, size int, start func(buf []byte) (work func(i int) error)) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), n, max(1, readMemory/size)) {
		g.Go(func() error {
			work := start(make([]byte, size))
			for {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return nil
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := work(int(i)); err != nil {
					return err
				}
			}
		})
	}
	return g.Wait()
}

// plainBody is the dump itself.
type plainBody struct {
	io.ReaderAt
	length int64
}

func (b plainBody) size() int64 { return b.length }

func (b plainBody) each(ctx context.Context, use func(p []byte, off int64) error) error {
	n := (b.length + chunk - 1) / chunk
	return inParallel(ctx, int(n), chunk, func(buf []byte) func(int) error {
		return func(i int) error {
			off := int64(i) * chunk
			p := buf[:min(chunk, b.length-off)]
			if err := readFull(b, p, off); err != nil {
				return fmt.Errorf("read dump at offset %#x: %w", off, err)
			}
			return use(p, off)
		}
	})
}

// gzipBody is the dump in gzip members. Where a member begins is not known
// before everything ahead of it is expanded.
type gzipBody struct {
	r      io.ReaderAt
	stored int64
	length int64 // as the header says; gzip's own length field is of 32 bits
}

func (b *gzipBody) size() int64 { return b.length }

// setSize takes the length from f's header, without which it can't be known.
func (b *gzipBody) setSize(f *File) error {
	if f.headerErr != nil {
		return f.headerErr
	}
	if t := f.header.DumpType; t != header.DumpTypeFull && !t.HasBitmap() {
		return formatError(-1, "gzip", "a %v dump can't be read from it; expand it with gunzip", t)
	}
	b.length = int64(f.pages.size())
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

// readStart reads from the start of the dump; the offset must be 0.
func (b *gzipBody) readStart(p []byte, _ int64) (int, error) {
	z, err := b.open()
	if err != nil {
		return 0, err
	}
	defer func() { _ = z.Close() }()
	n, err := io.ReadFull(z, p)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return n, io.EOF
	}
	if err != nil {
		return n, gzipError(err)
	}
	return n, nil
}

func (b *gzipBody) each(ctx context.Context, use func(p []byte, off int64) error) error {
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
		if err := use(p, off); err != nil {
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
