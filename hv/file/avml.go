package file

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"sort"

	"github.com/klauspost/compress/snappy"

	"snap/hv"
)

// Chunks of a snappy stream (google/snappy framing_format.txt): a byte of type,
// three of length, and so many bytes.
const (
	snappyHeader     = 4
	snappyChecksum   = 4
	snappyChunk      = 64 << 10 // the most that one expands to
	snappyCompressed = 0x00
	snappyPlain      = 0x01
	snappyPadding    = 0xfe
	snappyStream     = 0xff
	snappySkippable  = 0x80 // from here on
	avmlTrailer      = 8    // the length of the range's stream
)

// Every avmlStep-th chunk of a range is kept in the index, and of those that were
// read last avmlCache are kept expanded: 4 MiB.
const (
	avmlStep      = 16
	avmlCache     = 64
	maxAVMLPlaces = 1 << 22
	maxAVMLEmpty  = 64 // chunks of padding in a row: a writer has one, at the start
)

// avml is an image that AVML compressed: ranges with a header before each, as LiME
// has them, whose memory is a snappy stream. It holds no registers.
func avml() format {
	return format{
		name:  "AVML image",
		takes: func(head []byte, _ Options) bool { return bytes.HasPrefix(head, []byte(avmlMagic)) },
		open: func(ctx context.Context, b body, _ Options) (hv.Source, error) {
			a := &avmlFile{r: b, cache: newPieces(avmlCache)}
			segs, err := a.read(ctx, b)
			if err != nil {
				return nil, err
			}
			return newSource(&unfolded{body: b, ReaderAt: a, size: a.end}, hv.MechanismAVML, segs, nil)
		},
	}
}

// avmlFile reads memory by its guest-physical address.
type avmlFile struct {
	r      io.ReaderAt
	places []avmlPlace // ascending by address
	end    int64       // of the memory
	cache  *pieces     // of chunks, by their offset
}

// avmlPlace is where some chunks of a range begin.
type avmlPlace struct {
	at  int64 // guest-physical
	off int64 // in the file
}

// chunk is a chunk's header.
type chunk struct {
	kind byte
	size int64 // bytes behind the header
	len  int64 // bytes that it expands to
}

// read finds the places in all ranges. It reads the header of every chunk.
func (a *avmlFile) read(ctx context.Context, b body) ([]Segment, error) {
	var segs []Segment
	for off := int64(0); off < b.Size(); {
		r, err := readLimeHeader(b, off)
		if err != nil {
			return nil, err
		}
		if !r.compressed {
			return nil, fmt.Errorf("range at %#x is not compressed, and others are: %w", off, hv.ErrFormat)
		}
		if n := len(a.places); n > 0 && int64(r.at) < a.end {
			return nil, fmt.Errorf("memory at %#x comes after that up to %#x: %w", uint64(r.at), a.end, hv.ErrFormat)
		}
		if off, err = a.readRange(ctx, r); err != nil {
			return nil, err
		}
		a.end = int64(r.at) + int64(r.size)
		g, ok := r.pages(int64(r.at))
		if k := len(segs) - 1; ok && k >= 0 && segs[k].end() == g.GPA {
			segs[k].Size += g.Size
		} else if ok {
			if len(segs) == maxSegments {
				return nil, fmt.Errorf("more than %d ranges of memory: %w", maxSegments, hv.ErrFormat)
			}
			segs = append(segs, g)
		}
	}
	return segs, nil
}

// readRange finds the places in a range, and returns where the next one begins.
func (a *avmlFile) readRange(ctx context.Context, r limeRange) (int64, error) {
	off, at, end := r.body, int64(r.at), int64(r.at)+int64(r.size)
	for i, empty := 0, 0; at < end; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		c, err := a.chunk(off)
		if err != nil {
			return 0, err
		}
		if empty++; empty > maxAVMLEmpty {
			return 0, fmt.Errorf("chunk at %#x: more than %d chunks without memory in a row: %w", off, maxAVMLEmpty, hv.ErrFormat)
		}
		if c.len > 0 {
			empty = 0
			if i%avmlStep == 0 {
				if len(a.places) == maxAVMLPlaces {
					return 0, fmt.Errorf("more than %d chunks: %w", maxAVMLPlaces*avmlStep, hv.ErrFormat)
				}
				a.places = append(a.places, avmlPlace{at, off})
			}
			i++
		}
		if c.len > end-at {
			return 0, fmt.Errorf("chunk at %#x reaches over the range's end, %#x: %w", off, end, hv.ErrFormat)
		}
		at += c.len
		off += snappyHeader + c.size
	}
	var trailer [avmlTrailer]byte
	if err := readAt(a.r, trailer[:], uint64(off)); err != nil {
		return 0, err
	}
	if n := binary.LittleEndian.Uint64(trailer[:]); n != uint64(off-r.body) {
		return 0, fmt.Errorf("the range at %#x has %d bytes; the trailer says %d: %w", r.body, off-r.body, n, hv.ErrFormat)
	}
	return off + avmlTrailer, nil
}

// chunk reads the header of the chunk at an offset.
func (a *avmlFile) chunk(off int64) (chunk, error) {
	var b [snappyHeader + snappyChecksum + binary.MaxVarintLen32]byte
	n, err := a.r.ReadAt(b[:], off)
	if n < snappyHeader {
		return chunk{}, fmt.Errorf("chunk at %#x: %w", off, readError(orEOF(err), snappyHeader, uint64(off)))
	}
	c := chunk{kind: b[0], size: int64(binary.LittleEndian.Uint32(b[:]) >> 8)}
	switch {
	case c.kind == snappyPlain && c.size > snappyChecksum:
		c.len = c.size - snappyChecksum
	case c.kind == snappyCompressed && c.size > snappyChecksum && n > snappyHeader+snappyChecksum:
		length, used := binary.Uvarint(b[snappyHeader+snappyChecksum : n])
		if used <= 0 || length == 0 || length > snappyChunk {
			return chunk{}, fmt.Errorf("chunk at %#x expands to %d bytes: %w", off, length, hv.ErrFormat)
		}
		c.len = int64(length)
	case c.kind < snappySkippable:
		return chunk{}, fmt.Errorf("chunk at %#x is of type %#x and has %d bytes: %w", off, c.kind, c.size, hv.ErrFormat)
	}
	if c.len > snappyChunk {
		return chunk{}, fmt.Errorf("chunk at %#x has %d bytes: %w", off, c.len, hv.ErrFormat)
	}
	return c, nil
}

func orEOF(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ReadAt implements io.ReaderAt over the guest's memory. All of it must be in the
// file.
func (a *avmlFile) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		at := off + int64(done)
		b, start, err := a.chunkWith(at)
		if err != nil {
			return done, err
		}
		done += copy(p[done:], b[at-start:])
	}
	return done, nil
}

// chunkWith returns the expanded chunk that holds an address, and the address at
// which it begins.
func (a *avmlFile) chunkWith(at int64) ([]byte, int64, error) {
	i := sort.Search(len(a.places), func(i int) bool { return a.places[i].at > at }) - 1
	if i < 0 || at >= a.end {
		return nil, 0, io.EOF
	}
	start, off := a.places[i].at, a.places[i].off
	for {
		c, err := a.chunk(off)
		if err != nil {
			return nil, 0, err
		}
		if start+c.len > at {
			b, err := a.cache.get(off, func() ([]byte, error) { return a.expand(off, c) })
			return b, start, err
		}
		start += c.len
		off += snappyHeader + c.size
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// expand returns what is in a chunk, and verifies its checksum.
func (a *avmlFile) expand(off int64, c chunk) ([]byte, error) {
	if c.size > snappyChunk*2 {
		return nil, fmt.Errorf("chunk at %#x has %d bytes: %w", off, c.size, hv.ErrFormat)
	}
	src := make([]byte, c.size)
	if err := readAt(a.r, src, uint64(off)+snappyHeader); err != nil {
		return nil, err
	}
	sum, b := binary.LittleEndian.Uint32(src), src[snappyChecksum:]
	if c.kind == snappyCompressed {
		var err error
		if b, err = snappy.Decode(make([]byte, c.len), b); err != nil || int64(len(b)) != c.len {
			return nil, fmt.Errorf("chunk at %#x: damaged: %w", off, hv.ErrFormat)
		}
	}
	crc := crc32.Checksum(b, castagnoli)
	if masked := (crc>>15 | crc<<17) + 0xa282ead8; masked != sum {
		return nil, fmt.Errorf("chunk at %#x: checksum %#08x; want %#08x: %w", off, masked, sum, hv.ErrFormat)
	}
	return b, nil
}
