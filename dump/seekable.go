package dump

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
)

// seekableExpander expands the frames of the zstd seekable format.
type seekableExpander struct {
	dec       *zstd.Decoder
	checksums bool // frames have one in the table

	// Frames that the writer makes of zeros alone need no decoding. They have
	// the length of most frames, and are made when the first is met.
	zeroLen    int
	zeroStored int
	zero       func() zeroFrame
}

// zeroFrame is a frame of nothing but zeros, in both forms.
type zeroFrame struct{ stored, expanded []byte }

// openSeekable sets f's body.
func (f *File) openSeekable(r io.ReaderAt, size int64) error {
	table, err := readSeekTable(r, size)
	if err != nil {
		return err
	}
	dec, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(runtime.GOMAXPROCS(0)),
		zstd.WithDecoderMaxMemory(maxExpandedFrame),
		zstd.WithDecodeAllCapLimit(true),
	)
	if err != nil {
		return fmt.Errorf("set up zstd: %w", err)
	}
	n := table.largest
	f.body = newFramedBody(r, &table.frameTable, &seekableExpander{
		dec: dec, checksums: table.checksums, zeroLen: n, zeroStored: zstdZerosLen(n),
		zero: sync.OnceValue(func() zeroFrame { return zeroFrame{zstdZeros(n), make([]byte, n)} }),
	})
	f.container = Container{
		Compression: CompressionZstd, FileSize: size, RandomAccess: true,
		Frames: len(table.frames), FrameSize: table.largest, Checksums: table.checksums,
	}
	f.closers = append(f.closers, closeFunc(dec.Close))
	f.metadata, err = table.readMetadata(r)
	return err
}

type closeFunc func()

func (c closeFunc) Close() error { c(); return nil }

func (e *seekableExpander) expand(dst, src []byte, f frameRef) ([]byte, error) {
	if int(f.expanded) == e.zeroLen && int(f.stored) == e.zeroStored {
		if z := e.zero(); bytes.Equal(src, z.stored) && (!e.checksums || f.sum == zstdChecksum(src)) {
			return z.expanded, nil
		}
	}
	if cap(dst) < int(f.expanded) {
		dst = make([]byte, 0, f.expanded)
	}
	p, err := e.dec.DecodeAll(src, dst[:0:f.expanded])
	if err != nil {
		return nil, err
	}
	if len(p) != int(f.expanded) {
		return nil, fmt.Errorf("expands to %d bytes; the seek table says %d", len(p), f.expanded)
	}
	if sum := uint32(xxhash.Sum64(p)); e.checksums && sum != f.sum {
		return nil, fmt.Errorf("checksum %#08x; the seek table says %#08x", sum, f.sum)
	}
	return p, nil
}

// seekTable is a seek table that has been checked against the file's length.
type seekTable struct {
	frameTable
	checksums bool
	end       frameRef // the last frame before the table if it holds no data
}

// readSeekTable reads the table at the end of a file of size bytes.
func readSeekTable(r io.ReaderAt, size int64) (*seekTable, error) {
	if size < skippableHeader+seekFooter {
		return nil, formatError(-1, "seek table", "only %d bytes", size)
	}
	var foot [seekFooter]byte
	if err := readFull(r, foot[:], size-seekFooter); err != nil {
		return nil, fmt.Errorf("read seek table: %w", err)
	}
	if binary.LittleEndian.Uint32(foot[5:]) != seekableMagic {
		return nil, formatError(size-4, "seek table", "missing: the file is truncated or not in the seekable format")
	}
	if foot[4]&seekReserved != 0 {
		return nil, formatError(size-5, "seek table", "descriptor %#x has reserved bits", foot[4])
	}
	t := &seekTable{checksums: foot[4]&seekChecksums != 0}
	entrySize := int64(seekEntry)
	if t.checksums {
		entrySize = seekEntrySum
	}
	n := int64(binary.LittleEndian.Uint32(foot[:]))
	length := n*entrySize + seekFooter
	start := size - skippableHeader - length
	if n > maxFrames || start < 0 {
		return nil, formatError(size-seekFooter, "seek table", "%d frames in a file of %d bytes", n, size)
	}
	var head [skippableHeader]byte
	if err := readFull(r, head[:], start); err != nil {
		return nil, fmt.Errorf("read seek table: %w", err)
	}
	if m := binary.LittleEndian.Uint32(head[:]); m != seekTableMagic {
		return nil, formatError(start, "seek table", "begins with %#x, want %#x", m, seekTableMagic)
	}
	if got := int64(binary.LittleEndian.Uint32(head[4:])); got != length {
		return nil, formatError(start+4, "seek table", "length %d, want %d", got, length)
	}
	table := io.NewSectionReader(r, start+skippableHeader, n*entrySize)
	if err := t.readEntries(table, n, entrySize, start); err != nil {
		return nil, err
	}
	return t, nil
}

// readEntries reads n entries, which must account for all bytes of the file
// before end. It allocates as it reads, so that a claim alone costs nothing.
func (t *seekTable) readEntries(r *io.SectionReader, n, entrySize, end int64) error {
	buf := make([]byte, min(n, 4096)*entrySize)
	var at int64
	for done := int64(0); done < n; {
		part := buf[:min(n-done, 4096)*entrySize]
		if _, err := io.ReadFull(r, part); err != nil {
			return fmt.Errorf("read seek table: %w", err)
		}
		for ; len(part) > 0; part = part[entrySize:] {
			f := frameRef{at: at}
			f.stored = binary.LittleEndian.Uint32(part)
			f.expanded = binary.LittleEndian.Uint32(part[4:])
			if t.checksums {
				f.sum = binary.LittleEndian.Uint32(part[8:])
			}
			if err := t.add(f, end); err != nil {
				return err
			}
			at += int64(f.stored)
			done++
		}
	}
	if at != end {
		return formatError(end, "seek table", "its frames end at %#x, not where it begins", at)
	}
	if len(t.frames) == 0 {
		return formatError(end, "seek table", "no frame with data")
	}
	return nil
}

// add appends f, which lies ahead of file offset end. A frame without data is
// passed over, but for the last.
func (t *seekTable) add(f frameRef, end int64) error {
	if f.expanded != 0 {
		t.end = frameRef{}
		return t.frameTable.add(f, end)
	}
	if f.stored == 0 || int64(f.stored) > end-f.at {
		return formatError(f.at, "skippable frame", "%d bytes of the file; the frames end at %#x", f.stored, end)
	}
	t.end = f
	return nil
}

// readMetadata returns the document in the last frame before the table, nil if
// that is something else.
func (t *seekTable) readMetadata(r io.ReaderAt) ([]byte, error) {
	n := int(t.end.stored)
	lead := skippableHeader + len(metadataTag)
	if n < lead {
		return nil, nil
	}
	head := make([]byte, lead)
	if err := readFull(r, head, t.end.at); err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	if binary.LittleEndian.Uint32(head) != metadataMagic || !bytes.Equal(head[skippableHeader:], metadataTag) {
		return nil, nil
	}
	if got := binary.LittleEndian.Uint32(head[4:]); int(got) != n-skippableHeader || n-lead > MaxMetadata {
		return nil, formatError(t.end.at, "metadata", "%d bytes in a frame of %d", got, n)
	}
	doc := make([]byte, n-lead)
	if err := readFull(r, doc, t.end.at+int64(lead)); err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	return doc, nil
}
