package file

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/anchore/go-lzo"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"snap/hv"
	"snap/phys"
)

// Flags of a page's descriptor (makedumpfile's diskdump_mod.h).
const (
	kdumpZlib   = 0x01
	kdumpLZO    = 0x02
	kdumpSnappy = 0x04
	kdumpZstd   = 0x20
)

// expandPage returns the page that was stored as src.
func expandPage(src []byte, flags uint32) ([]byte, error) {
	page := make([]byte, phys.PageSize)
	var n int
	var err error
	switch flags {
	case 0:
		n = copy(page, src)
	case kdumpZlib:
		n, err = expandZlib(page, src)
	case kdumpLZO:
		n, err = lzo.Decompress(src, page)
	case kdumpSnappy:
		// What it says of its length decides what is allocated.
		if n, err = snappy.DecodedLen(src); err == nil && n == len(page) {
			page, err = snappy.Decode(page, src)
		}
	case kdumpZstd:
		n, err = expandZstd(page, src)
	default:
		return nil, fmt.Errorf("flags %#x: %w", flags, hv.ErrFormat)
	}
	if err == nil && n != phys.PageSize {
		err = fmt.Errorf("expands to %d bytes", n)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, hv.ErrFormat)
	}
	return page, nil
}

var zlibReaders sync.Pool // of zlibReader

type zlibReader interface {
	io.Reader
	zlib.Resetter
}

func expandZlib(page, src []byte) (int, error) {
	z, _ := zlibReaders.Get().(zlibReader)
	if z == nil {
		r, err := zlib.NewReader(bytes.NewReader(src))
		if err != nil {
			return 0, err
		}
		z = r.(zlibReader)
	} else if err := z.Reset(bytes.NewReader(src), nil); err != nil {
		return 0, err
	}
	defer zlibReaders.Put(z)
	n, err := io.ReadFull(z, page)
	if err != nil {
		return n, err
	}
	// Its end is where the checksum is verified.
	var more [1]byte
	switch m, err := z.Read(more[:]); {
	case m > 0:
		return n + m, nil
	case err != nil && err != io.EOF: //nolint:errorlint // of a reader that returns it as it is
		return n, err
	}
	return n, nil
}

// zstdPages decodes pages, and no more than a page each.
var zstdPages = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(1<<20),
		zstd.WithDecodeAllCapLimit(true))
})

func expandZstd(page, src []byte) (int, error) {
	z, err := zstdPages()
	if err != nil {
		return 0, err
	}
	out, err := z.DecodeAll(src, page[:0])
	return len(out), err
}
