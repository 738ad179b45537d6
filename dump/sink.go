package dump

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// sink puts the stored frames out in order. After its first error it is not
// used again.
type sink struct {
	n       uint64 // bytes put out
	buf     *bufio.Writer
	holes   *sparseFile // instead of buf, where zeros can be left out
	hash    hash.Hash   // of what was put out, or nil
	indexed bool
	index   []entry
}

// sinkBuffer gathers small frames; larger ones pass through it.
const sinkBuffer = 256 << 10

func newSink(w io.Writer, o Options) (*sink, error) {
	s := &sink{indexed: o.Compression == CompressionZstd}
	if !o.SkipHash {
		s.hash = sha256.New()
	}
	if f, ok := w.(*os.File); ok && o.Compression == CompressionNone {
		var err error
		if s.holes, err = newSparseFile(f); err != nil {
			return nil, err
		}
	}
	if s.holes == nil {
		s.buf = bufio.NewWriterSize(w, sinkBuffer)
	}
	return s, nil
}

func (s *sink) write(p []byte) error {
	var err error
	if s.holes != nil {
		err = s.holes.write(p)
	} else {
		_, err = s.buf.Write(p)
	}
	if err != nil {
		return fmt.Errorf("write dump at offset %#x: %w", s.n, err)
	}
	if s.hash != nil {
		s.hash.Write(p)
	}
	s.n += uint64(len(p))
	return nil
}

func (s *sink) frame(f *frame) error {
	if err := s.write(f.stored); err != nil {
		return err
	}
	if s.indexed {
		s.index = append(s.index, entry{uint32(len(f.stored)), uint32(len(f.in)), zstdChecksum(f.stored)})
	}
	return nil
}

// metadata writes a document into a frame that decoders skip.
func (s *sink) metadata(doc []byte) error {
	if len(doc) > MaxMetadata {
		return fmt.Errorf("metadata of %d bytes: the most is %d", len(doc), MaxMetadata)
	}
	b := appendSkippable(nil, metadataMagic, metadataTag, doc)
	if err := s.write(b); err != nil {
		return err
	}
	s.index = append(s.index, entry{stored: uint32(len(b)), sum: emptySum})
	return nil
}

// close writes the seek table and flushes.
func (s *sink) close() error {
	if s.indexed {
		if err := s.write(encodeSeekTable(s.index)); err != nil {
			return err
		}
	}
	var err error
	if s.holes != nil {
		err = s.holes.close()
	} else {
		err = s.buf.Flush()
	}
	if err != nil {
		return fmt.Errorf("write dump at offset %#x: %w", s.n, err)
	}
	return nil
}

func (s *sink) sum() string {
	if s.hash == nil {
		return ""
	}
	return hex.EncodeToString(s.hash.Sum(nil))
}

// sparseFile is a regular file in which zeros become holes.
type sparseFile struct {
	f   *os.File
	off int64
}

// newSparseFile returns nil where leaving bytes out would not leave zeros: in
// anything but a regular file that ends where it is about to be written, and
// in one opened for appending.
func newSparseFile(f *os.File) (*sparseFile, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at the destination: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return nil, nil
	}
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("look at the destination: %w", err)
	}
	off, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, fmt.Errorf("look at the destination: %w", err)
	}
	if flags&unix.O_APPEND != 0 || fi.Size() > off {
		return nil, nil
	}
	return &sparseFile{f, off}, nil
}

func (s *sparseFile) write(p []byte) error {
	_, err := writeSparse(s.f, p, s.off)
	s.off += int64(len(p))
	return err
}

// close gives the file its length, which a hole at its end doesn't.
func (s *sparseFile) close() error {
	if err := s.f.Truncate(s.off); err != nil {
		return err
	}
	_, err := s.f.Seek(s.off, io.SeekStart)
	return err
}
