package input

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// guestMagics begin the files of a guest's memory that snap reads, but those of
// Windows.
var guestMagics = []string{"\x7fELF", "KDUMP   ", "makedumpfile\x00", "EMiL", "AVML"}

// holdsGuest reports whether a file is one of a guest's memory by its first bytes.
func (p *probe) holdsGuest() bool {
	for _, magic := range append(guestMagics, signature32, signature64) {
		if p.has(0, magic) {
			return true
		}
	}
	return false
}

// partialName is how snap calls a file of its own until it is whole (package store).
var partialName = regexp.MustCompile(`\.partial-[A-Za-z0-9]+$`)

// unfinished is a file that snap calls so, unless it is what only others write.
func unfinished(p *probe) bool {
	return partialName.MatchString(p.name) && !slices.ContainsFunc(guestMagics, func(m string) bool { return p.has(0, m) })
}

// bzip2 has a digit for the size of its blocks, and then the first block's mark or
// that of the end (the format has no other specification than its source).
func bzip2(p *probe) bool {
	return starts("BZh")(p) && (p.has(4, "1AY&SY") || p.has(4, "\x17rE8P\x90"))
}

// aff4 is a zip archive in which the first things speak of AFF4 (AFF4 standard
// 1.0, chapter 4).
func aff4(p *probe) bool {
	return starts("PK\x03\x04")(p) && (p.within("aff4://") || p.within("container.description") || p.within("http://aff4.org"))
}

// zipCut is a zip archive without what ends it.
func zipCut(p *probe) bool {
	if !starts("PK\x03\x04")(p) {
		return false
	}
	_, _, err := zipFile{p.r, p.size}.end()
	return errors.Is(err, errZipEnd)
}

// partitions is a master boot record: its mark, and four entries each of which is
// empty or begins with one of the two bytes that it may (UEFI specification 5.2.1).
func partitions(p *probe) bool {
	const table, entry = 446, 16
	if !p.has(510, "\x55\xaa") || p.holdsGuest() {
		return false
	}
	used := 0
	for i := range 4 {
		e := p.head[table+entry*i:][:entry]
		switch {
		case bytes.Equal(e, make([]byte, entry)):
		case (e[0] == 0 || e[0] == 0x80) && e[4] != 0 && binary.LittleEndian.Uint32(e[12:]) > 0:
			used++
		default:
			return false
		}
	}
	return used > 0
}

// vmem is raw memory as VMware keeps it. Only its name, and the state beside it,
// tell.
func vmem(p *probe) bool {
	stem, ok := strings.CutSuffix(p.name, ".vmem")
	if !ok || p.size%4096 != 0 {
		return false
	}
	for _, suffix := range []string{".vmss", ".vmsn"} {
		if _, err := os.Stat(stem + suffix); err == nil {
			return true
		}
	}
	return false
}

// windowsProgram is a DOS header that leads to a PE header (PE format, 3.1).
func windowsProgram(p *probe) bool {
	if !starts("MZ")(p) || len(p.head) < 64 {
		return false
	}
	return p.has(int64(binary.LittleEndian.Uint32(p.head[0x3c:])), "PE\x00\x00")
}

// manifestOf is a document as snap puts it beside a dump.
func manifestOf(p *probe) bool {
	return bytes.HasPrefix(bytes.TrimSpace(p.head), []byte("{")) && p.within(`"snap"`) && p.within(`"domain"`)
}

// text is a text: UTF-8 with no control characters but those of texts.
func text(p *probe) bool {
	for at := 0; at < len(p.head); {
		r, n := utf8.DecodeRune(p.head[at:])
		cut := int64(len(p.head)) < p.size && !utf8.FullRune(p.head[at:])
		if cut {
			break
		}
		if r == utf8.RuneError && n < 2 || r < ' ' && !strings.ContainsRune("\n\r\t\f\x1b", r) || r == 0x7f {
			return false
		}
		at += n
	}
	return len(p.head) > 0
}

// maxZeros is how much of a file is looked at to tell that it is empty of content.
const maxZeros = 1 << 20

// zeros is a file that begins with a MiB of zeros, or has nothing else.
func zeros(p *probe) bool {
	n := int(min(p.size, maxZeros))
	b := p.bytes(0, n)
	return b != nil && n > 0 && bytes.Count(b, []byte{0}) == n
}
