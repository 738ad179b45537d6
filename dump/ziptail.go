package dump

import (
	"encoding/binary"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What an archive is made of (PKWARE APPNOTE.TXT 6.3.10, 4.3): one member, whose length
// and checksum stand behind it, as they aren't known before; the directory of that one,
// and what ends the archive.
const (
	zipLocal      = 0x04034b50 // 4.3.7
	zipDescriptor = 0x08074b50 // 4.3.9
	zipCentral    = 0x02014b50 // 4.3.12
	zipEnd64      = 0x06064b50 // 4.3.14
	zipLocator    = 0x07064b50 // 4.3.15
	zipEnd        = 0x06054b50 // 4.3.16

	zipVersion, zipVersion64 = 20, 45 // 4.4.3.2: to extract deflated files, and ZIP64
	zipMadeBy                = 3<<8 | zipVersion64
	zipDeflated              = 8               // 4.4.5
	zipBehind, zipUTF8       = 1 << 3, 1 << 11 // 4.4.4: sizes stand behind the member; its name is UTF-8
	zipDate                  = 1<<5 | 1        // 1980-01-01, in MS-DOS format: the same dump is the same file
	zipMode                  = 0o100600 << 16  // a regular file that is its owner's (unix)
	zip64Field               = 1               // 4.5.3
	zipIn64                  = 1<<32 - 1       // 4.4.8: the value stands in that field
)

// zipTail is the archive around the frames.
type zipTail struct {
	name  string
	in64  bool // sizes may need ZIP64
	crc   uint32
	index zipIndex

	stored, expanded uint64
}

func newZipTail(o Options, size, head uint64) *zipTail {
	frames := ceilDiv(size, uint64(o.FrameSize)) + 2
	most := size + size/128 + 1024*frames // see storedBound
	return &zipTail{
		name: memberName(o.Name), in64: most >= zipIn64,
		index: zipIndex{frameSize: uint32(o.FrameSize), header: uint32(head)},
	}
}

// begin implements tail.
func (t *zipTail) begin() []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, zipLocal)
	b = t.appendCommon(b)
	b = le.AppendUint32(b, 0) // checksum and sizes stand behind
	var extra []byte
	size := uint32(0)
	if t.in64 {
		// The field says that they are of 64 bits there (4.3.9.2).
		extra = appendField(nil, zip64Field, make([]byte, 16))
		size = zipIn64
	}
	b = le.AppendUint32(b, size)
	b = le.AppendUint32(b, size)
	b = le.AppendUint16(b, uint16(len(t.name)))
	b = le.AppendUint16(b, uint16(len(extra)))
	b = append(b, t.name...)
	return append(b, extra...)
}

// appendCommon appends what the member's header and the directory have in common: the
// version that is needed, flags, method and time.
func (t *zipTail) appendCommon(b []byte) []byte {
	le := binary.LittleEndian
	version, flags := uint16(zipVersion), uint16(zipBehind)
	if t.in64 {
		version = zipVersion64
	}
	if strings.ContainsFunc(t.name, func(r rune) bool { return r > unicode.MaxASCII }) {
		flags |= zipUTF8
	}
	b = le.AppendUint16(b, version)
	b = le.AppendUint16(b, flags)
	b = le.AppendUint16(b, zipDeflated)
	b = le.AppendUint16(b, 0) // time
	return le.AppendUint16(b, zipDate)
}

// frame implements tail.
func (t *zipTail) frame(stored []byte, expanded int, sum uint32) {
	t.stored += uint64(len(stored))
	t.expanded += uint64(expanded)
	t.crc = crcJoin(t.crc, sum, uint64(expanded))
	t.index.add(uint64(len(stored)))
}

// end implements tail.
func (t *zipTail) end(write func([]byte) error) error {
	le := binary.LittleEndian
	b := append([]byte(nil), deflateEnd...)
	t.stored += uint64(len(deflateEnd))
	b = le.AppendUint32(b, zipDescriptor)
	b = le.AppendUint32(b, t.crc)
	if t.in64 {
		b = le.AppendUint64(b, t.stored)
		b = le.AppendUint64(b, t.expanded)
	} else {
		b = le.AppendUint32(b, uint32(t.stored))
		b = le.AppendUint32(b, uint32(t.expanded))
	}
	at := uint64(len(t.begin())) + t.stored + uint64(len(b)-len(deflateEnd))
	dir := t.directory()
	b = append(b, dir...)
	return write(t.appendEnd(b, at, uint64(len(dir))))
}

// directory returns the directory of the archive.
func (t *zipTail) directory() []byte {
	le := binary.LittleEndian
	stored, expanded := uint32(t.stored), uint32(t.expanded)
	var extra []byte
	if t.in64 {
		extra = appendField(nil, zip64Field, le.AppendUint64(le.AppendUint64(nil, t.expanded), t.stored))
		stored, expanded = zipIn64, zipIn64
	}
	if index := t.index.encode(); index != nil {
		extra = appendField(extra, zipIndexField, index)
	}
	b := le.AppendUint32(nil, zipCentral)
	b = le.AppendUint16(b, zipMadeBy)
	b = t.appendCommon(b)
	b = le.AppendUint32(b, t.crc)
	b = le.AppendUint32(b, stored)
	b = le.AppendUint32(b, expanded)
	b = le.AppendUint16(b, uint16(len(t.name)))
	b = le.AppendUint16(b, uint16(len(extra)))
	b = append(b, make([]byte, 6)...) // no comment, the first disk, not a text
	b = le.AppendUint32(b, zipMode)
	b = le.AppendUint32(b, 0) // where the member stands
	b = append(b, t.name...)
	return append(b, extra...)
}

// appendEnd appends what ends an archive whose directory is n bytes at offset at.
func (t *zipTail) appendEnd(b []byte, at, n uint64) []byte {
	le := binary.LittleEndian
	off := uint32(zipIn64)
	if at < zipIn64 {
		off = uint32(at)
	} else {
		b = le.AppendUint32(b, zipEnd64)
		b = le.AppendUint64(b, 44) // bytes that follow
		b = le.AppendUint16(b, zipMadeBy)
		b = le.AppendUint16(b, zipVersion64)
		b = append(b, make([]byte, 8)...) // the first disk
		b = le.AppendUint64(b, 1)         // entries, on this disk and in all
		b = le.AppendUint64(b, 1)
		b = le.AppendUint64(b, n)
		b = le.AppendUint64(b, at)
		b = le.AppendUint32(b, zipLocator)
		b = le.AppendUint32(b, 0)
		b = le.AppendUint64(b, at+n)
		b = le.AppendUint32(b, 1) // disks
	}
	b = le.AppendUint32(b, zipEnd)
	b = append(b, 0, 0, 0, 0, 1, 0, 1, 0)
	b = le.AppendUint32(b, uint32(n))
	b = le.AppendUint32(b, off)
	return append(b, 0, 0) // no comment
}

// appendField appends an extra field (4.5.1).
func appendField(b []byte, id uint16, p []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, id)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(p)))
	return append(b, p...)
}

// maxMemberName is the most bytes of the name of the dump in an archive, its ending
// included: file systems that it may be expanded on take 255.
const maxMemberName = 200

// memberName is what the dump is called in the archive of that name: what Windows can't
// have in a name is replaced.
func memberName(archive string) string {
	name := archive
	for _, ending := range []string{".age", ".zip", ".dmp"} {
		if n := len(name) - len(ending); n >= 0 && strings.EqualFold(name[n:], ending) {
			name = name[:n]
		}
	}
	name = strings.Map(func(r rune) rune {
		if r < ' ' || r == utf8.RuneError || !unicode.IsPrint(r) || strings.ContainsRune(`/\:*?"<>|`, r) {
			return '_'
		}
		return r
	}, name)
	name = strings.TrimLeft(name, ".- ")
	if most := maxMemberName - len(".dmp"); len(name) > most {
		name = strings.ToValidUTF8(name[:most], "")
	}
	if name = strings.TrimRight(name, ". "); name == "" {
		name = "memory"
	}
	if deviceName(name) {
		name = "_" + name
	}
	return name + ".dmp"
}

// deviceName reports whether Windows takes a name for that of a device, whatever its
// ending is (Naming Files, Paths, and Namespaces).
func deviceName(name string) bool {
	name, _, _ = strings.Cut(strings.ToUpper(name), ".")
	switch name {
	case "CON", "PRN", "AUX", "NUL":
		return true
	}
	return len(name) == 4 && (strings.HasPrefix(name, "COM") || strings.HasPrefix(name, "LPT")) && name[3] >= '0' && name[3] <= '9'
}
