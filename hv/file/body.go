package file

import (
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

	// holes returns who knows where the bytes may hold anything but zeros, nil where
	// that can't be told.
	holes() sparse.Finder

	// Close closes the file.
	Close() error
}

// fileBody is a file as it is.
type fileBody struct{ *input.File }

func (b *fileBody) holes() sparse.Finder { return b.File }

// unfolded is a body made of another, with other bytes. Where they are zero can't
// be told.
type unfolded struct {
	body
	io.ReaderAt
	size int64
}

func (u *unfolded) ReadAt(p []byte, off int64) (int, error) { return u.ReaderAt.ReadAt(p, off) }
func (u *unfolded) Size() int64                             { return u.size }

func (u *unfolded) holes() sparse.Finder { return nil }
