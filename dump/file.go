package dump

import (
	"context"
	"errors"
	"io"
	"os"

	"snap/guest/phys"
)

// Container describes how a dump is stored.
type Container struct {
	Compression Compression
	FileSize    int64 // bytes of the file as it is stored
	Frames      int   // zstd: independent frames that hold data
	FrameSize   int   // zstd: expanded bytes of the largest frame
	Checksums   bool  // zstd: the seek table has a checksum for each frame
}

// File is a dump that can be read as if it were the plain file. It trusts
// nothing in it. All methods but Close are safe for concurrent use.
type File struct{}

var _ phys.Reader = (*File)(nil)

// Open opens the dump at path: plain, in the zstd seekable format, or gzip.
// Whatever else it is, errors.Is(err, ErrFormat).
func Open(path string) (*File, error) {
	return nil, errors.ErrUnsupported
}

// NewFile reads the dump of size bytes in r, which it does not close.
func NewFile(r io.ReaderAt, size int64) (*File, error) {
	return nil, errors.ErrUnsupported
}

// Close releases the file.
func (f *File) Close() error { return errors.ErrUnsupported }

// Container says how the dump is stored.
func (f *File) Container() Container { return Container{} }

// Size returns the length of the expanded dump in bytes.
func (f *File) Size() int64 { return 0 }

// Metadata returns the JSON document that the writer stored, nil if there is none.
func (f *File) Metadata() []byte { return nil }

// ReadAt implements io.ReaderAt over the expanded dump.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return 0, errors.ErrUnsupported }

// RAM returns the pages in the dump. It is empty for dumps that are not of type 1.
func (f *File) RAM() phys.Runs { return nil }

// ReadPhys implements phys.Reader over the pages in the dump.
func (f *File) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	return errors.ErrUnsupported
}

// CheckFrames reads the whole file and verifies every checksum.
func (f *File) CheckFrames(ctx context.Context, progress *Progress) error {
	return errors.ErrUnsupported
}

// ExpandStats says what Expand wrote.
type ExpandStats struct {
	Bytes uint64 // length of the expanded dump
	Holes uint64 // of those, bytes left as holes
}

// Expand writes the plain dump to out, which must be an empty regular file.
// Stretches of zeros become holes, and every checksum is verified on the way.
// It does not sync or close out. progress may be nil.
func Expand(ctx context.Context, f *File, out *os.File, progress *Progress) (*ExpandStats, error) {
	return nil, errors.ErrUnsupported
}
