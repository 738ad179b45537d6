package guest

import (
	"bytes"
	"context"
	"fmt"

	"snap/phys"
)

// Machines of a PE image (IMAGE_FILE_MACHINE_*, Microsoft PE format).
const (
	MachineAMD64 = 0x8664
	MachineARM64 = 0xAA64
	MachineI386  = 0x014C
)

// Offsets in the headers of an image (Microsoft PE format; winnt.h).
const (
	peMagicMZ      = 0x5A4D
	peMagicPE      = 0x0000_4550
	dosLfanew      = 0x3C
	dosHeaderSize  = 0x40
	coffAt         = 4 // after the PE signature
	coffSize       = 20
	optAt          = coffAt + coffSize
	dirExport      = 0
	dirDebug       = 6
	dirEntrySize   = 8
	sectionSize    = 40
	maxDirectories = 16
)

// imageLayout is what of an image's headers differs between machines of 32 and of 64
// bits.
type imageLayout struct {
	name     string
	magic    uint16 // of the optional header
	optional int    // bytes of it up to the data directories, whose count ends it
}

var (
	imagePE32     = imageLayout{"PE32", 0x10B, 96}
	imagePE32Plus = imageLayout{"PE32+", 0x20B, 112}
)

// Bounds on what an image may claim.
const (
	maxLfanew    = phys.PageSize - 0x200 // the headers begin in the first page
	maxSections  = 96                    // the Windows loader's own limit
	maxImageSize = 256 << 20
)

// Image is a PE image as it is mapped in memory: its headers, read once,
// and its directories, read when they are asked for.
type Image struct {
	Base          phys.VirtAddr
	Machine       uint16
	Size          uint32 // SizeOfImage, bytes
	TimeDateStamp uint32
	EntryPoint    phys.VirtAddr
	Sections      []Section

	mem         VirtReader
	exports     directory
	debug       directory
	headerBytes uint32
}

// Section is an entry of an image's section table.
type Section struct {
	Name            string
	VirtualAddress  uint32 // relative to the image's base
	VirtualSize     uint32
	Characteristics uint32 // IMAGE_SCN_*
}

// directory is a data directory: an address relative to the base, and a size.
type directory struct{ rva, size uint32 }

func (d directory) holds(rva uint32) bool { return rva >= d.rva && rva-d.rva < d.size }

// ReadImage reads the headers of the PE image mapped at base, of the form that kernels
// and drivers have on the architecture of mem: PE32+, or PE32 on x86. It fails with
// ErrMalformed on what isn't one.
func ReadImage(ctx context.Context, mem VirtReader, base phys.VirtAddr) (*Image, error) {
	const what = "PE image"
	if base.Offset() != 0 {
		return nil, malformed(what, base, "not page aligned")
	}
	page, err := readRecord(ctx, mem, what, base, phys.PageSize)
	if err != nil {
		return nil, err
	}
	lfanew, ok := peOffset(page.b)
	if !ok {
		return nil, malformed(what, base, "no MZ and PE signature")
	}
	im := &Image{Base: base, mem: mem}
	sections, count, err := im.parseHeaders(page, lfanew)
	if err != nil {
		return nil, err
	}
	if err := im.readSections(ctx, sections, count); err != nil {
		return nil, err
	}
	return im, nil
}

// peOffset returns where the PE signature is in the first page of an image,
// and false if the page doesn't begin one.
func peOffset(page []byte) (int, bool) {
	r := record{b: page}
	if r.u16(0) != peMagicMZ {
		return 0, false
	}
	lfanew := r.u32(dosLfanew)
	if r.err != nil || lfanew < dosHeaderSize || lfanew > maxLfanew || lfanew%4 != 0 {
		return 0, false
	}
	return int(lfanew), r.u32(int(lfanew)) == peMagicPE && r.err == nil
}

// parseHeaders fills im from its first page and returns where the section
// table is, relative to the base, and how many entries it has.
func (im *Image) parseHeaders(page *record, pe int) (sections, count int, err error) {
	opt, layout := pe+optAt, &page.arch.image
	im.Machine = page.u16(pe + coffAt)
	count = int(page.u16(pe + coffAt + 2))
	im.TimeDateStamp = page.u32(pe + coffAt + 4)
	optSize := int(page.u16(pe + coffAt + 16))
	magic := page.u16(opt)
	entry := page.u32(opt + 16)
	im.Size = page.u32(opt + 56)
	im.headerBytes = page.u32(opt + 60)
	dirs := min(int(page.u32(opt+layout.optional-4)), maxDirectories)
	if page.err != nil {
		return 0, 0, page.err
	}
	switch {
	case magic != layout.magic:
		return 0, 0, malformed(page.what, im.Base, "optional header magic %#x, not %s", magic, layout.name)
	case optSize < layout.optional:
		return 0, 0, malformed(page.what, im.Base, "optional header of %d bytes", optSize)
	case count == 0 || count > maxSections:
		return 0, 0, malformed(page.what, im.Base, "%d sections", count)
	case im.Size < phys.PageSize || im.Size > maxImageSize:
		return 0, 0, malformed(page.what, im.Base, "size %#x", im.Size)
	case entry >= im.Size:
		return 0, 0, malformed(page.what, im.Base, "entry point %#x outside the image", entry)
	}
	if end, ok := im.Base.Add(uint64(im.Size)); !ok && end != 0 || (end-1).Kernel() != im.Base.Kernel() {
		return 0, 0, malformed(page.what, im.Base, "size %#x leaves the address space", im.Size)
	}
	im.EntryPoint = im.Base + phys.VirtAddr(entry)
	dirs = min(dirs, (optSize-layout.optional)/dirEntrySize)
	im.exports = im.directory(page, opt+layout.optional, dirExport, dirs)
	im.debug = im.directory(page, opt+layout.optional, dirDebug, dirs)
	return opt + optSize, count, page.err
}

// directory returns data directory i if the image has it and it lies inside.
func (im *Image) directory(page *record, table, i, have int) directory {
	if i >= have {
		return directory{}
	}
	at := table + i*dirEntrySize
	d := directory{page.u32(at), page.u32(at + 4)}
	if d.rva > im.Size || d.size > im.Size-d.rva {
		return directory{}
	}
	return d
}

// readSections reads the section table, which may reach past the first page.
func (im *Image) readSections(ctx context.Context, at, count int) error {
	const what = "section table"
	if uint32(at+count*sectionSize) > im.Size {
		return malformed(what, im.Base, "ends outside the image")
	}
	t, err := readRecord(ctx, im.mem, what, im.Base+phys.VirtAddr(at), count*sectionSize)
	if err != nil {
		return err
	}
	for i := range count {
		o := i * sectionSize
		s := Section{
			Name:            cString(t.bytes(o, 8)),
			VirtualSize:     t.u32(o + 8),
			VirtualAddress:  t.u32(o + 12),
			Characteristics: t.u32(o + 36),
		}
		if s.VirtualAddress > im.Size || s.VirtualSize > im.Size-s.VirtualAddress {
			return malformed(what, im.Base, "section %d (%q) lies outside the image", i, s.Name)
		}
		im.Sections = append(im.Sections, s)
	}
	return t.err
}

// Holds reports whether the n bytes at va lie inside the image.
func (im *Image) Holds(va phys.VirtAddr, n uint64) bool {
	off := uint64(va - im.Base)
	return va >= im.Base && off <= uint64(im.Size) && n <= uint64(im.Size)-off
}

// record reads n bytes at rva if they lie inside the image.
func (im *Image) record(ctx context.Context, what string, rva uint32, n int) (*record, error) {
	if n < 0 || rva > im.Size || uint64(n) > uint64(im.Size-rva) {
		return nil, malformed(what, im.Base, "%#x+%#x lies outside the image", rva, n)
	}
	return readRecord(ctx, im.mem, what, im.Base+phys.VirtAddr(rva), n)
}

// text reads a NUL-terminated string of at most limit bytes at rva. It reads
// no page before it is needed: the next one may not be in memory.
func (im *Image) text(ctx context.Context, what string, rva uint32, limit int) (string, error) {
	var out []byte
	for len(out) < limit && rva < im.Size {
		n := min(limit-len(out), phys.PageSize-int(rva%phys.PageSize), int(im.Size-rva), 64)
		r, err := im.record(ctx, what, rva, n)
		if err != nil {
			return "", err
		}
		if i := bytes.IndexByte(r.b, 0); i >= 0 {
			return string(append(out, r.b[:i]...)), nil
		}
		out = append(out, r.b...)
		rva += uint32(n)
	}
	return "", fmt.Errorf("read %s: %w", what,
		malformed(what, im.Base+phys.VirtAddr(rva), "text does not end within %d bytes", limit))
}

// cString returns b up to its first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
