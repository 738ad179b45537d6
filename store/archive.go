package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrNoArchive says that files that went to a place can't be found there again.
var ErrNoArchive = errors.New("what went there can't be looked for")

// ErrKept says that a place doesn't let a file go yet: it is under retention.
var ErrKept = errors.New("the place keeps it")

// Archive is where files lie: they can be listed, read and removed. It is safe for
// concurrent use, and its calls end with their contexts.
type Archive interface {
	// Path returns how people and scripts call the file of that name there: an
	// absolute path, a URL.
	Path(name string) string

	// List calls each with what is there, in ascending order of names, and nothing
	// of what lies below: folders of a folder, names with a further "/" behind a
	// prefix. What isn't finished, and what isn't a regular file, is left out.
	// It ends with the first error of each.
	List(ctx context.Context, each func(Entry) error) error

	// Open opens a file to read it. The error is fs.ErrNotExist if there is none. ctx
	// is that of its reads, too.
	Open(ctx context.Context, name string) (Reader, error)

	// Remove removes a file for good. The error is fs.ErrNotExist if there is none,
	// ErrKept if the place keeps it.
	Remove(ctx context.Context, name string) error
}

// Entry is a file in an Archive.
type Entry struct {
	Name     string
	Size     int64     // bytes
	Modified time.Time // when it got its name, about
}

// Reader is a file that is there. It is safe for concurrent use but for Close.
type Reader interface {
	// ReadAt fills all of p, or fails.
	io.ReaderAt
	io.Closer

	// Size is the length in bytes at the time of opening.
	Size() int64
}

// OpenArchive returns the archive that a destination names, which is a folder or
// a prefix, and no file in it.
func OpenArchive(ctx context.Context, dest string, o Options) (Archive, error) {
	k := kindOf(dest, kinds())
	if k.archive == nil {
		return nil, fmt.Errorf("look into %s: %w", dest, ErrNoArchive)
	}
	return k.archive(ctx, dest, o)
}
