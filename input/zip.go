package input

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"
)

// The parts of a zip archive (PKWARE APPNOTE.TXT 6.3.10, 4.3): their signatures, and
// their lengths without what may vary.
const (
	zipLocal       = 0x04034b50 // 4.3.7
	zipLocalSize   = 30
	zipCentral     = 0x02014b50 // 4.3.12
	zipCentralSize = 46
	zipEnd64       = 0x06064b50 // 4.3.14
	zipEnd64Size   = 56
	zipLocator     = 0x07064b50 // 4.3.15
	zipLocatorSize = 20
	zipEnd         = 0x06054b50 // 4.3.16
	zipEndSize     = 22

	zipIn64   = 0xFFFFFFFF // 4.4.8: the value is in the ZIP64 field
	zipField  = 1          // 4.5.3: the header id of that field
	zipVaries = 0xFFFF     // the most bytes of a name, of extra fields, of a comment

	zipStored, zipDeflated = 0, 8 // 4.4.5

	// zipEncrypted, zipPatch and zipMasked are flags of what can't be expanded (4.4.4).
	zipEncrypted, zipPatch, zipMasked = 1 << 0, 1 << 5, 1 << 13
)

// Member is the only file in a zip archive, stored or deflated.
type Member struct {
	Name     string // as it stands there, which may be anything
	Deflated bool
	At       int64  // file offset of the stored bytes
	Stored   int64  // so many
	Expanded int64  // bytes of the file, as the archive says
	CRC      uint32 // of them (IEEE 802.3)
	Extra    []byte // extra fields of the archive's directory (4.5.1)

	r io.ReaderAt
}

// zipError says what an archive lacks.
func zipError(format string, args ...any) error {
	return fmt.Errorf("zip archive: "+format, args...)
}

// OneMember returns the file in a zip archive that holds just one which can be expanded.
// r is read again by what it returns.
func OneMember(r io.ReaderAt, size int64) (*Member, error) {
	z := zipFile{r, size}
	at, length, end, err := z.directory()
	if err != nil {
		return nil, err
	}
	if length < zipCentralSize || length > zipCentralSize+3*zipVaries || at < 0 || at > end-length {
		return nil, zipError("a directory of %d bytes at offset %#x, and the file has %d", length, at, size)
	}
	dir, err := z.bytes(at, int(length))
	if err != nil {
		return nil, err
	}
	m, local, err := memberOf(dir)
	if err != nil {
		return nil, err
	}
	if local < 0 || local > at-zipLocalSize {
		return nil, zipError("a member at offset %#x, behind the directory at %#x", local, at)
	}
	head, err := z.bytes(local, zipLocalSize)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if le.Uint32(head) != zipLocal {
		return nil, zipError("no member at offset %#x", local)
	}
	m.r, m.At = r, local+zipLocalSize+int64(le.Uint16(head[26:]))+int64(le.Uint16(head[28:]))
	if m.Stored > at-m.At {
		return nil, zipError("%d bytes at offset %#x run into the directory at %#x", m.Stored, m.At, at)
	}
	return m, nil
}

// zipFile is a file that is read as an archive.
type zipFile struct {
	r    io.ReaderAt
	size int64
}

// bytes returns n bytes at an offset.
func (z zipFile) bytes(at int64, n int) ([]byte, error) {
	if at < 0 || at > z.size-int64(n) {
		return nil, zipError("it ends before offset %#x", at+int64(n))
	}
	b := make([]byte, n)
	if got, err := z.r.ReadAt(b, at); got < n {
		return nil, fmt.Errorf("read a zip archive at offset %#x: %w", at, errors.Join(err, io.ErrUnexpectedEOF))
	}
	return b, nil
}

// errZipEnd says that an archive lacks its end.
var errZipEnd = zipError("its end is missing")

// end finds what ends the archive, and where.
func (z zipFile) end() (e []byte, at int64, err error) {
	tail, err := z.bytes(max(0, z.size-zipEndSize-zipVaries), int(min(z.size, zipEndSize+zipVaries)))
	if err != nil {
		return nil, 0, err
	}
	for i := len(tail) - zipEndSize; i >= 0; i-- {
		e := tail[i:]
		if binary.LittleEndian.Uint32(e) == zipEnd && int(binary.LittleEndian.Uint16(e[20:])) == len(e)-zipEndSize {
			return e, z.size - int64(len(e)), nil
		}
	}
	return nil, 0, errZipEnd
}

// directory finds the archive's directory: where it is, how long, and where what stands
// behind it begins. There must be one entry in it.
func (z zipFile) directory() (at, length, end int64, err error) {
	e, end, err := z.end()
	if err != nil {
		return 0, 0, 0, err
	}
	le := binary.LittleEndian
	disks, entries := uint64(le.Uint16(e[4:]))|uint64(le.Uint16(e[6:])), uint64(le.Uint16(e[10:]))
	n, off := uint64(le.Uint32(e[12:])), uint64(le.Uint32(e[16:]))
	if entries == 0xFFFF || n == zipIn64 || off == zipIn64 {
		if disks, entries, n, off, end, err = z.end64(end); err != nil {
			return 0, 0, 0, err
		}
	}
	switch {
	case disks != 0:
		return 0, 0, 0, zipError("it is one part of several")
	case entries != 1:
		return 0, 0, 0, zipError("%d files are in it", entries)
	case n > uint64(end) || off > uint64(end):
		return 0, 0, 0, zipError("a directory of %d bytes at offset %#x, and the file has %d", n, off, z.size)
	}
	return int64(off), int64(n), end, nil
}

// end64 reads the ZIP64 end, which a locator before the other end leads to.
func (z zipFile) end64(before int64) (disks, entries, n, off uint64, end int64, err error) {
	fail := func(err error) (_, _, _, _ uint64, _ int64, _ error) { return 0, 0, 0, 0, 0, err }
	le := binary.LittleEndian
	loc, err := z.bytes(before-zipLocatorSize, zipLocatorSize)
	if err != nil {
		return fail(err)
	}
	at := le.Uint64(loc[8:])
	if le.Uint32(loc) != zipLocator || at > uint64(before) {
		return fail(zipError("its ZIP64 end is missing"))
	}
	e, err := z.bytes(int64(at), zipEnd64Size)
	if err != nil {
		return fail(err)
	}
	if le.Uint32(e) != zipEnd64 {
		return fail(zipError("its ZIP64 end is missing"))
	}
	return uint64(le.Uint32(e[16:])) | uint64(le.Uint32(e[20:])), le.Uint64(e[32:]), le.Uint64(e[40:]), le.Uint64(e[48:]), int64(at), nil
}

// memberOf reads a directory of one entry. local is where the member stands.
func memberOf(dir []byte) (_ *Member, local int64, err error) {
	le := binary.LittleEndian
	flags, method := le.Uint16(dir[8:]), le.Uint16(dir[10:])
	name, extra, comment := int(le.Uint16(dir[28:])), int(le.Uint16(dir[30:])), int(le.Uint16(dir[32:]))
	if le.Uint32(dir) != zipCentral || len(dir) != zipCentralSize+name+extra+comment {
		return nil, 0, zipError("its directory is damaged")
	}
	rest := dir[zipCentralSize:]
	m := &Member{Name: string(rest[:name]), Extra: bytes.Clone(rest[name : name+extra]), CRC: le.Uint32(dir[16:]), Deflated: method == zipDeflated}
	sizes := []uint64{uint64(le.Uint32(dir[24:])), uint64(le.Uint32(dir[20:])), uint64(le.Uint32(dir[42:]))} // in the order of 4.5.3
	in64 := ExtraField(m.Extra, zipField)
	for i := range sizes {
		if sizes[i] != zipIn64 {
			continue
		}
		if len(in64) < 8 {
			return nil, 0, zipError("its ZIP64 field is missing")
		}
		sizes[i], in64 = le.Uint64(in64), in64[8:]
	}
	m.Expanded, m.Stored, local = int64(sizes[0]), int64(sizes[1]), int64(sizes[2])
	switch {
	case flags&(zipEncrypted|zipPatch|zipMasked) != 0:
		return nil, 0, zipError("what is in it is encrypted, or a patch")
	case method != zipStored && method != zipDeflated:
		return nil, 0, zipError("compression method %d", method)
	case m.Expanded < 0 || m.Expanded > maxExpanded || m.Stored < 0 || !m.Deflated && m.Stored != m.Expanded:
		return nil, 0, zipError("%d bytes in %d", sizes[0], sizes[1])
	}
	return m, local, nil
}

// ExtraField returns what extra fields hold under a header id, nil if nothing or if they
// are cut short.
func ExtraField(extra []byte, id uint16) []byte {
	for len(extra) >= 4 {
		n := int(binary.LittleEndian.Uint16(extra[2:]))
		if n > len(extra)-4 {
			return nil
		}
		if binary.LittleEndian.Uint16(extra) == id {
			return extra[4 : 4+n]
		}
		extra = extra[4+n:]
	}
	return nil
}

// Open returns the file in the archive, from its start. At its end the length and the
// checksum are verified.
func (m *Member) Open() io.ReadCloser {
	in := io.NewSectionReader(m.r, m.At, m.Stored)
	if !m.Deflated {
		return &memberReader{ReadCloser: io.NopCloser(in), m: m}
	}
	return &memberReader{ReadCloser: flate.NewReader(in), m: m}
}

type memberReader struct {
	io.ReadCloser
	m   *Member
	at  int64
	crc uint32
}

func (r *memberReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.at += int64(n)
	r.crc = crc32.Update(r.crc, crc32.IEEETable, p[:n])
	switch {
	case r.at > r.m.Expanded:
		return n, zipError("it holds more than the %d bytes that it says", r.m.Expanded)
	case !errors.Is(err, io.EOF):
	case r.at < r.m.Expanded:
		return n, io.ErrUnexpectedEOF
	case r.crc != r.m.CRC:
		return n, zipError("checksum %#08x; its directory says %#08x", r.crc, r.m.CRC)
	}
	return n, err
}
