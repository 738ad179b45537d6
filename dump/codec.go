package dump

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/cespare/xxhash/v2"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// encoder turns one frame into its stored form. Each worker has its own.
type encoder interface {
	// encode returns the stored form of src, in the memory of dst where it
	// needs any and has the room.
	encode(dst, src []byte) ([]byte, error)
}

// newEncoder returns an encoder for o, which is resolved.
func newEncoder(o Options) (encoder, error) {
	switch o.Compression {
	case CompressionGzip:
		z, err := gzip.NewWriterLevel(nil, gzipLevel(o.Level))
		if err != nil {
			return nil, fmt.Errorf("set up gzip: %w", err)
		}
		return &gzipEncoder{z: z}, nil
	case CompressionNone:
		return plainEncoder{}, nil
	}
	z, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstdLevel(o.Level)),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(windowFor(o.FrameSize)),
		zstd.WithEncoderCRC(true), // the seek table repeats it, see zstdChecksum
		zstd.WithSingleSegment(true),
	)
	if err != nil {
		return nil, fmt.Errorf("set up zstd: %w", err)
	}
	return zstdEncoder{z}, nil
}

// storedBound is the most bytes that a frame of n bytes takes when stored: the
// compressors fall back to raw blocks of at least 16 KiB with a few bytes of
// header each (RFC 8878 3.1.1.2, RFC 1951 3.2.4).
func storedBound(n int) int { return n + n/128 + 1024 }

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

func gzipLevel(l Level) int {
	switch l {
	case LevelDefault:
		return 5
	case LevelBetter:
		return 7
	case LevelBest:
		return gzip.BestCompression
	default:
		return gzip.BestSpeed
	}
}

type zstdEncoder struct{ z *zstd.Encoder }

func (e zstdEncoder) encode(dst, src []byte) ([]byte, error) {
	return e.z.EncodeAll(src, dst[:0]), nil
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

// zstdZerosLen returns the length of zstdZeros(n).
func zstdZerosLen(n int) int { return 13 + 4*((n+zstdBlock-1)/zstdBlock) }

// gzipEncoder makes each frame a member of its own (RFC 1952 2.2), which says
// how long it is.
type gzipEncoder struct {
	z   *gzip.Writer
	out bytes.Buffer
}

func (e *gzipEncoder) encode(dst, src []byte) ([]byte, error) {
	e.out = *bytes.NewBuffer(dst[:0])
	e.z.Reset(&e.out)
	e.z.Extra = memberField()
	if _, err := e.z.Write(src); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := e.z.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	member := e.out.Bytes()
	sealMember(member)
	return member, nil
}

type plainEncoder struct{}

func (plainEncoder) encode(_, src []byte) ([]byte, error) { return src, nil }

// zeroForms gives the stored form of frames that hold only zeros. There are at
// most two lengths of them, the full one and the last.
type zeroForms struct {
	compression Compression
	enc         encoder
	forms       map[int][]byte
}

func newZeroForms(o Options, lengths ...int) (*zeroForms, error) {
	enc, err := newEncoder(o)
	if err != nil {
		return nil, err
	}
	z := &zeroForms{o.Compression, enc, map[int][]byte{}}
	for _, n := range lengths {
		if z.forms[n], err = z.make(n); err != nil {
			return nil, err
		}
	}
	return z, nil
}

func (z *zeroForms) make(n int) ([]byte, error) {
	if z.compression == CompressionZstd {
		return zstdZeros(n), nil
	}
	return z.enc.encode(nil, make([]byte, n))
}
