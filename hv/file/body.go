package file

import (
	"context"
	"io"

	"snap/input"
	"snap/internal/sparse"
)

// body is bytes that can be read at any offset, and that hold a guest in some
// format: a file, or what another body becomes when it is unfolded. ReadAt is safe
// for concurrent use.
type body interface {
	io.ReaderAt
	Size() int64
	Name() string // of the file

	// data returns the parts of the bytes from off on that may hold anything but
	// zeros, ascending; known is false where that can't be told.
	data(ctx context.Context, off, size int64) (parts []sparse.Extent, known bool, err error)

	// Close closes the file.
	Close() error
}

// fileBody is a file as it is.
type fileBody struct{ *input.File }

func (b *fileBody) data(ctx context.Context, off, size int64) ([]sparse.Extent, bool, error) {
	parts, err := sparse.Data(ctx, b.File, off, size)
	return parts, err == nil, err
}

// unfolded is a body made of another, with other bytes. Where they are zero can't
// be told.
type unfolded struct {
	body
	io.ReaderAt
	size int64
}

func (u *unfolded) ReadAt(p []byte, off int64) (int, error) { return u.ReaderAt.ReadAt(p, off) }
func (u *unfolded) Size() int64                             { return u.size }

func (u *unfolded) data(context.Context, int64, int64) ([]sparse.Extent, bool, error) {
	return nil, false, nil
}
