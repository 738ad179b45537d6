package dump

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"

	"snap/phys"
)

// A gzip file is a series of members (RFC 1952 2.2). Each of ours says in an
// extra field (RFC 1952 2.3.1.1) how long it is, header and trailer included,
// so that the next one is found without expanding anything, as BGZF has it for
// members of up to 64 KiB (SAM specification 4.1):
//
//	00  1F 8B 08        gzip, deflate
//	03  04              FEXTRA and no other flag
//	04  MTIME, XFL, OS  6 bytes
//	0A  08 00           length of the extra field
//	0C  'S' 'P' 04 00   subfield of 4 bytes
//	10  length of the member, 32 bits
//	14  deflate stream
//	-8  CRC-32, and the length of the expanded bytes
const (
	memberHeader  = 0x14
	memberExtraAt = 0x0A
	memberSizeAt  = 0x10
	memberTrailer = 8
	memberMin     = memberHeader + 2 + memberTrailer // no deflate stream has less than 2 bytes

	// deflateMost is the highest ratio that deflate reaches: 258 bytes for two
	// bits (RFC 1951 3.2.5).
	deflateMost = 1032
)

var (
	gzipMagic   = []byte{0x1f, 0x8b}       // RFC 1952 2.3.1
	memberMagic = []byte{0x1f, 0x8b, 8, 4} // deflate, an extra field, nothing else
	memberExtra = []byte{8, 0, 'S', 'P', 4, 0}
)

// memberField returns the extra field of a member that is not yet made.
func memberField() []byte { return append(bytes.Clone(memberExtra[2:]), 0, 0, 0, 0) }

// sealMember writes a member's length into its extra field.
func sealMember(member []byte) {
	binary.LittleEndian.PutUint32(member[memberSizeAt:], uint32(len(member)))
}

// memberSize returns the length that a member's header gives, and false if it
// is not one of ours.
func memberSize(head []byte) (uint32, bool) {
	ours := len(head) >= memberHeader && bytes.HasPrefix(head, memberMagic) && bytes.HasPrefix(head[memberExtraAt:], memberExtra)
	if !ours {
		return 0, false
	}
	return binary.LittleEndian.Uint32(head[memberSizeAt:]), true
}

// readMembers finds all members of a file of size bytes, nil where the first is
// not one of ours. A member in which the chain breaks is an error.
func readMembers(r io.ReaderAt, size int64) (*frameTable, error) {
	w := window{r: r, size: size}
	head, err := w.bytes(0, memberHeader)
	if err != nil {
		return nil, err
	}
	if _, ours := memberSize(head); !ours {
		return nil, nil
	}
	return newFrameTable(size, func(from place, use func(place, frameRef) (bool, error)) error {
		w := window{r: r, size: size}
		for at := from.at; at < size; {
			f, err := w.member(at)
			if err != nil {
				return err
			}
			if more, err := use(place{at: at}, f); err != nil || !more {
				return err
			}
			at += int64(f.stored)
		}
		return nil
	})
}

// member looks at the ends of the member at a file offset.
func (w *window) member(at int64) (frameRef, error) {
	head, err := w.bytes(at, memberHeader)
	if err != nil {
		return frameRef{}, err
	}
	n, ours := memberSize(head)
	switch {
	case !ours:
		return frameRef{}, formatError(at, "gzip", "no member with its length begins here")
	case n < memberMin || int64(n) > w.size-at:
		return frameRef{}, formatError(at, "gzip", "a member of %d bytes; the file has %d", n, w.size-at)
	}
	tail, err := w.bytes(at+int64(n)-4, 4)
	if err != nil {
		return frameRef{}, err
	}
	f := frameRef{at: at, entry: entry{stored: n, expanded: binary.LittleEndian.Uint32(tail)}}
	if f.expanded%phys.PageSize != 0 || uint64(f.expanded) > uint64(n)*deflateMost {
		return frameRef{}, formatError(at+int64(n)-4, "gzip", "%d bytes in a member of %d", f.expanded, n)
	}
	return f, nil
}

// window reads small parts of a file with growing offsets, some at a time.
type window struct {
	r    io.ReaderAt
	size int64
	at   int64
	buf  []byte // what the file holds at at
}

// windowSize holds the end of one member and the start of the next, and enough
// members of a file that has nothing but the smallest.
const windowSize = 512

// bytes returns n bytes at a file offset, valid until the next call. They are
// fewer at the end of the file.
func (w *window) bytes(at int64, n int) ([]byte, error) {
	n = int(min(int64(n), w.size-at))
	if at < w.at || at+int64(n) > w.at+int64(len(w.buf)) {
		if w.buf == nil {
			w.buf = make([]byte, windowSize)
		}
		w.at, w.buf = at, w.buf[:min(windowSize, w.size-at)]
		if err := readFull(w.r, w.buf, at); err != nil {
			return nil, fmt.Errorf("read gzip members at file offset %#x: %w", at, err)
		}
	}
	return w.buf[at-w.at:][:n], nil
}

// memberExpander expands gzip members.
type memberExpander struct{ readers sync.Pool } // of *gzip.Reader

func (e *memberExpander) expand(dst, src []byte, f frameRef) ([]byte, error) {
	return e.decode(dst, src, int(f.expanded))
}

// decode implements decoder.
func (e *memberExpander) decode(dst, src []byte, n int) ([]byte, error) {
	in := bytes.NewReader(src)
	z, _ := e.readers.Get().(*gzip.Reader)
	if z == nil {
		z = new(gzip.Reader)
	}
	defer e.readers.Put(z)
	if err := z.Reset(in); err != nil {
		return nil, err
	}
	z.Multistream(false)
	if cap(dst) < n {
		dst = make([]byte, n)
	}
	p := dst[:n]
	if _, err := io.ReadFull(z, p); err != nil {
		return nil, err
	}
	// The end of the member is where its checksum is verified.
	switch more, err := z.Read(make([]byte, 1)); {
	case more > 0:
		return nil, fmt.Errorf("expands to more than the %d bytes that it says", n)
	case !errors.Is(err, io.EOF):
		return nil, err
	case in.Len() > 0:
		return nil, fmt.Errorf("%d bytes are left behind it", in.Len())
	}
	return p, nil
}
