package input

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Parts of an xz file (The .xz File Format, 1.2.1).
const (
	xzHeader    = 12 // of a stream
	xzFooter    = 12
	xzLZMA2     = 0x21
	maxXzBlocks = 1 << 20
)

var errXz = errors.New("its index is damaged")

// checkXz demands that no block of an xz file asks for more memory than maxWindow.
// The library that expands them takes their word for it.
func checkXz(r io.ReaderAt, size int64) error {
	blocks := 0
	for end := size; end > 0; {
		// Streams follow each other, with zeros in between in fours (2.2).
		var word [4]byte
		if end < xzHeader+xzFooter || end%4 != 0 {
			return errXz
		}
		if _, err := r.ReadAt(word[:], end-4); err != nil {
			return err
		}
		if word == [4]byte{} {
			end -= 4
			continue
		}
		start, err := checkXzStream(r, end, &blocks)
		if err != nil {
			return err
		}
		end = start
	}
	return nil
}

// checkXzStream checks the blocks of the stream that ends at end, by its index
// (4), and returns where the stream begins.
func checkXzStream(r io.ReaderAt, end int64, blocks *int) (int64, error) {
	var foot [xzFooter]byte
	if _, err := r.ReadAt(foot[:], end-xzFooter); err != nil {
		return 0, err
	}
	indexSize := (int64(binary.LittleEndian.Uint32(foot[4:])) + 1) * 4
	if string(foot[10:]) != "YZ" || indexSize > end-xzHeader-xzFooter {
		return 0, errXz
	}
	index := &byteReader{r: io.NewSectionReader(r, end-xzFooter-indexSize, indexSize)}
	if index.byte() != 0 {
		return 0, errXz
	}
	n := index.number()
	at := end - xzFooter - indexSize // the end of the blocks
	var sizes []int64
	for range n {
		if *blocks++; *blocks > maxXzBlocks {
			return 0, fmt.Errorf("more than %d blocks", maxXzBlocks)
		}
		unpadded := (index.number() + 3) &^ 3
		index.number() // of the expanded bytes
		if index.err != nil || unpadded == 0 || unpadded > uint64(at-xzHeader) {
			return 0, errXz
		}
		at -= int64(unpadded)
		sizes = append(sizes, int64(unpadded))
	}
	start := at - xzHeader
	if index.err != nil || start < 0 {
		return 0, errXz
	}
	for _, size := range sizes {
		if err := checkXzBlock(r, at); err != nil {
			return 0, err
		}
		at += size
	}
	return start, nil
}

// checkXzBlock looks at the header of a block (3.1), whose filters of LZMA2 say
// how large their dictionary is (5.3.1).
func checkXzBlock(r io.ReaderAt, at int64) error {
	b := &byteReader{r: io.NewSectionReader(r, at, 1024)}
	b.byte()
	flags := b.byte()
	for _, bit := range []byte{0x40, 0x80} {
		if flags&bit != 0 {
			b.number()
		}
	}
	for range int(flags&3) + 1 {
		id, n := b.number(), b.number()
		if b.err != nil || n > 64 {
			return errXz
		}
		for i := range n {
			bits := b.byte()
			if id != xzLZMA2 || i > 0 {
				continue
			}
			if bits > 40 || (2|uint64(bits)&1)<<(bits/2+11) > maxWindow {
				return fmt.Errorf("it demands a dictionary of more than %d MiB", maxWindow>>20)
			}
		}
	}
	return b.err
}

// byteReader reads the numbers of an xz file (1.2). Its first error stays.
type byteReader struct {
	r   *io.SectionReader
	buf bytes.Reader
	err error
}

func (b *byteReader) byte() byte {
	if b.err != nil {
		return 0
	}
	if b.buf.Len() == 0 {
		p := make([]byte, 1024)
		n, err := b.r.Read(p)
		if n == 0 {
			b.err = errXz
			if err != nil && !errors.Is(err, io.EOF) {
				b.err = err
			}
			return 0
		}
		b.buf.Reset(p[:n])
	}
	c, _ := b.buf.ReadByte()
	return c
}

func (b *byteReader) number() uint64 {
	var n uint64
	for shift := 0; shift < 63; shift += 7 {
		c := b.byte()
		n |= uint64(c&0x7f) << shift
		if c&0x80 == 0 {
			return n
		}
	}
	b.err = errXz
	return 0
}
