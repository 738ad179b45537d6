package dump

import (
	"context"
	"io"
	"slices"
	"strings"
)

// container is one way to store a dump: what its frames look like in a file,
// what comes behind them, and how all of it is read back. A new one is one file
// with a function that returns one of these, and a line in containers.
type container struct {
	name   Compression
	doc    string // for help
	suffix string // of a file's name, behind ".dmp"

	// plain: the stored bytes are those of the dump, so that zeros may become
	// holes.
	plain bool

	// encoder returns an encoder for resolved options.
	encoder func(o Options) (encoder, error)

	// decoder returns a decoder of what encoders make with resolved options; nil
	// where the stored bytes are those of the dump.
	decoder func(o Options) (decoder, error)

	// zeros returns the stored form of n zero bytes, if that is better than what
	// the encoder makes of them; else nil.
	zeros func(n int) []byte

	// sum returns the checksum of a frame's expanded bytes that the tail is told; nil
	// where it wants none.
	sum func(p []byte) uint32

	// tail returns what will stand around the frames of a dump of so many expanded
	// bytes, of which the header has so many; nil where nothing does.
	tail func(o Options, size, header uint64) tail

	// sniff reports whether a file that begins with head, of at least 8 bytes,
	// is one.
	sniff func(head []byte) bool

	// open reads a file of size bytes, which it trusts in nothing.
	open func(r io.ReaderAt, size int64) (*contents, error)
}

// containers returns all containers, the default first. This list is all that
// the rest of the package knows of them.
func containers() []container {
	return []container{
		zstdContainer(),
		gzipContainer(),
		zipContainer(),
		noContainer(),
	}
}

// encoder turns one frame into its stored form. Each worker has its own.
type encoder interface {
	// encode returns the stored form of src, in the memory of dst where it
	// needs any and has the room.
	encode(dst, src []byte) ([]byte, error)
}

// decoder turns the stored form of one frame back, to prove what the encoder made.
// Each worker has its own.
type decoder interface {
	// decode returns what src holds, n bytes if it is right, in the memory of dst,
	// which has room for n+decodeSlack. It verifies the checksums that are in src.
	decode(dst, src []byte, n int) ([]byte, error)
}

// decodeSlack is room behind the bytes of a frame: with it zstd need not look at
// each copy whether it would write behind the end.
const decodeSlack = 64

// storedBound is the most bytes that a frame of n bytes takes when stored: the
// compressors fall back to raw blocks of at least 16 KiB with a few bytes of
// header each (RFC 8878 3.1.1.2, RFC 1951 3.2.4).
func storedBound(n int) int { return n + n/128 + 1024 }

// tail is what stands behind the frames, and ahead of them. It is told of each frame in
// order.
type tail interface {
	// begin returns what begins the file.
	begin() []byte

	// frame takes account of a frame that was put out. sum is container.sum of it.
	frame(stored []byte, expanded int, sum uint32)

	// end writes what ends the file.
	end(write func([]byte) error) error
}

// metadataTail is a tail that has room for a document.
type metadataTail interface {
	tail

	// metadata returns the bytes that hold a document, which follow the last
	// frame.
	metadata(doc []byte) []byte
}

// MaxMetadata is the largest metadata that is written or read.
const MaxMetadata = 16 << 20

// contents is a file as its container shows it.
type contents struct {
	Container // all but FileSize and Compression

	body     body
	metadata []byte // nil if there is none
	close    func() // nil if there is nothing to release
}

// body is a container's way to the expanded bytes.
type body interface {
	io.ReaderAt
	size() int64
	// each calls use with every part of the expanded dump, from several
	// goroutines. Parts are begun in ascending order, but may be used in any; the
	// bytes are only valid during the call, and the context is of all of them. It
	// verifies whatever checksums there are before it calls use, and returns the
	// first error.
	each(ctx context.Context, use func(ctx context.Context, p part) error) error
}

// sequentialBody is a body without random access: what is in it, and how long it
// is, is known from the header at its start.
type sequentialBody interface {
	body

	// head reads the start of the expanded bytes, the header and the bitmap, for
	// one goroutine at a time.
	head() io.ReaderAt

	// setSize gives the body the length that the header, which was read, tells.
	setSize(f *File) error
}

// find returns the container of that name; the empty name is the default's.
func find(name Compression, all []container) (container, bool) {
	if name == "" {
		return all[0], true
	}
	i := slices.IndexFunc(all, func(c container) bool { return c.name == name })
	if i < 0 {
		return container{}, false
	}
	return all[i], true
}

// sniff returns the container of a file that begins with head, of at least 8
// bytes.
func sniff(head []byte, all []container) (container, bool) {
	for _, c := range all {
		if c.sniff(head) {
			return c, true
		}
	}
	return container{}, false
}

// compressing returns the names of the containers that are more than the dump
// itself, for messages.
func compressing(all []container) string {
	var names []string
	for _, c := range all {
		if !c.plain {
			names = append(names, string(c.name))
		}
	}
	return alternatives(names)
}

// alternatives joins words for a sentence: "a, b or c".
func alternatives[T ~string](words []T) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}
