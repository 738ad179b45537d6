package ntlab

import (
	"path"
	"strings"
	"unicode/utf16"

	"snap/phys"
)

// Offsets in KLDR_DATA_TABLE_ENTRY (x64, public symbols).
const (
	ldrDLLBase    = 0x30
	ldrEntryPoint = 0x38
	ldrSize       = 0x40
	ldrFullName   = 0x48
	ldrBaseName   = 0x58
	ldrFlags      = 0x68
	ldrLoadCount  = 0x6C
	ldrChecksum   = 0x78
	ldrTimestamp  = 0x9C
	ldrEntrySize  = 0xA0
)

// placeModules maps the drivers and makes PsLoadedModuleList.
func (b *builder) placeModules() {
	r := stream(b.Config.Seed, 'm')
	entries := []phys.VirtAddr{b.placeModuleEntry(`\SystemRoot\system32\ntoskrnl.exe`, &b.kernel)}
	next := b.lay.modules
	for _, m := range b.p.modules {
		pe := b.placeModule(m, next, r)
		next = (next + phys.VirtAddr(m.size) + 0xffff + phys.VirtAddr(r.below(4)<<16)) &^ 0xffff
		entries = append(entries, b.placeModuleEntry(m.path, pe))
	}
	b.list(b.symbols["PsLoadedModuleList"], entries...)
}

// placeModule maps one driver: pages of its own for everything but INIT, which
// Windows frees once a driver has started.
func (b *builder) placeModule(m moduleSpec, base phys.VirtAddr, r *rng) *peImage {
	const page = phys.PageSize
	quarter := (m.size - 3*page) / 4 &^ (page - 1)
	pe := &peImage{
		base: base, size: m.size, timestamp: uint32(r.u64()), entry: page + 0x40,
		osMajor: uint16(b.p.major), osMinor: uint16(b.p.minor), dll: strings.HasSuffix(m.path, ".dll"),
		sections: []section{
			{".text", page, page + 2*quarter, scnCode},
			{".rdata", 2*page + 2*quarter, quarter, scnRead},
		},
		debugRVA: page + 0x800, pdb: strings.TrimSuffix(baseName(m.path), path.Ext(baseName(m.path))) + ".pdb", age: 1,
	}
	rest := 2*page + 3*quarter
	pe.sections = append(pe.sections,
		section{".data", rest, page, scnWrite},
		section{"INIT", rest + page, m.size - rest - page, scnDiscard})
	if pe.sections[1].size == 0 {
		pe.sections[1] = section{".rdata", page + quarter, page, scnRead}
	}
	if pe.dll {
		pe.name, pe.exportRVA = baseName(m.path), page+0x100
		pe.exports = map[string]uint32{"DllInitialize": page + 0x40, "DllUnload": page + 0x60}
	}
	r.fill(pe.guid[:])
	dtb := b.Truth.DirectoryTableBase
	check(b.mapFresh(dtb, base, 1, kernelRead))
	for off := uint32(page); off < rest+page; off += page {
		flags := uint64(kernelCode)
		if off >= rest {
			flags = kernelData
		}
		check(b.mapFresh(dtb, base+phys.VirtAddr(off), 1, flags))
	}
	b.placePE(pe, r)
	return pe
}

func (b *builder) placeModuleEntry(full string, pe *peImage) phys.VirtAddr {
	base := baseName(full)
	size := uint64(ldrEntrySize)
	if b.p.row != nil {
		size = uint64(b.p.row.field("LDR_size"))
	}
	e, m := b.block(&b.pool, "MmLd", size), b.machine()
	b.putPointer(e+m.ldrDLLBase, uint64(pe.base))
	b.putPointer(e+m.ldrEntryPoint, uint64(pe.base)+uint64(pe.entry))
	b.put32(e+m.ldrSize, pe.size)
	b.unicodeString(e+m.ldrFullName, full)
	b.unicodeString(e+m.ldrBaseName, base)
	b.put32(e+m.ldrFlags, 0x0908_4000)
	b.put16(e+m.ldrLoadCount, 1)
	b.put32(e+m.ldrChecksum, pe.timestamp^0x5A17)
	if size == ldrEntrySize && !b.p.fixedLayout { // others end before this field, or have another one there
		b.put32(e+ldrTimestamp, pe.timestamp)
	}
	b.Truth.Modules = append(b.Truth.Modules, Module{Name: base, Base: pe.base, Size: pe.size})
	return e
}

func baseName(full string) string { return full[strings.LastIndexByte(full, '\\')+1:] }

// unicodeString writes a UNICODE_STRING whose buffer is pool of its own.
func (b *builder) unicodeString(at phys.VirtAddr, s string) {
	var text []byte
	for _, c := range utf16.Encode([]rune(s)) {
		text = append(text, byte(c), byte(c>>8))
	}
	buf := b.block(&b.pool, "MmLd", uint64(len(text)+2))
	b.put(buf, text)
	b.put16(at, uint16(len(text)))
	b.put16(at+2, uint16(len(text)+2))
	b.putPointer(at+b.machine().unicodeBuffer, uint64(buf))
}

// placeMemoryBlock makes the PHYSICAL_MEMORY_DESCRIPTOR that
// nt!MmPhysicalMemoryBlock points to.
func (b *builder) placeMemoryBlock() {
	runs := b.Truth.Runs
	m := b.machine()
	at := b.block(&b.pool, "MmPh", uint64(0x10+0x10*len(runs)))
	run := at + m.descriptorRuns
	var pages uint64
	for _, r := range runs {
		pages += r.Pages
		b.putPointer(run, uint64(r.Base))
		b.putPointer(run+phys.VirtAddr(m.word), r.Pages)
		run += phys.VirtAddr(2 * m.word)
	}
	b.put32(at, uint32(len(runs)))
	b.putPointer(at+m.descriptorPages, pages)
	b.putPointer(b.symbols["MmPhysicalMemoryBlock"], uint64(at))
	b.symbols["*MmPhysicalMemoryBlock"] = at
}
