package dump

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"snap/header"
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

func (b plainBody) each(ctx context.Context, use func(ctx context.Context, p []byte, off int64) error) error {
	n := (b.length + chunk - 1) / chunk
	return inParallel(ctx, int(n), chunk, func(ctx context.Context, buf []byte) func(int) error {
		return func(i int) error {
			off := int64(i) * chunk
			p := buf[:min(chunk, b.length-off)]
			if err := readFull(b, p, off); err != nil {
				return fmt.Errorf("read dump at offset %#x: %w", off, err)
			}
			return use(ctx, p, off)
		}
	})
}
