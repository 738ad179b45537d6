package guest

import (
	"bytes"
	"context"
	"encoding/binary"

	"snap/phys"
)

// Arch is a processor architecture, as far as it decides how Windows lies in
// memory: how page tables are read, where things are that have fixed addresses,
// and what registers tell. The package has the values, see Archs; they are
// constant and safe for concurrent use.
type Arch struct {
	name    string
	machine uint16
	pointer int // bytes
	paging  paging

	// kernelHalf is the first address of the kernel's half of an address space,
	// which goes up to 2^64.
	kernelHalf phys.VirtAddr
	// The kernel and the boot drivers are from kernelsLow up to kernelsHigh, with
	// and without address space randomisation.
	kernelsLow, kernelsHigh phys.VirtAddr
	kuser                   phys.VirtAddr

	contextSize, contextAlign int // bytes

	registers RegisterNames
	// paged reports whether a processor translates by tables as they are
	// described here.
	paged func(*phys.Registers) bool
	// kpcrs returns where a processor's KPCR may be, the likelier place first.
	kpcrs func(*phys.Registers) []phys.VirtAddr
	// hints returns what the processors' registers know of where the kernel is.
	hints func(context.Context, *AddressSpace, []phys.Registers) []hint
}

// RegisterNames are what people call the registers that every architecture has
// in some form.
type RegisterNames struct {
	ProgramCounter, StackPointer, PageTableRoot string
}

// Archs returns the architectures whose Windows is understood, in the order in
// which Discover looks for it.
func Archs() []*Arch { return []*Arch{AMD64()} }

// Name returns the usual short name in lower case, such as "amd64".
func (a *Arch) Name() string { return a.name }

// String is Name.
func (a *Arch) String() string { return a.name }

// Machine returns the IMAGE_FILE_MACHINE of kernels for a (Microsoft PE format).
func (a *Arch) Machine() uint16 { return a.machine }

// PointerSize returns the bytes of a kernel pointer.
func (a *Arch) PointerSize() int { return a.pointer }

// PageTableLevels returns how many tables a walk goes through to a 4 KiB page.
func (a *Arch) PageTableLevels() int { return a.paging.top }

// KUSER returns the address at which every kernel for a maps KUSER_SHARED_DATA.
func (a *Arch) KUSER() phys.VirtAddr { return a.kuser }

// ContextSize returns the bytes of a CONTEXT (winnt.h).
func (a *Arch) ContextSize() int { return a.contextSize }

// Registers returns the names of registers.
func (a *Arch) Registers() RegisterNames { return a.registers }

// SameTable reports whether two page tables, each a page of memory, lead to the
// same: they may differ in bits that say nothing of where an entry leads, such
// as those that the processor sets when it uses the entry. In entries that
// aren't present every bit counts.
func (a *Arch) SameTable(x, y []byte) bool {
	if bytes.Equal(x, y) {
		return true
	}
	if len(x) != len(y) {
		return false
	}
	for i := 0; i+8 <= len(x); i += 8 {
		e, f := binary.LittleEndian.Uint64(x[i:]), binary.LittleEndian.Uint64(y[i:])
		if diff := e ^ f; diff != 0 && (e&a.paging.present == 0 || diff&^a.paging.ignored != 0) {
			return false
		}
	}
	return true
}

// paging is how an architecture's page tables are built: pages of entries of 8
// bytes, of which each level translates the same number of bits.
type paging struct {
	top         int      // level of the root; the tables that map 4 KiB pages are level 1
	addressBits uint     // bits of a virtual address that are translated, the rest repeat the highest
	shifts      [8]uint8 // by level: lowest bit of the virtual address that indexes a table

	// Bits of an entry.
	present, write, user, large, noExec uint64
	// Bits of an entry that is not present, as Windows uses them.
	prototype, transition, swizzle uint64

	frame   uint64 // where the entry leads
	ignored uint64 // say nothing of where a present entry leads
}

// tableEntries is how many entries a page holds.
const tableEntries = phys.PageSize / 8

// shift returns the lowest bit of the virtual address that indexes a table of
// the given level.
func (p *paging) shift(level int) uint { return uint(p.shifts[level&7]) & 63 }

// size returns how many bytes an entry of a table of the given level maps.
func (p *paging) size(level int) uint64 { return 1 << p.shift(level) }

// index returns the entry of a table of the given level that va is translated
// with.
func (p *paging) index(va phys.VirtAddr, level int) uint64 {
	return uint64(va) >> p.shift(level) % tableEntries
}

// kernelEntry is the first entry of a root table that is of the kernel's half.
const kernelEntry = tableEntries / 2

// canonical reports whether va can be translated at all.
func (p *paging) canonical(va phys.VirtAddr) bool {
	top := int64(va) >> ((p.addressBits - 1) & 63)
	return top == 0 || top == -1
}

// at returns the address that an entry holds, of a table or a page.
func (p *paging) at(e uint64) phys.Addr { return phys.Addr(e & p.frame) }

// selfEntry returns what an entry of the table at root that maps the table
// itself for the kernel, present, writable, not for user mode, not a large page,
// is under mask.
func (p *paging) selfEntry(root phys.Addr) (mask, want uint64) {
	return p.frame | p.present | p.write | p.user | p.large, uint64(root) | p.present | p.write
}

// selfMapped reports whether exactly one entry of a page's kernel half maps
// the page itself.
func (p *paging) selfMapped(page []byte, root phys.Addr) bool {
	mask, want := p.selfEntry(root)
	count := 0
	for i := 8 * kernelEntry; i < phys.PageSize; i += 8 {
		if binary.LittleEndian.Uint64(page[i:i+8])&mask == want {
			count++
		}
	}
	return count == 1
}
