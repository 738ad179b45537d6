package dump

import (
	"encoding/binary"
	"fmt"
	"io"
	"runtime"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/zstd"

	"snap/phys"
)

// zstdContainer is the Zstandard seekable format.
func zstdContainer() container {
	return container{
		name:    CompressionZstd,
		doc:     "random access, a checksum of each frame, and the account of the dump inside; zstd -d expands it",
		suffix:  ".zst",
		encoder: newZstdEncoder,
		decoder: newZstdDecoder,
		zeros:   zstdZeros,
		tail:    func(Options, uint64, uint64) tail { return new(seekTail) },
		sniff:   func(head []byte) bool { return binary.LittleEndian.Uint32(head) == zstdMagic },
		open:    openSeekable,
	}
}

// zstdEncoder compresses with entropy coding of what no match is found for, or without:
// with both at LevelFastest, as the pages of a frame are.
type zstdEncoder struct{ entropy, plain *zstd.Encoder }

func newZstdEncoder(o Options) (_ encoder, err error) {
	var e zstdEncoder
	if o.Level != LevelTurbo {
		e.entropy, err = newZstdWriter(o, true)
	}
	if err == nil && (o.Level == LevelTurbo || zstdLevel(o.Level) == zstd.SpeedFastest) {
		e.plain, err = newZstdWriter(o, false)
	}
	return e, err
}

func newZstdWriter(o Options, entropy bool) (*zstd.Encoder, error) {
	z, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstdLevel(o.Level)),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(windowFor(o.FrameSize)),
		zstd.WithEncoderCRC(true), // the seek table repeats it, see zstdChecksum
		zstd.WithSingleSegment(true),
		zstd.WithNoEntropyCompression(!entropy),
	)
	if err != nil {
		return nil, fmt.Errorf("set up zstd: %w", err)
	}
	return z, nil
}

func (e zstdEncoder) encode(dst, src []byte) ([]byte, error) {
	z := e.entropy
	if z == nil || e.plain != nil && randomLiterals(src) {
		z = e.plain
	}
	return z.EncodeAll(src, dst[:0]), nil
}

// zstdDecoder decodes one frame at a time and verifies its checksum.
type zstdDecoder struct{ z *zstd.Decoder }

func newZstdDecoder(Options) (decoder, error) {
	z, err := newZstdReader(1)
	return zstdDecoder{z}, err
}

// newZstdReader returns a decoder for so many frames at a time, which expands nothing
// beyond the memory that it is given.
func newZstdReader(frames int, options ...zstd.DOption) (*zstd.Decoder, error) {
	z, err := zstd.NewReader(nil, append(options,
		zstd.WithDecoderConcurrency(frames),
		zstd.WithDecoderMaxMemory(maxExpandedFrame),
		zstd.WithDecodeAllCapLimit(true),
	)...)
	if err != nil {
		return nil, fmt.Errorf("set up zstd: %w", err)
	}
	return z, nil
}

func (d zstdDecoder) decode(dst, src []byte, _ int) ([]byte, error) {
	return d.z.DecodeAll(src, dst[:0])
}

// windowFor returns the largest zstd window, a power of two, that a frame fills.
func windowFor(frame int) int {
	w := zstd.MinWindowSize
	for w*2 <= frame {
		w *= 2
	}
	return w
}

func zstdLevel(l Level) zstd.EncoderLevel {
	switch l {
	case LevelDefault:
		return zstd.SpeedDefault
	case LevelBetter:
		return zstd.SpeedBetterCompression
	case LevelBest:
		return zstd.SpeedBestCompression
	default:
		return zstd.SpeedFastest
	}
}

// zstdChecksum returns the Content_Checksum of a stored frame, its last four
// bytes. It is defined as the seek table's checksum is: the low 32 bits of the
// XXH64 of the expanded content (RFC 8878 3.1.1), so no second hash is needed.
func zstdChecksum(frame []byte) uint32 {
	return binary.LittleEndian.Uint32(frame[len(frame)-4:])
}

const (
	zstdMagic = 0xFD2FB528 // RFC 8878 3.1.1
	zstdBlock = 128 << 10  // the most that a block holds
)

// zstdZeros returns a zstd frame of n zero bytes: run-length blocks, four
// bytes for each 128 KiB, which no compressor reaches (RFC 8878 3.1.1.2).
func zstdZeros(n int) []byte {
	const (
		flags = 2<<6 | 1<<5 | 1<<2 // 4-byte content size, single segment, content checksum
		rle   = 1 << 1
		last  = 1
	)
	b := binary.LittleEndian.AppendUint32(nil, zstdMagic)
	b = append(b, flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	for left := n; left > 0; left -= zstdBlock {
		head := uint32(min(left, zstdBlock))<<3 | rle
		if left <= zstdBlock {
			head |= last
		}
		b = append(b, byte(head), byte(head>>8), byte(head>>16), 0)
	}
	return binary.LittleEndian.AppendUint32(b, uint32(xxhash.Sum64(make([]byte, n))))
}

// openSeekable reads the seek table at the end of a file.
func openSeekable(r io.ReaderAt, size int64) (*contents, error) {
	table, err := openSeekTable(r, size)
	if err != nil {
		return nil, err
	}
	frames, err := table.frames()
	if err != nil {
		return nil, err
	}
	metadata, err := table.metadata()
	if err != nil {
		return nil, err
	}
	exp, err := newSeekableExpander(table.checksums)
	if err != nil {
		return nil, err
	}
	return &contents{
		Container: Container{
			RandomAccess: true, Frames: frames.count, FrameSize: frames.largest, Checksums: table.checksums,
		},
		body:     newFramedBody(r, frames, exp),
		metadata: metadata,
		close:    exp.close,
	}, nil
}

// seekableExpander expands the frames of the zstd seekable format.
type seekableExpander struct {
	checksums bool          // frames have one in the table
	hashed    *zstd.Decoder // leaves checksums to who calls it
	checked   *zstd.Decoder // verifies those in the frames
}

func newSeekableExpander(checksums bool) (*seekableExpander, error) {
	hashed, err := newZstdReader(runtime.GOMAXPROCS(0), zstd.IgnoreChecksum(true))
	if err != nil {
		return nil, err
	}
	checked, err := newZstdReader(runtime.GOMAXPROCS(0))
	if err != nil {
		hashed.Close()
		return nil, err
	}
	return &seekableExpander{checksums, hashed, checked}, nil
}

func (e *seekableExpander) close() {
	e.hashed.Close()
	e.checked.Close()
}

func (e *seekableExpander) expand(dst, src []byte, f frameRef) ([]byte, error) {
	if cap(dst) < int(f.expanded) {
		dst = make([]byte, 0, int(f.expanded)+decodeSlack)
	}
	// Where the frame's own checksum is the table's, as it is in snap's files, it is
	// enough to hold the content against that once.
	dec := e.checked
	if e.checksums && len(src) >= zstdMinHeader && f.sum == zstdChecksum(src) {
		dec = e.hashed
	}
	p, err := dec.DecodeAll(src, dst[:0:min(cap(dst), int(f.expanded)+decodeSlack)])
	if err != nil {
		return nil, err
	}
	if len(p) != int(f.expanded) {
		return nil, fmt.Errorf("expands to %d bytes; the seek table says %d", len(p), f.expanded)
	}
	if !e.checksums {
		return p, nil
	}
	if sum := uint32(xxhash.Sum64(p)); sum != f.sum {
		return nil, fmt.Errorf("checksum %#08x; the seek table says %#08x", sum, f.sum)
	}
	return p, nil
}

// InFrames reports whether a file begins as Write would begin it in the zstd
// seekable format, in frames of their own: one without a seek table is cut short
// then, and else somebody else's zstd.
func InFrames(r io.ReaderAt) bool {
	var head [zstd.HeaderMaxSize]byte
	n, err := r.ReadAt(head[:], 0)
	var h zstd.Header
	if err != nil && n < zstdMinHeader || h.Decode(head[:n]) != nil {
		return false
	}
	return h.SingleSegment && h.HasFCS && h.HasCheckSum && h.FrameContentSize <= DefaultFrameSize && h.FrameContentSize%phys.PageSize == 0
}

// zstdMinHeader is what a frame of more than 256 bytes has at its start: magic,
// descriptor, and two bytes of its size (RFC 8878 3.1.1.1).
const zstdMinHeader = 7
