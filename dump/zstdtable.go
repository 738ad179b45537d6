package dump

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// The zstd seekable format (facebook/zstd
// contrib/seekable_format/zstd_seekable_compression_format.md) and skippable
// frames (RFC 8878 3.1.2).
const (
	skippableHeader = 8          // magic and length
	metadataMagic   = 0x184D2A53 // any of 0x184D2A50-5F is skipped
	seekTableMagic  = 0x184D2A5E
	seekableMagic   = 0x8F92EAB1 // the last four bytes of the file
	seekFooter      = 9          // number of frames, descriptor, magic
	seekChecksums   = 1 << 7     // descriptor: entries have checksums
	seekReserved    = 0x7c       // descriptor: must be zero
	seekEntry       = 8
	seekEntrySum    = 12
)

// metadataTag begins our skippable frame, since its magic belongs to everybody.
var metadataTag = []byte("SNAPMETA")

// entry is a frame in the seek table.
type entry struct {
	stored   uint32 // bytes in the file
	expanded uint32 // 0 for skippable frames
	sum      uint32 // low 32 bits of the XXH64 of the expanded bytes
}

// emptySum is the checksum of no bytes.
const emptySum = 0x51D8E999

// appendSkippable appends a skippable frame.
func appendSkippable(b []byte, magic uint32, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b = binary.LittleEndian.AppendUint32(b, magic)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// tailPiece is how many entries of a table that is being made lie in one piece of
// memory: what was appended is not copied when the table grows.
const tailPiece = 4096

// seekTail is what stands behind the frames of the seekable format: metadata in a
// frame that decoders skip, and the seek table.
type seekTail struct {
	n      int      // entries
	pieces [][]byte // of them, as they are stored
}

func (t *seekTail) add(e entry) {
	if t.n%tailPiece == 0 {
		t.pieces = append(t.pieces, make([]byte, 0, tailPiece*seekEntrySum))
	}
	t.n++
	last := &t.pieces[len(t.pieces)-1]
	b := binary.LittleEndian.AppendUint32(*last, e.stored)
	b = binary.LittleEndian.AppendUint32(b, e.expanded)
	*last = binary.LittleEndian.AppendUint32(b, e.sum)
}

// begin implements tail: the first frame begins the file.
func (t *seekTail) begin() []byte { return nil }

func (t *seekTail) frame(stored []byte, expanded int, _ uint32) {
	t.add(entry{uint32(len(stored)), uint32(expanded), zstdChecksum(stored)})
}

func (t *seekTail) metadata(doc []byte) []byte {
	b := appendSkippable(nil, metadataMagic, metadataTag, doc)
	t.add(entry{stored: uint32(len(b)), sum: emptySum})
	return b
}

// end writes the frame that ends the file.
func (t *seekTail) end(write func([]byte) error) error {
	head := binary.LittleEndian.AppendUint32(nil, seekTableMagic)
	head = binary.LittleEndian.AppendUint32(head, uint32(t.n*seekEntrySum+seekFooter))
	foot := binary.LittleEndian.AppendUint32(nil, uint32(t.n))
	foot = append(foot, seekChecksums)
	foot = binary.LittleEndian.AppendUint32(foot, seekableMagic)
	if err := write(head); err != nil {
		return err
	}
	for _, p := range t.pieces {
		if err := write(p); err != nil {
			return err
		}
	}
	return write(foot)
}

// seekTable is the seek table of a file.
type seekTable struct {
	r         io.ReaderAt
	at        int64 // file offset of the first entry
	n         int64 // entries
	entrySize int64
	checksums bool
}

// openSeekTable finds the table at the end of a file of size bytes.
func openSeekTable(r io.ReaderAt, size int64) (*seekTable, error) {
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
	t := &seekTable{r: r, n: int64(binary.LittleEndian.Uint32(foot[:])), entrySize: seekEntry, checksums: foot[4]&seekChecksums != 0}
	if t.checksums {
		t.entrySize = seekEntrySum
	}
	length := t.n*t.entrySize + seekFooter
	start := size - skippableHeader - length
	if t.n > maxFrames || start < 0 {
		return nil, formatError(size-seekFooter, "seek table", "%d frames in a file of %d bytes", t.n, size)
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
	t.at = start + skippableHeader
	return t, nil
}

// framesEnd is the file offset behind the last frame.
func (t *seekTable) framesEnd() int64 { return t.at - skippableHeader }

// frames reads the table, whose frames must account for all bytes ahead of it.
func (t *seekTable) frames() (*frameTable, error) {
	frames, err := newFrameTable(t.framesEnd(), t.walk)
	if err == nil && frames.count == 0 {
		err = formatError(t.framesEnd(), "seek table", "no frame with data")
	}
	if err != nil {
		return nil, err
	}
	return frames, nil
}

// tableRead is how many entries are read at a time where all are.
const tableRead = 4096

// walk is a frameWalk. Frames without data are passed over.
func (t *seekTable) walk(from place, use func(at place, f frameRef) (bool, error)) error {
	piece := int64(tableRead)
	if from.entry > 0 {
		piece = tableStep
	}
	buf := make([]byte, min(piece, t.n-from.entry)*t.entrySize)
	at := from
	for at.entry < t.n {
		part := buf[:min(int64(len(buf)), (t.n-at.entry)*t.entrySize)]
		if err := readFull(t.r, part, t.at+at.entry*t.entrySize); err != nil {
			return fmt.Errorf("read seek table: %w", err)
		}
		for ; len(part) > 0; part = part[t.entrySize:] {
			f := t.frame(part, at.at)
			if f.expanded > 0 {
				if more, err := use(at, f); err != nil || !more {
					return err
				}
			} else if f.stored == 0 || int64(f.stored) > t.framesEnd()-f.at {
				return formatError(f.at, "skippable frame", "%d bytes of the file; the frames end at %#x", f.stored, t.framesEnd())
			}
			at = place{at.at + int64(f.stored), at.entry + 1}
		}
	}
	if at.at != t.framesEnd() {
		return formatError(t.framesEnd(), "seek table", "its frames end at %#x, not where it begins", at.at)
	}
	return nil
}

// frame decodes the entry of the frame at a file offset.
func (t *seekTable) frame(b []byte, at int64) frameRef {
	f := frameRef{at: at}
	f.stored = binary.LittleEndian.Uint32(b)
	f.expanded = binary.LittleEndian.Uint32(b[4:])
	if t.checksums {
		f.sum = binary.LittleEndian.Uint32(b[8:])
	}
	return f
}

// metadata returns the document in the last frame before the table, nil if that is
// something else.
func (t *seekTable) metadata() ([]byte, error) {
	b := make([]byte, t.entrySize)
	if err := readFull(t.r, b, t.at+(t.n-1)*t.entrySize); err != nil {
		return nil, fmt.Errorf("read seek table: %w", err)
	}
	last := t.frame(b, 0)
	n := int(last.stored)
	lead := skippableHeader + len(metadataTag)
	at := t.framesEnd() - int64(n)
	if last.expanded > 0 || n < lead || at < 0 {
		return nil, nil
	}
	head := make([]byte, lead)
	if err := readFull(t.r, head, at); err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	if binary.LittleEndian.Uint32(head) != metadataMagic || !bytes.Equal(head[skippableHeader:], metadataTag) {
		return nil, nil
	}
	if got := binary.LittleEndian.Uint32(head[4:]); int(got) != n-skippableHeader || n-lead > MaxMetadata {
		return nil, formatError(at, "metadata", "%d bytes in a frame of %d", got, n)
	}
	doc := make([]byte, n-lead)
	if err := readFull(t.r, doc, at+int64(lead)); err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	return doc, nil
}
