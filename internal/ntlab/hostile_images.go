package ntlab

import (
	"snap/phys"
)

// Offsets in a PE32+ image's headers, from its base (Microsoft PE format).
const (
	peSections     = peHeaderAt + 6
	peEntryPoint   = peHeaderAt + 0x18 + 0x10
	peSizeOfImage  = peHeaderAt + 0x18 + 0x38
	peExports      = peHeaderAt + 0x18 + 0x70
	peDebug        = peExports + 6*8
	peSectionTable = peHeaderAt + 0x18 + peOptional
)

// imageAttacks are headers and directories of the kernel's image that lie.
func imageAttacks() []Attack {
	kernel := func(off int) func(*edits) phys.VirtAddr {
		return func(e *edits) phys.VirtAddr { return e.im.Truth.KernelBase + phys.VirtAddr(off) }
	}
	return []Attack{
		edited("kernel size of 4 GiB", "SizeOfImage of the kernel is 4 GiB less one", Refused, "no-kernel",
			attack(func(e *edits) { e.put32(kernel(peSizeOfImage)(e), 0xFFFF_FFFF) })),
		edited("kernel size of 255 MiB", "SizeOfImage of the kernel is 255 MiB", Refused, "kernel",
			attack(func(e *edits) { e.put32(kernel(peSizeOfImage)(e), 255<<20) })),
		edited("kernel size of a page", "SizeOfImage of the kernel is 4 KiB", Refused, "no-kernel",
			attack(func(e *edits) { e.put32(kernel(peSizeOfImage)(e), phys.PageSize) })),
		edited("kernel entry point", "the kernel's entry point is outside of it", Refused, "no-kernel",
			attack(func(e *edits) { e.put32(kernel(peEntryPoint)(e), 0xFFFF_FFFF) })),
		edited("kernel sections overlap", "all sections of the kernel are all of the kernel", Found, "",
			attack(func(e *edits) {
				for i := range 8 {
					s := kernel(peSectionTable + i*peSectionLen)(e)
					e.put32(s+8, e.im.Truth.KernelSize)
					e.put32(s+0xC, 0)
				}
			})),
		edited("exports in a circle", "what the kernel exports is forwarded to the kernel itself", Found, "",
			attack(func(e *edits) {
				d := e.exports()
				own := uint32(d-e.im.Truth.KernelBase) + 0x28
				for _, name := range []string{"PsLoadedModuleList", "PsInitialSystemProcess", "NtBuildNumber"} {
					e.export(name, own)
				}
			})),
		edited("exports anywhere", "what the kernel exports lies outside of it", Found, "",
			attack(func(e *edits) {
				for _, name := range []string{"PsLoadedModuleList", "PsInitialSystemProcess", "NtBuildNumber"} {
					e.export(name, 0xFFFF_FFF0)
				}
			})),
		edited("export name without end", "the kernel's export directory names it by a text that does not end", Found, "",
			attack(func(e *edits) { endless(e, e.exports()+0xC) })),
		edited("export names without end", "all names that the kernel exports are one text that does not end", Degraded, "what ntoskrnl.exe advertises",
			attack(func(e *edits) {
				d := e.exports()
				names := e.im.Truth.KernelBase + e.get64(d+0x20)&0xffffffff
				for i := range uint32(e.get64(d+0x18) & 0xffffffff) {
					e.put32(names+phys.VirtAddr(4*i), spareRVA(e))
				}
				fillSpare(e)
			})),
		edited("export tables wrap", "the tables of the kernel's export directory are at the end of 32 bits", Degraded, "what ntoskrnl.exe advertises",
			attack(func(e *edits) {
				d := e.exports()
				for _, off := range []phys.VirtAddr{0x1C, 0x20, 0x24} {
					e.put32(d+off, 0xFFFF_FFFC)
				}
			})),
		edited("debug directory of 4 GiB", "the size of the kernel's debug directory is 4 GiB less one", Found, "",
			attack(func(e *edits) { e.put32(kernel(peDebug+4)(e), 0xFFFF_FFFF) })),
		edited("debug directory of a million entries", "the size of the kernel's debug directory is most of the kernel", Found, "",
			attack(func(e *edits) { e.put32(kernel(peDebug+4)(e), e.im.Truth.KernelSize-0x20_0000) })),
		edited("directories overlap", "the kernel's debug directory is its export directory", Found, "",
			attack(func(e *edits) { e.put64(kernel(peDebug)(e), uint64(e.get64(kernel(peExports)(e)))) })),
		edited("kernel without a name", "neither the export directory nor the PDB names the kernel: both are text that does not end", Refused, "no-kernel",
			attack(func(e *edits) {
				endless(e, e.exports()+0xC)
				debug := e.im.Truth.KernelBase + e.get64(kernel(peDebug)(e))&0xffffffff
				e.put32(debug+0x14, spareRVA(e)) // AddressOfRawData
				e.put32(debug+0x10, 0xFFFF_FFFF)
				e.put32(e.im.spare, rsdsTag)
			})),
	}
}

func spareRVA(e *edits) uint32 { return uint32(e.im.spare - e.im.Truth.KernelBase) }

// fillSpare makes one text of the kernel's spare region.
func fillSpare(e *edits) {
	b := make([]byte, spareSize)
	for i := range b {
		b[i] = 'A'
	}
	e.put(e.im.spare, b)
}

// endless makes a name's address lead to a text that does not end.
func endless(e *edits, at phys.VirtAddr) {
	fillSpare(e)
	e.put32(at, spareRVA(e))
}

// export makes the kernel export a name at another address, relative to its base.
func (e *edits) export(name string, rva uint32) {
	d := e.exports()
	table := func(off phys.VirtAddr) phys.VirtAddr {
		return e.im.Truth.KernelBase + e.get64(d+off)&0xffffffff
	}
	text := make([]byte, len(name)+1)
	for i := range uint32(e.get64(d+0x18) & 0xffffffff) {
		at := e.im.Truth.KernelBase + e.get64(table(0x20)+phys.VirtAddr(4*i))&0xffffffff
		if e.err != nil || e.im.ReadVirt(at, text) != nil || string(text) != name+"\x00" {
			continue
		}
		ordinal := e.get64(table(0x24)+phys.VirtAddr(2*i)) & 0xffff
		e.put32(table(0x1C)+4*ordinal, rva)
		return
	}
}
