package filetest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"snap/phys"
)

// Kdump is a kdump-compressed file to be made (makedumpfile's IMPLEMENTATION). It has
// at least one page.
type Kdump struct {
	Narrow  bool   // of a 32-bit guest
	Version uint32 // of the header
	Status  uint32
	Split   uint32 // not 0: it is one part of several
	Machine string // as in struct new_utsname
	Single  bool   // one bitmap instead of two
	Pages   map[phys.PFN][]byte
	Left    []phys.PFN // pages that the guest has too, and that were left out: in the first bitmap alone
	Level   uint32     // which kinds of pages those are (makedumpfile -d)
	Notes   []byte
	Store   Store
}

// Store returns a page as it is stored, and the flags of its descriptor (makedumpfile's
// diskdump_mod.h). What isn't shorter than the page is not used.
type Store func(pfn phys.PFN, page []byte) (stored []byte, flags uint32)

var zlibWriters = sync.Pool{New: func() any { return zlib.NewWriter(nil) }}

// StoreZlib stores a page with zlib.
func StoreZlib(_ phys.PFN, page []byte) ([]byte, uint32) {
	var b bytes.Buffer
	z := zlibWriters.Get().(*zlib.Writer)
	defer zlibWriters.Put(z)
	z.Reset(&b)
	_, _ = z.Write(page)
	_ = z.Close()
	return b.Bytes(), 1
}

// StoreLZO stores a page as LZO1X of literals, and of one match for the zeros at its end
// (Linux Documentation/staging/lzo.rst): 0, then zeros for 255 each, and a last byte;
// the text; the match likewise, of distance 1; and the end.
func StoreLZO(_ phys.PFN, page []byte) ([]byte, uint32) {
	const literals, match = 18, 33 // what the lengths count from
	text := max(len(bytes.TrimRight(page, "\x00"))+1, literals+1)
	rest := len(page) - text
	if rest <= match {
		text, rest = len(page), 0
	}
	b := append(lzoLength([]byte{0}, text-literals), page[:text]...)
	if rest > 0 {
		b = append(lzoLength(append(b, 0x20), rest-match), 0, 0)
	}
	return append(b, 0x11, 0, 0), 2
}

func lzoLength(b []byte, n int) []byte {
	for ; n > 255; n -= 255 {
		b = append(b, 0)
	}
	return append(b, byte(n))
}

// StoreSnappy stores a page with snappy.
func StoreSnappy(_ phys.PFN, page []byte) ([]byte, uint32) { return snappy.Encode(nil, page), 4 }

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		panic(err) // only of wrong options
	}
	return z
})

// StoreZstd stores a page with zstd.
func StoreZstd(_ phys.PFN, page []byte) ([]byte, uint32) {
	return zstdEncoder().EncodeAll(page, nil), 0x20
}

// Bytes returns the file. Pages of zeros share their data, as QEMU has it.
func (k Kdump) Bytes() []byte {
	const block = phys.PageSize
	le := binary.LittleEndian
	pfns := make([]phys.PFN, 0, len(k.Pages))
	for p := range k.Pages {
		pfns = append(pfns, p)
	}
	slices.Sort(pfns)
	max := uint64(pfns[len(pfns)-1]) + 1
	bitmap := (max/8 + 1 + block - 1) / block
	bitmaps := bitmap * 2
	if k.Single {
		bitmaps = bitmap
	}
	sub := uint64(1 + (len(k.Notes)+block-1)/block)
	b := make([]byte, (1+sub+bitmaps)*block)
	copy(b, "KDUMP   ")
	le.PutUint32(b[8:], k.Version)
	copy(b[12+4*65:], k.Machine)
	f := b[424:]
	if k.Narrow {
		f = b[412:]
	}
	for i, v := range []uint32{k.Status, block, uint32(sub), uint32(bitmaps), uint32(max)} {
		le.PutUint32(f[4*i:], v)
	}
	s, noteAt := b[block:], uint64(block+512)
	copy(b[noteAt:], k.Notes)
	if k.Narrow {
		le.PutUint32(s[4:], k.Level)
		le.PutUint32(s[8:], k.Split)
		le.PutUint64(s[32:], noteAt)
		le.PutUint32(s[40:], uint32(len(k.Notes)))
		le.PutUint64(s[72:], max)
	} else {
		le.PutUint32(s[8:], k.Level)
		le.PutUint32(s[12:], k.Split)
		le.PutUint64(s[48:], noteAt)
		le.PutUint64(s[56:], uint64(len(k.Notes)))
		le.PutUint64(s[96:], max)
	}
	for _, p := range pfns {
		for i := range bitmaps / bitmap {
			b[(1+sub+i*bitmap)*block+uint64(p)/8] |= 1 << (p % 8)
		}
	}
	for _, p := range k.Left {
		b[(1+sub)*block+uint64(p)/8] |= 1 << (p % 8)
	}
	at := uint64(len(b)) + uint64(len(pfns))*24
	var descs, data []byte
	zeroAt, zero := uint64(0), make([]byte, block)
	for _, p := range pfns {
		page := k.Pages[p]
		stored, flags := k.Store(p, page)
		if len(stored) >= block {
			stored, flags = page, 0
		}
		off := at + uint64(len(data))
		switch {
		case bytes.Equal(page, zero) && zeroAt > 0:
			off = zeroAt
		case bytes.Equal(page, zero):
			zeroAt = off
			fallthrough
		default:
			data = append(data, stored...)
		}
		descs = le.AppendUint64(descs, off)
		descs = le.AppendUint32(descs, uint32(len(stored)))
		descs = le.AppendUint32(descs, flags)
		descs = le.AppendUint64(descs, 0)
	}
	return append(append(b, descs...), data...)
}
