package dump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"

	"snap/input"
)

// zipContainer is a zip archive of one file, the dump.
func zipContainer() container {
	return container{
		name:    CompressionZip,
		doc:     "for where nothing is to be installed: a zip archive, which unzip expands, and WinDbg is said to open as it is; without the account of the dump inside",
		suffix:  ".zip",
		encoder: newDeflateEncoder,
		decoder: func(Options) (decoder, error) { return new(deflateExpander), nil },
		zeros:   deflatedZeros,
		sum:     crc32.ChecksumIEEE,
		tail:    func(o Options, size, header uint64) tail { return newZipTail(o, size, header) },
		sniff:   func(head []byte) bool { return bytes.HasPrefix(head, zipMagic) },
		open:    openZip,
	}
}

// zipMagic begins an archive with its first member (APPNOTE.TXT 4.3.7).
var zipMagic = []byte("PK\x03\x04")

// deflateEnd is an empty last block without compression, which ends a deflate stream
// (RFC 1951 3.2.4) that ends at a byte.
var deflateEnd = []byte{1, 0, 0, 0xff, 0xff}

// deflateEncoder makes each frame some blocks of one deflate stream, none of which refers
// to another frame. They end with an empty block without compression, and so at a byte:
// the next frame's can follow there.
type deflateEncoder struct {
	z   *flate.Writer
	out bytes.Buffer
}

func newDeflateEncoder(o Options) (encoder, error) {
	z, err := flate.NewWriter(nil, gzipLevel(o.Level))
	if err != nil {
		return nil, fmt.Errorf("set up deflate: %w", err)
	}
	return &deflateEncoder{z: z}, nil
}

func (e *deflateEncoder) encode(dst, src []byte) ([]byte, error) {
	e.out = *bytes.NewBuffer(dst[:0])
	e.z.Reset(&e.out)
	if _, err := e.z.Write(src); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := e.z.Flush(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return e.out.Bytes(), nil
}

// deflatedZeros returns the blocks of n zero bytes, as small as deflate has them: the
// levels that are used for pages leave them larger.
func deflatedZeros(n int) []byte {
	e, err := newDeflateEncoder(Options{Level: LevelBest})
	if err != nil {
		return nil // never: the level is one that there is
	}
	b, _ := e.encode(nil, make([]byte, n)) // nothing is written but to memory
	return b
}

// deflateExpander expands what deflateEncoder makes of one frame or more.
type deflateExpander struct{ readers sync.Pool } // of *deflateReader

type deflateReader struct {
	whole []byte // the frame and what ends a stream
	in    bytes.Reader
	z     io.ReadCloser
}

func (e *deflateExpander) expand(dst, src []byte, f frameRef) ([]byte, error) {
	return e.decode(dst, src, int(f.expanded))
}

// decode implements decoder.
func (e *deflateExpander) decode(dst, src []byte, n int) ([]byte, error) {
	r, _ := e.readers.Get().(*deflateReader)
	if r == nil {
		r = &deflateReader{z: flate.NewReader(nil)}
	}
	defer e.readers.Put(r)
	// It is a copy as expanding is faster from a bytes.Reader than from anything else.
	r.whole = append(append(r.whole[:0], src...), deflateEnd...)
	r.in.Reset(r.whole)
	if err := r.z.(flate.Resetter).Reset(&r.in, nil); err != nil {
		return nil, err
	}
	if cap(dst) < n {
		dst = make([]byte, n)
	}
	p := dst[:n]
	if _, err := io.ReadFull(r.z, p); err != nil {
		return nil, err
	}
	switch more, err := r.z.Read(make([]byte, 1)); {
	case more > 0:
		return nil, fmt.Errorf("expands to more than the %d bytes that it should", n)
	case !errors.Is(err, io.EOF):
		return nil, err
	case r.in.Len() > 0:
		return nil, errors.New("it doesn't end where its bytes end")
	}
	return p, nil
}

// openZip reads a zip archive of one file: with random access where its directory has an
// index of ours, or the file isn't compressed, and else as a stream.
func openZip(r io.ReaderAt, size int64) (*contents, error) {
	m, err := input.OneMember(r, size)
	if err != nil {
		return nil, &FormatError{Off: -1, Field: "zip", Err: err}
	}
	index := input.ExtraField(m.Extra, zipIndexField)
	switch {
	case !m.Deflated:
		in := io.NewSectionReader(r, m.At, m.Stored)
		return &contents{Container: Container{RandomAccess: true, WholeSum: true}, body: &summedBody{plainBody{in, m.Stored}, m.CRC}}, nil
	case index == nil:
		return &contents{body: &streamBody{field: "zip", tool: "unzip", open: func() (io.ReadCloser, error) { return m.Open(), nil }}}, nil
	}
	table, err := readZipIndex(index, m)
	if err != nil {
		return nil, err
	}
	return &contents{
		Container: Container{RandomAccess: true, WholeSum: true, Frames: table.count, FrameSize: table.largest},
		body:      &summedBody{newFramedBody(r, table, new(deflateExpander)), m.CRC},
	}, nil
}

// summedBody is a body of which there is a checksum as a whole only.
type summedBody struct {
	body
	crc uint32
}

// each implements body. The checksum is verified when all parts were used.
func (b *summedBody) each(ctx context.Context, use func(ctx context.Context, p part) error) error {
	var mu sync.Mutex
	var whole uint32
	size := b.size()
	err := b.body.each(ctx, func(ctx context.Context, p part) error {
		crc := crcOfZeros(uint64(p.size))
		if p.data != nil {
			crc = crc32.ChecksumIEEE(p.data)
		}
		crc = crcBehind(crc, uint64(size-p.off-p.size))
		mu.Lock()
		whole ^= crc
		mu.Unlock()
		return use(ctx, p)
	})
	if err == nil && whole != b.crc {
		return formatError(-1, "zip", "all of the dump has checksum %#08x; the archive says %#08x", whole, b.crc)
	}
	return err
}
