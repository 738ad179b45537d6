package dump

import (
	"encoding/binary"
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

// MaxMetadata is the largest metadata that is written or read.
const MaxMetadata = 16 << 20

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
