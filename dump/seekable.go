package dump

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sort"
	"sync"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"
)

// seekableBody is the dump in the zstd seekable format.
type seekableBody struct {
	r      io.ReaderAt
	table  *seekTable
	dec    *zstd.Decoder
	cache  *frameCache
	stored sync.Pool // *[]byte, for the stored bytes of a frame

	// Frames that the writer makes of zeros alone need no decoding. They have
	// the length of most frames, and are made when the first is met.
	zeroLen    int
	zeroStored int
	zero       func() zeroFrame
}

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
	b := &seekableBody{r: r, table: table, dec: dec, zeroLen: n, zeroStored: zstdZerosLen(n)}
	b.stored.New = func() any { return new([]byte) }
	b.zero = sync.OnceValue(func() zeroFrame { return zeroFrame{zstdZeros(n), make([]byte, n)} })
	b.cache = newFrameCache(table.largest, b.decode)
	f.body = b
	f.container.Compression = CompressionZstd
	f.container.Frames = len(table.frames)
	f.container.FrameSize = table.largest
	f.container.Checksums = table.checksums
	f.closers = append(f.closers, closeFunc(dec.Close))
	f.metadata, err = table.readMetadata(r)
	return err
}

type closeFunc func()

func (c closeFunc) Close() error { c(); return nil }

func (b *seekableBody) size() int64 { return b.table.size }

// decode returns the expanded bytes of frame i, in dst if it has the room. The
// result may be shared and must not be written to.
func (b *seekableBody) decode(dst []byte, i int) ([]byte, error) {
	f := b.table.frames[i]
	stored := b.stored.Get().(*[]byte)
	defer b.stored.Put(stored)
	if n := int(f.stored); cap(*stored) < n {
		*stored = make([]byte, n)
	}
	src := (*stored)[:f.stored]
	if err := readFull(b.r, src, f.at); err != nil {
		return nil, fmt.Errorf("read frame %d at file offset %#x: %w", i, f.at, err)
	}
	if int(f.expanded) == b.zeroLen && int(f.stored) == b.zeroStored {
		if z := b.zero(); bytes.Equal(src, z.stored) && (!b.table.checksums || f.sum == zstdChecksum(src)) {
			return z.expanded, nil
		}
	}
	if cap(dst) < int(f.expanded) {
		dst = make([]byte, 0, f.expanded)
	}
	p, err := b.dec.DecodeAll(src, dst[:0:f.expanded])
	if err != nil {
		return nil, &FormatError{Off: f.at, Field: fmt.Sprintf("frame %d", i), Err: err}
	}
	if len(p) != int(f.expanded) {
		return nil, formatError(f.at, fmt.Sprintf("frame %d", i), "expands to %d bytes; the seek table says %d", len(p), f.expanded)
	}
	if sum := uint32(xxhash.Sum64(p)); b.table.checksums && sum != f.sum {
		return nil, formatError(f.at, fmt.Sprintf("frame %d", i), "checksum %#08x; the seek table says %#08x", sum, f.sum)
	}
	return p, nil
}

// ReadAt implements io.ReaderAt over the expanded bytes.
func (b *seekableBody) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at < 0 || at >= b.table.size {
			return n, io.EOF
		}
		i := b.table.find(at)
		frame, err := b.cache.get(i)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], frame[at-b.table.frames[i].expandedAt:])
	}
	return n, nil
}

func (b *seekableBody) each(ctx context.Context, use func(p []byte, off int64) error) error {
	return inParallel(ctx, len(b.table.frames), b.table.largest, func(buf []byte) func(int) error {
		return func(i int) error {
			p, err := b.decode(buf, i)
			if err != nil {
				return err
			}
			return use(p, b.table.frames[i].expandedAt)
		}
	})
}

// Bounds on what a seek table may say.
const (
	maxFrames        = 1 << 25
	maxExpandedFrame = MaxFrameSize
	maxExpanded      = 1 << 53 // twice the guest-physical address space
)

// seekTable is a seek table that has been checked against the file's length.
type seekTable struct {
	frames    []frameRef // those that hold data
	size      int64      // expanded
	largest   int        // expanded bytes of the largest frame
	checksums bool
	end       frameRef // the last frame before the table if it holds no data
}

type frameRef struct {
	at         int64 // file offset
	expandedAt int64
	entry
}

// find returns the frame that holds expanded offset off, which must be below size.
func (t *seekTable) find(off int64) int {
	return sort.Search(len(t.frames), func(i int) bool { return t.frames[i].expandedAt > off }) - 1
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
			f := frameRef{at: at, expandedAt: t.size}
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

func (t *seekTable) add(f frameRef, end int64) error {
	what := fmt.Sprintf("frame %d", len(t.frames))
	switch {
	case f.stored == 0 || int64(f.stored) > end-f.at:
		return formatError(f.at, what, "%d bytes of the file; the frames end at %#x", f.stored, end)
	case f.expanded == 0:
		t.end = f
		return nil
	case f.expanded > maxExpandedFrame:
		return formatError(f.at, what, "%d bytes expanded; the most is %d", f.expanded, maxExpandedFrame)
	case int(f.stored) > storedBound(int(f.expanded)):
		return formatError(f.at, what, "%d bytes for %d expanded ones", f.stored, f.expanded)
	case t.size+int64(f.expanded) > maxExpanded:
		return formatError(f.at, what, "expanded size beyond any guest's memory")
	}
	t.end = frameRef{}
	t.frames = append(t.frames, f)
	t.size += int64(f.expanded)
	t.largest = max(t.largest, int(f.expanded))
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
