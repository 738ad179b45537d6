package ntlab

import (
	"maps"
	"slices"

	"snap/phys"
)

// codeSymbols are the variables of the tables that are code, the last of them in
// KVASCODE.
var codeSymbols = []string{"KiSystemCall64", "KiDivideErrorFault", shadowEntry}

const shadowEntry = "KiSystemCall64Shadow"

// notPlaced are symbols of the tables that no lab guest has: nothing of theirs is
// known but the address.
var notPlaced = []string{"HalpLowStub"}

// fixedData returns the data of the image whose RVAs the row says, in order of their
// names.
func (p *profile) fixedData() []string {
	if p.row == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Sorted(maps.Keys(p.row.rvas)), func(n string) bool {
		return slices.Contains(codeSymbols, n) || slices.Contains(notPlaced, n)
	})
}

// rva returns where the row has a symbol.
func (p *profile) rva(name string) (uint32, bool) {
	if p.row == nil {
		return 0, false
	}
	v, ok := p.row.rvas[name]
	return v, ok
}

// kdbgIsFixed reports whether the row says where the KDBG is.
func (p *profile) kdbgIsFixed() bool {
	_, fixed := p.rva("KdDebuggerDataBlock")
	return fixed
}

// fixedSize is how much room a variable of the tables takes.
func (p *profile) fixedSize(name string) uint32 {
	switch name {
	case "KdDebuggerDataBlock":
		return p.kdbg.size
	case "KiInitialPCR":
		return p.processor.sizePCR
	}
	for _, v := range slices.Concat(p.kdbg.pointers, kernelVariables) {
		if v.name == name {
			return v.size
		}
	}
	return 8
}

// Parts of an image that the lab chooses.
const (
	exportsSize  = 0x19000
	shadowSize   = 0x3000
	ownData      = 0x60000  // for variables whose place the row doesn't say
	discardSize  = 0x20000  // INIT
	resourceSize = 0x20000  // .rsrc and .reloc together
	ownImage     = 0x600000 // SizeOfImage where no table says it
)

// places are where, in the image, its parts begin: pages.
type places struct {
	text, shadow, readOnly, data, end uint32
}

// sectionsOf divides an image so that every symbol of the row is in a section of its
// kind. Which sections there are, and how large they are, is the lab's own, and so is
// SizeOfImage where no table has it. Parts are in the order in which all kernels of
// the tables have them: constants, code, KVASCODE, data.
func sectionsOf(k *kernelRow, p *profile) (size uint32, out []section) {
	at := placesOf(k, p)
	rdata := at.text / 2 &^ (phys.PageSize - 1)
	out = []section{
		{".rdata", phys.PageSize, rdata - phys.PageSize, scnRead},
		{".edata", rdata, exportsSize, scnRead},
		{".text", rdata + exportsSize, at.shadow - rdata - exportsSize, scnCode},
	}
	next := at.shadow
	add := func(name string, end, flags uint32) {
		if end > next {
			out = append(out, section{name, next, end - next, flags})
			next = end
		}
	}
	if p.processor.kernelDTB != 0 {
		add("KVASCODE", next+shadowSize, scnCode)
	}
	add("POOLCODE", next+phys.PageSize, scnCode)
	add("PAGE", at.readOnly, scnPaged)
	add("PROTDATA", at.data, scnRead)
	add(".data", at.end, scnWrite)
	size = k.sizeOfImage
	if size == 0 {
		size = max(ownImage, next+discardSize+resourceSize)
	}
	add("INIT", size-resourceSize, scnDiscard)
	add(".rsrc", size-resourceSize/2, 0x42000040)
	add(".reloc", size, scnReloc)
	return size, out
}

func placesOf(k *kernelRow, p *profile) places {
	if len(k.rvas) == 0 {
		size := uint32(ownImage)
		if k.sizeOfImage != 0 {
			size = k.sizeOfImage
		}
		part := func(eighths uint32) uint32 { return size / 8 * eighths &^ (phys.PageSize - 1) }
		return places{text: part(1), shadow: part(4), readOnly: part(5), data: part(5), end: part(5) + 2*ownData}
	}
	const page = phys.PageSize - 1
	at := places{text: k.rvas["KiDivideErrorFault"] &^ page, shadow: k.rvas[shadowEntry] &^ page, data: ^uint32(0)}
	for _, n := range p.fixedData() {
		rva := k.rvas[n]
		if n != "NtBuildNumber" { // among the constants in some
			at.data = min(at.data, rva&^page)
		}
		at.end = max(at.end, rva+p.fixedSize(n))
	}
	at.end = (at.end+page)&^page + ownData
	at.readOnly = at.data
	if n := k.rvas["NtBuildNumber"]; n > at.shadow && n < at.data {
		at.readOnly = n &^ page
	}
	return at
}
