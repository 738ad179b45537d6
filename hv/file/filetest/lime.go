package filetest

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/klauspost/compress/s2"
)

// RangeHeader is the header that LiME puts before a range of memory, and AVML too
// (LiME's doc/README, AVML's src/image.rs). first and last are guest-physical.
func RangeHeader(magic string, version uint32, first, last uint64) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32([]byte(magic), version)
	b = le.AppendUint64(b, first)
	b = le.AppendUint64(b, last)
	return le.AppendUint64(b, 0)
}

// LiME is a LiME image of memory.
func LiME(memory []Range) []byte {
	var b []byte
	for _, r := range memory {
		b = append(b, RangeHeader("EMiL", 1, uint64(r.At), uint64(r.At)+uint64(len(r.Data))-1)...)
		b = append(b, r.Data...)
	}
	return b
}

// AVMLRange is a range as AVML compresses it, by a writer of snappy's frames that isn't
// the code under test.
func AVMLRange(at uint64, memory []byte) []byte {
	var s bytes.Buffer
	w := s2.NewWriter(&s, s2.WriterSnappyCompat(), s2.WriterBlockSize(64<<10))
	_, _ = w.Write(memory)
	_ = w.Close()
	b := append(RangeHeader("AVML", 2, at, at+uint64(len(memory))-1), s.Bytes()...)
	return binary.LittleEndian.AppendUint64(b, uint64(s.Len()))
}

// AVML is an AVML image of memory, in blocks of at most n bytes.
func AVML(memory []Range, n int) []byte {
	var b []byte
	for _, r := range memory {
		at := uint64(r.At)
		for part := range slices.Chunk(r.Data, n) {
			b = append(b, AVMLRange(at, part)...)
			at += uint64(len(part))
		}
	}
	return b
}
