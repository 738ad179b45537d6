package ntlab

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"snap/phys"
)

// driverFile is a driver on its way into memory. Layouts: Microsoft PE format
// documentation.
type driverFile struct {
	machine   *machine
	image     []byte // as it is in memory, whole pages
	headers   uint32 // bytes at the start of image
	optional  uint32 // where the optional header begins in image
	sections  []section
	entry     uint32
	timestamp uint32
	checksum  uint32
	directory [16]span32
	stripped  bool // it can't be relocated
}

// span32 is a range of RVAs.
type span32 struct{ rva, size uint32 }

// Data directories.
const (
	dirExports = 0
	dirImports = 1
	dirRelocs  = 5
)

// Bounds on a driver's file. 96 sections are as many as Windows takes.
const (
	maxDriverSize     = 64 << 20
	maxDriverSections = 96
	maxImportNames    = 1 << 14
)

// errPE is the class of what is wrong with a PE file.
var errPE = errors.New("malformed PE file")

func badPE(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errPE, fmt.Sprintf(format, args...))
}

// size returns SizeOfImage in whole pages.
func (d *driverFile) size() uint32 { return uint32(len(d.image)) }

// parseDriver lays a file out as it is in memory, relocations and imports
// apart.
func parseDriver(file []byte) (*driverFile, error) {
	d, table, err := parseHeaders(file)
	if err != nil {
		return nil, err
	}
	if int(d.headers) > len(file) {
		return nil, badPE("headers of %#x bytes in a file of %#x", d.headers, len(file))
	}
	copy(d.image, file[:d.headers])
	for i := range d.sections {
		s, raw := &d.sections[i], table[i*peSectionLen:]
		n, at := uint64(min(le.Uint32(raw[0x10:]), s.size)), uint64(le.Uint32(raw[0x14:]))
		if n == 0 {
			continue
		}
		if at+n > uint64(len(file)) {
			return nil, badPE("section %d ends at %#x of a file of %#x bytes", i, at+n, len(file))
		}
		copy(d.image[s.rva:], file[at:at+n])
	}
	return d, nil
}

// parseHeaders reads the headers and the section table, which it returns too.
// The image is made, and empty.
func parseHeaders(b []byte) (*driverFile, []byte, error) {
	if len(b) < 0x40 || b[0] != 'M' || b[1] != 'Z' {
		return nil, nil, badPE("no MZ header")
	}
	at := uint64(le.Uint32(b[0x3C:]))
	if at%4 != 0 || at+0x18+peOptional > uint64(len(b)) {
		return nil, nil, badPE("NT headers at %#x of %#x bytes", at, len(b))
	}
	nt := b[at:]
	optional := nt[0x18:]
	machines := []*machine{&machine64, &machine32}
	i := slices.IndexFunc(machines, func(m *machine) bool {
		return le.Uint16(nt[4:]) == m.pe && le.Uint16(optional) == m.peMagic
	})
	switch {
	case le.Uint32(nt) != peSignature:
		return nil, nil, badPE("signature %#x", le.Uint32(nt))
	case i < 0:
		return nil, nil, badPE("machine %#x, magic %#x; only x64 and x86", le.Uint16(nt[4:]), le.Uint16(optional))
	}
	m := machines[i]
	d := &driverFile{
		machine: m,
		headers: le.Uint32(optional[0x3C:]), optional: uint32(at + 0x18), entry: le.Uint32(optional[0x10:]),
		timestamp: le.Uint32(nt[8:]), checksum: le.Uint32(optional[0x40:]), stripped: le.Uint16(nt[0x16:])&1 != 0,
	}
	size, alignment := le.Uint32(optional[0x38:]), le.Uint32(optional[0x20:])
	n, table := int(le.Uint16(nt[6:])), uint64(le.Uint16(nt[0x14:]))+at+0x18
	end := table + uint64(n)*peSectionLen
	switch {
	case size == 0 || size > maxDriverSize || d.entry >= size:
		return nil, nil, badPE("image of %#x bytes that starts at %#x", size, d.entry)
	case alignment < phys.PageSize || alignment&(alignment-1) != 0:
		return nil, nil, badPE("section alignment %#x", alignment)
	case n == 0 || n > maxDriverSections || end > uint64(d.headers) || end > uint64(len(b)) || d.headers > size:
		return nil, nil, badPE("%d sections at %#x in headers of %#x bytes", n, table, d.headers)
	}
	d.image = make([]byte, pagesOf(size)<<phys.PageShift)
	directories := optional[m.peOptional-8*len(d.directory):]
	for i := range min(le.Uint32(optional[m.peOptional-8*len(d.directory)-4:]), uint32(len(d.directory))) {
		e := directories[8*i:]
		d.directory[i] = span32{le.Uint32(e), le.Uint32(e[4:])}
	}
	return d, b[table:end], d.addSections(b[table:end])
}

// addSections takes the sections, which must follow each other.
func (d *driverFile) addSections(table []byte) error {
	next := uint64(pagesOf(d.headers)) << phys.PageShift
	for t := range slices.Chunk(table, peSectionLen) {
		s := section{
			name: string(bytes.TrimRight(t[:8], "\x00")), size: le.Uint32(t[8:]), rva: le.Uint32(t[0xC:]),
			flags: le.Uint32(t[0x24:]),
		}
		if s.size == 0 {
			s.size = le.Uint32(t[0x10:])
		}
		end := (uint64(s.rva) + uint64(s.size) + phys.PageSize - 1) &^ (phys.PageSize - 1)
		if s.rva%phys.PageSize != 0 || uint64(s.rva) < next || end > uint64(len(d.image)) {
			return badPE("section %q of %#x bytes at %#x", s.name, s.size, s.rva)
		}
		next = end
		d.sections = append(d.sections, s)
	}
	return nil
}

// at returns the n bytes at an RVA.
func (d *driverFile) at(rva, n uint32) ([]byte, error) {
	if uint64(rva)+uint64(n) > uint64(len(d.image)) {
		return nil, badPE("%#x bytes at %#x of an image of %#x", n, rva, len(d.image))
	}
	return d.image[rva:][:n], nil
}

// text returns the string at an RVA.
func (d *driverFile) text(rva uint32) (string, error) {
	b, err := d.at(rva, 0)
	if err != nil {
		return "", err
	}
	b = b[:min(cap(b), 512)]
	n := bytes.IndexByte(b, 0)
	if n < 0 {
		return "", badPE("the name at %#x doesn't end", rva)
	}
	return string(b[:n]), nil
}

// relocate makes the image one that is based at base.
func (d *driverFile) relocate(base phys.VirtAddr) error {
	field := d.image[d.optional+uint32(d.machine.peBase):]
	delta := uint64(base) - d.machine.number(field)
	d.machine.pointer(field, uint64(base)) // as Windows does
	if delta != 0 && d.stripped {
		return badPE("it can only be at the address that it prefers")
	}
	dir := d.directory[dirRelocs]
	b, err := d.at(dir.rva, dir.size)
	if err != nil {
		return err
	}
	b = bytes.Clone(b)
	for len(b) >= 8 {
		page, size := le.Uint32(b), le.Uint32(b[4:])
		if size < 8 || size%2 != 0 || int64(size) > int64(len(b)) {
			return badPE("a block of %#x bytes of relocations, %#x left", size, len(b))
		}
		for e := range slices.Chunk(b[8:size], 2) {
			if err := d.fix(page, le.Uint16(e), delta); err != nil {
				return err
			}
		}
		b = b[size:]
	}
	return nil
}

// fix applies one relocation: IMAGE_REL_BASED_ABSOLUTE, _HIGHLOW or _DIR64.
func (d *driverFile) fix(page uint32, e uint16, delta uint64) error {
	rva := page + uint32(e&0xFFF)
	if rva < page {
		return badPE("a relocation at %#x", page)
	}
	switch e >> 12 {
	case 0:
	case 3:
		p, err := d.at(rva, 4)
		if err != nil {
			return err
		}
		le.PutUint32(p, le.Uint32(p)+uint32(delta))
	case 10:
		p, err := d.at(rva, 8)
		if err != nil {
			return err
		}
		le.PutUint64(p, le.Uint64(p)+delta)
	default:
		return badPE("a relocation of type %d", e>>12)
	}
	return nil
}

// bind fills the import address tables with the kernel's exports.
func (d *driverFile) bind(im *Image) error {
	exports, err := im.kernelExports()
	dir := d.directory[dirImports]
	if err != nil || dir.size == 0 {
		return err
	}
	names := 0
	for at := dir.rva; ; at += 20 {
		e, err := d.at(at, 20)
		if err != nil {
			return err
		}
		lookup, dll, table := le.Uint32(e), le.Uint32(e[12:]), le.Uint32(e[16:])
		if dll == 0 && table == 0 {
			return nil
		}
		if lookup == 0 {
			lookup = table
		}
		name, err := d.text(dll)
		if err != nil {
			return err
		}
		if !strings.EqualFold(name, "ntoskrnl.exe") {
			continue
		}
		if err := d.bindNames(lookup, table, exports, &names); err != nil {
			return err
		}
	}
}

func (d *driverFile) bindNames(lookup, table uint32, exports map[string]phys.VirtAddr, names *int) error {
	word := uint32(d.machine.word)
	for ; ; lookup, table = lookup+word, table+word {
		e, err := d.at(lookup, word)
		if err != nil {
			return err
		}
		slot, err := d.at(table, word)
		if err != nil {
			return err
		}
		v := d.machine.number(e)
		if *names++; v == 0 || *names > maxImportNames {
			return nil
		}
		if v>>(8*word-1) != 0 { // by ordinal
			continue
		}
		name, err := d.text(uint32(v) + 2) // behind the hint
		if err != nil {
			return err
		}
		if va, ok := exports[name]; ok {
			d.machine.pointer(slot, uint64(va))
		}
	}
}

// kernelExports returns the addresses that the kernel's export directory
// names.
func (im *Image) kernelExports() (map[string]phys.VirtAddr, error) {
	p, err := findProfile(im.Config.Profile)
	if err != nil {
		return nil, err
	}
	out := map[string]phys.VirtAddr{}
	for _, n := range slices.Concat(exportedRoutines, p.exports, exportedData, p.dataExports) {
		out[n] = im.symbols[n]
	}
	return out, nil
}

// export returns the RVA of an exported name, 0 if it isn't exported.
func (d *driverFile) export(name string) (uint32, error) {
	dir := d.directory[dirExports]
	if dir.size == 0 {
		return 0, nil
	}
	e, err := d.at(dir.rva, 40)
	if err != nil {
		return 0, err
	}
	functions, names, ordinals := le.Uint32(e[28:]), le.Uint32(e[32:]), le.Uint32(e[36:])
	for i := range min(le.Uint32(e[24:]), maxImportNames) {
		at, err := d.at(names+4*i, 4)
		if err != nil {
			return 0, err
		}
		if text, err := d.text(le.Uint32(at)); err != nil || text != name {
			continue
		}
		ordinal, err := d.at(ordinals+2*i, 2)
		if err != nil {
			return 0, err
		}
		function, err := d.at(functions+4*uint32(le.Uint16(ordinal)), 4)
		if err != nil {
			return 0, err
		}
		return le.Uint32(function), nil
	}
	return 0, nil
}
