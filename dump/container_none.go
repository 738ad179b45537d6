package dump

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"snap/header"
	"snap/internal/sparse"
)

// noContainer is the plain dump.
func noContainer() container {
	return container{
		name:    CompressionNone,
		doc:     "the plain dump that debuggers open; holes where the file system can have them",
		plain:   true,
		encoder: func(Options) (encoder, error) { return plainEncoder{}, nil },
		sniff:   func(head []byte) bool { return binary.LittleEndian.Uint32(head) == header.Signature },
		open: func(r io.ReaderAt, size int64) (*contents, error) {
			return &contents{Container: Container{RandomAccess: true}, body: plainBody{r, size}}, nil
		},
	}
}

type plainEncoder struct{}

func (plainEncoder) encode(_, src []byte) ([]byte, error) { return src, nil }

// plainBody is the dump itself.
type plainBody struct {
	io.ReaderAt
	length int64
}

func (b plainBody) size() int64 { return b.length }

// piece is some of a plain dump.
type piece struct {
	off, size int64
	hole      bool
}

// pieces returns a function that gives all of the file in order: its holes, which need
// not be read, and what is between them, a chunk at a time. It returns false when there
// is no more.
func (b plainBody) pieces() func() (piece, bool, error) {
	finder, holes := b.ReaderAt.(sparse.Finder)
	at, lo, hi := int64(0), int64(0), int64(0) // data is at [lo, hi)
	if !holes {
		hi = b.length
	}
	return func() (p piece, more bool, err error) {
		if at == hi && hi < b.length {
			if lo, hi, err = finder.NextData(at, b.length); err != nil {
				return piece{}, false, err
			}
		}
		switch {
		case at < lo:
			p = piece{at, lo - at, true}
		case at < hi:
			p = piece{at, min(chunk, hi-at), false}
		default:
			return piece{}, false, nil
		}
		at += p.size
		return p, true, nil
	}
}

func (b plainBody) each(ctx context.Context, use func(ctx context.Context, p part) error) error {
	n := (b.length + chunk - 1) / chunk
	return inParallel(ctx, int(n), chunk, b.pieces(), func(ctx context.Context, buf []byte, p piece) error {
		if p.hole {
			return use(ctx, part{off: p.off, size: p.size})
		}
		data := buf[:p.size]
		if err := readFull(b, data, p.off); err != nil {
			return fmt.Errorf("read dump at offset %#x: %w", p.off, err)
		}
		return use(ctx, part{p.off, p.size, data})
	})
}
