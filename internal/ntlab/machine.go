package ntlab

import "snap/phys"

// machine is what differs between guests whose pointers have 64 and 32 bits, as far as
// it isn't a profile's. Addresses of 32 bits are sign-extended. Offsets are bytes.
type machine struct {
	word         int // bytes of a pointer
	pe           uint16
	peMagic      uint16
	peOptional   int    // SizeOfOptionalHeader
	peBase       int    // where the optional header has the image's base
	architecture uint16 // PROCESSOR_ARCHITECTURE_*
	kuser        phys.VirtAddr

	// KLDR_DATA_TABLE_ENTRY, and where a UNICODE_STRING has its buffer.
	ldrDLLBase, ldrEntryPoint, ldrSize, ldrFullName, ldrBaseName, ldrFlags, ldrLoadCount, ldrChecksum phys.VirtAddr
	unicodeBuffer                                                                                     phys.VirtAddr

	// PHYSICAL_MEMORY_DESCRIPTOR.
	descriptorPages, descriptorRuns phys.VirtAddr

	// KPCR, and of KPRCB what never changed.
	pcrSelf, pcrCurrentPRCB, pcrUsedSelf, pcrIDTBase, pcrGDTBase, pcrTSSBase phys.VirtAddr
	pcrMajorVersion, pcrVersionBlock                                         phys.VirtAddr
	prcbLegacyNumber, prcbCurrentThread, prcbIdleThread                      phys.VirtAddr

	// KSPECIAL_REGISTERS.
	specialCR0, specialCR3, specialCR4 phys.VirtAddr

	removePages int // bytes of a KBUGCHECK_REMOVE_PAGES

	// What the contexts have that a crash leaves: selectors of the kernel and of a program
	// that isn't to be shown first, if there is such, and how they are laid out.
	kernelCode, kernelData, programCode, programData uint16
	contextBytes                                     func(flags, eflags uint32, cs, ss uint16, general []uint64) []byte

	// Low bits of CR3 under KVA shadow, and what makes that.
	pcidKernel, pcidUser uint64
	placeShadows         func(*builder)

	// TEB: its own address, and that of the PEB.
	tebSelf, tebPEB phys.VirtAddr

	chooseLayout     func(*builder) layout
	setSelfMap       func(*builder, phys.Addr)
	shareKernelHalf  func(*builder, *process)
	placeDescriptors func(*builder, int, *Processor)
	fillMode         func(*builder, *phys.Registers, int, *rng)
	placeOddEntries  func(*builder, *rng)
}

// machine64: see the constants.
var machine64 = machine{
	word: 8, pe: peMachine, peMagic: pe32Plus, peOptional: peOptional, peBase: 0x18,
	architecture: 9, kuser: kuserKernel,

	ldrDLLBase: ldrDLLBase, ldrEntryPoint: ldrEntryPoint, ldrSize: ldrSize, ldrFullName: ldrFullName,
	ldrBaseName: ldrBaseName, ldrFlags: ldrFlags, ldrLoadCount: ldrLoadCount, ldrChecksum: ldrChecksum,
	unicodeBuffer: 8,

	descriptorPages: 0x08, descriptorRuns: 0x10,

	pcrSelf: pcrSelf, pcrCurrentPRCB: pcrCurrentPRCB, pcrUsedSelf: pcrUsedSelf,
	pcrIDTBase: pcrIDTBase, pcrGDTBase: pcrGDTBase, pcrTSSBase: pcrTSSBase,
	pcrMajorVersion: pcrMajorVersion, pcrVersionBlock: pcrVersionBlock,
	prcbLegacyNumber: 4, prcbCurrentThread: prcbCurrentThread, prcbIdleThread: prcbIdleThread,

	specialCR0: specialCR0, specialCR3: specialCR3, specialCR4: specialCR4,

	kernelCode: selKernelCode, kernelData: selKernelData, programCode: frozenInCompat, programData: selUserData,
	contextBytes: contextBytes,

	removePages: 0x20, pcidKernel: pcidKernel, pcidUser: pcidUser, placeShadows: (*builder).placeShadows,

	tebSelf: 0x30, tebPEB: 0x60,

	chooseLayout: (*builder).chooseLayout, setSelfMap: (*builder).setSelfMap,
	shareKernelHalf: (*builder).shareKernelHalf, placeDescriptors: (*builder).placeDescriptors,
	fillMode: (*builder).fillMode, placeOddEntries: (*builder).placeOddEntries,
}

// machine32: public symbols of x86 kernels and ntddk.h; PE32 of the Microsoft PE format.
var machine32 = machine{
	word: 4, pe: 0x14C, peMagic: 0x10B, peOptional: 0xE0, peBase: 0x1C,
	architecture: 0, kuser: kuserKernel32,

	ldrDLLBase: 0x18, ldrEntryPoint: 0x1C, ldrSize: 0x20, ldrFullName: 0x24, ldrBaseName: 0x2C, ldrFlags: 0x34,
	ldrLoadCount: 0x38, ldrChecksum: 0x40, unicodeBuffer: 4,

	descriptorPages: 0x04, descriptorRuns: 0x08,

	pcrSelf: 0x1C, pcrCurrentPRCB: 0x20, pcrUsedSelf: 0x18, pcrIDTBase: 0x38, pcrGDTBase: 0x3C, pcrTSSBase: 0x40,
	pcrMajorVersion: 0x44, pcrVersionBlock: 0x34,
	prcbLegacyNumber: 0x10, prcbCurrentThread: 0x04, prcbIdleThread: 0x0C,

	specialCR0: 0x00, specialCR3: 0x08, specialCR4: 0x0C,

	kernelCode: sel32KernelCode, kernelData: sel32KernelData, programCode: sel32UserCode, programData: sel32UserData,
	contextBytes: contextBytes32,

	removePages: 0x14, placeShadows: (*builder).placeShadows32,

	tebSelf: 0x18, tebPEB: 0x30,

	chooseLayout: (*builder).chooseLayout32, setSelfMap: (*builder).setSelfMap32,
	shareKernelHalf: (*builder).shareKernelHalf32, placeDescriptors: (*builder).placeDescriptors32,
	fillMode: (*builder).fillMode32, placeOddEntries: (*builder).placeOddEntries32,
}

// machine returns what the guest's kernel is for.
func (im *Image) machine() *machine { return im.tables.machine }

// pointer puts a pointer, or a number as wide as one, at the beginning of b.
func (m *machine) pointer(b []byte, v uint64) {
	if m.word == 4 {
		le.PutUint32(b, uint32(v))
		return
	}
	le.PutUint64(b, v)
}

// number returns what pointer has put.
func (m *machine) number(b []byte) uint64 {
	if m.word == 4 {
		return uint64(le.Uint32(b))
	}
	return le.Uint64(b)
}

// putPointer writes a pointer, or a number as wide as one.
func (b *builder) putPointer(va phys.VirtAddr, v uint64) {
	m := b.machine()
	var p [8]byte
	m.pointer(p[:], v)
	b.put(va, p[:m.word])
}
