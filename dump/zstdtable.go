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

// encodeSeekTable returns the frame that ends the file.
func encodeSeekTable(entries []entry) []byte {
	n := len(entries)*seekEntrySum + seekFooter
	b := make([]byte, 0, skippableHeader+n)
	b = binary.LittleEndian.AppendUint32(b, seekTableMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint32(b, e.stored)
		b = binary.LittleEndian.AppendUint32(b, e.expanded)
		b = binary.LittleEndian.AppendUint32(b, e.sum)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(entries)))
	b = append(b, seekChecksums)
	return binary.LittleEndian.AppendUint32(b, seekableMagic)
}

// seekTail is what stands behind the frames of the seekable format: metadata in a
// frame that decoders skip, and the seek table.
type seekTail struct{ entries []entry }

func (t *seekTail) frame(stored []byte, expanded int) {
	t.entries = append(t.entries, entry{uint32(len(stored)), uint32(expanded), zstdChecksum(stored)})
}

func (t *seekTail) metadata(doc []byte) []byte {
	b := appendSkippable(nil, metadataMagic, metadataTag, doc)
	t.entries = append(t.entries, entry{stored: uint32(len(b)), sum: emptySum})
	return b
}

func (t *seekTail) end() []byte { return encodeSeekTable(t.entries) }

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
