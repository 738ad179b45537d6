package ntlab

import (
	"slices"
	"strings"

	"snap/phys"
)

// peImage is a PE image as the loader leaves it in memory. Layout of the
// structures: Microsoft PE format documentation.
type peImage struct {
	name        string // in the export directory; empty: exports nothing
	base        phys.VirtAddr
	machine     *machine // nil: 64 bits
	size        uint32   // SizeOfImage
	sections    []section
	entry       uint32 // RVA
	timestamp   uint32
	dll         bool
	exportRVA   uint32 // where the export directory goes
	exports     map[string]uint32
	debugRVA    uint32 // where the debug directory goes
	pdb         string
	guid        [16]byte
	age         uint32
	osMajor     uint16
	osMinor     uint16
	exportBytes uint32 // set by write: size of the export directory
}

const (
	peHeaderAt   = 0xF8
	peOptional   = 0xF0 // SizeOfOptionalHeader of PE32+
	peMachine    = 0x8664
	peSignature  = 0x00004550
	pe32Plus     = 0x20B
	peSectionLen = 40
	rsdsTag      = 0x53445352
)

// headers returns the first bytes of the image: DOS header to section table.
func (pe *peImage) headers() []byte {
	m := pe.machine
	if m == nil {
		m = &machine64
	}
	h := make([]byte, 0x1000)
	copy(h, "MZ\x90\x00\x03\x00\x00\x00\x04\x00\x00\x00\xff\xff\x00\x00\xb8")
	h[0x18] = 0x40
	copy(h[0x4E:], "This program cannot be run in DOS mode.\r\r\n$")
	le.PutUint32(h[0x3C:], peHeaderAt)

	f := h[peHeaderAt:]
	le.PutUint32(f, peSignature)
	le.PutUint16(f[4:], m.pe)
	le.PutUint16(f[6:], uint16(len(pe.sections)))
	le.PutUint32(f[8:], pe.timestamp)
	le.PutUint16(f[0x14:], uint16(m.peOptional))
	characteristics := uint16(0x0022) // executable, large addresses
	if pe.dll {
		characteristics |= 0x2000
	}
	le.PutUint16(f[0x16:], characteristics)

	o := f[0x18:]
	le.PutUint16(o, m.peMagic)
	o[2], o[3] = 14, 20
	le.PutUint32(o[0x10:], pe.entry)
	le.PutUint32(o[0x14:], pe.sections[0].rva)
	le.PutUint32(o[m.peBase:], uint32(pe.base)) // the loader writes the real base here
	if m.word == 8 {
		le.PutUint32(o[m.peBase+4:], uint32(pe.base>>32))
	}
	le.PutUint32(o[0x20:], 0x1000)
	le.PutUint32(o[0x24:], 0x200)
	le.PutUint16(o[0x28:], pe.osMajor)
	le.PutUint16(o[0x2A:], pe.osMinor)
	le.PutUint16(o[0x30:], pe.osMajor)
	le.PutUint16(o[0x32:], pe.osMinor)
	le.PutUint32(o[0x38:], pe.size)
	le.PutUint32(o[0x3C:], 0x800) // SizeOfHeaders
	le.PutUint32(o[0x40:], pe.timestamp^0x5A17)
	le.PutUint16(o[0x44:], 1) // native
	dir := o[m.peOptional-16*8:]
	le.PutUint32(o[m.peOptional-16*8-4:], 16)
	if pe.name != "" {
		le.PutUint32(dir, pe.exportRVA)
		le.PutUint32(dir[4:], pe.exportBytes)
	}
	if pe.pdb != "" {
		le.PutUint32(dir[6*8:], pe.debugRVA)
		le.PutUint32(dir[6*8+4:], 0x1C)
	}
	for i, s := range pe.sections {
		t := o[m.peOptional+i*peSectionLen:]
		copy(t[:8], s.name)
		le.PutUint32(t[0x8:], s.size)
		le.PutUint32(t[0xC:], s.rva)
		le.PutUint32(t[0x10:], s.size&^0x1ff)
		le.PutUint32(t[0x14:], s.rva)
		le.PutUint32(t[0x24:], s.flags)
	}
	return h
}

// exportDirectory returns the directory, its arrays and strings, which lie
// one after the other from exportRVA on. Names are sorted by bytes; ordinals
// follow an order of their own, as linkers leave them.
func (pe *peImage) exportDirectory(r *rng) []byte {
	names := make([]string, 0, len(pe.exports))
	for n := range pe.exports {
		names = append(names, n)
	}
	slices.Sort(names)
	n := uint32(len(names))
	order := make([]uint16, n)
	for i := range order {
		order[i] = uint16(i)
	}
	r.shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })

	functions := uint32(0x28)
	nameTable := functions + 4*n
	ordinals := nameTable + 4*n
	at := ordinals + 2*n
	var text strings.Builder
	put := func(s string) uint32 {
		rva := pe.exportRVA + at
		text.WriteString(s + "\x00")
		at += uint32(len(s)) + 1
		return rva
	}
	d := make([]byte, at)
	le.PutUint32(d[0x04:], pe.timestamp)
	le.PutUint32(d[0x0C:], put(pe.name))
	le.PutUint32(d[0x10:], 1) // ordinal base
	le.PutUint32(d[0x14:], n)
	le.PutUint32(d[0x18:], n)
	le.PutUint32(d[0x1C:], pe.exportRVA+functions)
	le.PutUint32(d[0x20:], pe.exportRVA+nameTable)
	le.PutUint32(d[0x24:], pe.exportRVA+ordinals)
	for i, name := range names {
		le.PutUint32(d[nameTable+4*uint32(i):], put(name))
		le.PutUint16(d[ordinals+2*uint32(i):], order[i])
		le.PutUint32(d[functions+4*uint32(order[i]):], pe.exports[name])
	}
	return append(d, text.String()...)
}

// debugDirectory returns an IMAGE_DEBUG_DIRECTORY of type CodeView and, right
// after it, the RSDS record that it names.
func (pe *peImage) debugDirectory() []byte {
	const dir = 0x1C
	record := 0x18 + len(pe.pdb) + 1
	d := make([]byte, dir+record)
	le.PutUint32(d[0x04:], pe.timestamp)
	le.PutUint32(d[0x0C:], 2) // IMAGE_DEBUG_TYPE_CODEVIEW
	le.PutUint32(d[0x10:], uint32(record))
	le.PutUint32(d[0x14:], pe.debugRVA+dir)
	le.PutUint32(d[0x18:], pe.debugRVA+dir)
	c := d[dir:]
	le.PutUint32(c, rsdsTag)
	copy(c[4:], pe.guid[:])
	le.PutUint32(c[0x14:], pe.age)
	copy(c[0x18:], pe.pdb)
	return d
}

// placePE writes the image, which must be mapped already.
func (b *builder) placePE(pe *peImage, r *rng) {
	pe.machine = b.machine()
	if pe.name != "" {
		d := pe.exportDirectory(r)
		pe.exportBytes = uint32(len(d))
		b.put(pe.base+phys.VirtAddr(pe.exportRVA), d)
	}
	if pe.pdb != "" {
		b.put(pe.base+phys.VirtAddr(pe.debugRVA), pe.debugDirectory())
	}
	b.put(pe.base, pe.headers())
}
