package input

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ErrCompression says that the compression around a file is damaged or cut short.
var ErrCompression = errors.New("damaged compression")

// maxWindow is the most memory that a stream may demand for what it refers back
// to: what the tools demand unless they are told otherwise (zstd --long=27, xz -9
// has half of it).
const maxWindow = 128 << 20

// compression is a way to compress one file as a whole. A new one is a line in
// compressions.
type compression struct {
	name   string
	magic  string
	expand string                               // a command that expands FILE
	holds  func(r io.ReaderAt, size int64) bool // one file; nil for always
	open   func(r io.ReaderAt, size int64) (io.ReadCloser, error)
}

// compressions returns all that Expand takes away.
func compressions() []compression {
	return []compression{
		{"gzip", "\x1f\x8b", "gunzip -k FILE", nil, openGzip},       // RFC 1952, 2.3.1
		{"zstd", "\x28\xb5\x2f\xfd", "zstd -d FILE", nil, openZstd}, // RFC 8878, 3.1.1
		{"xz", "\xfd7zXZ\x00", "unxz -k FILE", nil, openXz},         // The .xz File Format, 2.1.1.1
		{"zip", "PK\x03\x04", "unzip FILE", holdsOne, openZip},      // APPNOTE.TXT 4.3.7
	}
}

// compressionOf returns the compression around a file: what it begins with decides, and
// of an archive that there is one file in it.
func compressionOf(r io.ReaderAt, size int64) (compression, bool, error) {
	magic := make([]byte, 8)
	if n, err := r.ReadAt(magic, 0); n < len(magic) && !errors.Is(err, io.EOF) {
		return compression{}, false, err
	}
	c, ok := beginsWith(magic)
	return c, ok && (c.holds == nil || c.holds(r, size)), nil
}

// beginsWith returns the compression that these bytes are the first of.
func beginsWith(head []byte) (compression, bool) {
	for _, c := range compressions() {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			return c, true
		}
	}
	return compression{}, false
}

func holdsOne(r io.ReaderAt, size int64) bool {
	_, err := OneMember(r, size)
	return err == nil
}

func openZip(r io.ReaderAt, size int64) (io.ReadCloser, error) {
	m, err := OneMember(r, size)
	if err != nil {
		return nil, err
	}
	return m.Open(), nil
}

func openGzip(r io.ReaderAt, size int64) (io.ReadCloser, error) {
	return gzip.NewReader(io.NewSectionReader(r, 0, size))
}

func openZstd(r io.ReaderAt, size int64) (io.ReadCloser, error) {
	z, err := zstd.NewReader(io.NewSectionReader(r, 0, size), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return z.IOReadCloser(), nil
}

func openXz(r io.ReaderAt, size int64) (io.ReadCloser, error) {
	if err := checkXz(r, size); err != nil {
		return nil, err
	}
	z, err := xz.NewReader(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, err
	}
	return io.NopCloser(z), nil
}

// stream is the expanded bytes of a file. Its errors but io.EOF are ErrCompression
// where the file itself could be read.
type stream struct {
	io.ReadCloser
	name string
	at   int64 // of the expanded bytes
}

func (c compression) stream(r io.ReaderAt, size int64) (*stream, error) {
	z, err := c.open(r, size)
	if err != nil {
		return nil, compressionError(c.name, 0, err)
	}
	return &stream{ReadCloser: z, name: c.name}, nil
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	s.at += int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = compressionError(s.name, s.at, err)
	}
	return n, err
}

func compressionError(name string, at int64, err error) error {
	switch {
	case errors.Is(err, ErrShrunk):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("expand %s after %d bytes: it is cut short: %w", name, at, ErrCompression)
	}
	return fmt.Errorf("expand %s after %d bytes: %w: %w", name, at, err, ErrCompression)
}
