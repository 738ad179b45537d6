package guest

import (
	"encoding/binary"
	"fmt"

	"snap/phys"
)

// Paging is how page tables are built: pages of entries of 8 bytes, of which each
// level translates the same number of bits. A guest has one for as long as it runs.
// The package has the values, see Arch.Pagings; they are constant and safe for
// concurrent use.
type Paging struct {
	top         int      // level of the root; the tables that map 4 KiB pages are level 1
	largest     int      // the highest level of which an entry can map a page
	addressBits uint     // bits of a virtual address that are translated, the rest repeat the highest
	shifts      [8]uint8 // by level: lowest bit of the virtual address that indexes a table

	entryBits
}

// entryBits are what the bits of an entry mean, in all of an architecture's pagings.
type entryBits struct {
	// Bits of an entry.
	present, write, user, large, noExec uint64
	// Bits of an entry that is not present, as Windows uses them.
	prototype, transition, swizzle uint64

	frame   uint64 // where the entry leads
	ignored uint64 // say nothing of where a present entry leads
}

// Levels returns how many tables a walk goes through to a 4 KiB page.
func (p *Paging) Levels() int { return p.top }

// String returns what people call p, such as "4-level paging".
func (p *Paging) String() string { return fmt.Sprintf("%d-level paging", p.top) }

// tableEntries is how many entries a page holds.
const tableEntries = phys.PageSize / 8

// shift returns the lowest bit of the virtual address that indexes a table of
// the given level.
func (p *Paging) shift(level int) uint { return uint(p.shifts[level&7]) & 63 }

// size returns how many bytes an entry of a table of the given level maps.
func (p *Paging) size(level int) uint64 { return 1 << p.shift(level) }

// index returns the entry of a table of the given level that va is translated
// with.
func (p *Paging) index(va phys.VirtAddr, level int) uint64 {
	return uint64(va) >> p.shift(level) % tableEntries
}

// kernelEntry is the first entry of a root table that is of the kernel's half.
const kernelEntry = tableEntries / 2

// canonical reports whether va can be translated at all.
func (p *Paging) canonical(va phys.VirtAddr) bool {
	top := int64(va) >> ((p.addressBits - 1) & 63)
	return top == 0 || top == -1
}

// kernelHalf returns the first address of the kernel's half of an address space,
// which goes up to 2^64.
func (p *Paging) kernelHalf() phys.VirtAddr {
	return ^phys.VirtAddr(0) << ((p.addressBits - 1) & 63)
}

// entryAddress returns the first address that an entry of a root table's kernel half
// maps.
func (p *Paging) entryAddress(i int) phys.VirtAddr {
	return ^phys.VirtAddr(0)<<(p.addressBits&63) | phys.VirtAddr(i)<<p.shift(p.top)
}

// at returns the address that an entry holds, of a table or a page.
func (b *entryBits) at(e uint64) phys.Addr { return phys.Addr(e & b.frame) }

// selfEntry returns what an entry of the table at root that maps the table
// itself for the kernel, present, writable, not for user mode, not a large page,
// is under mask.
func (b *entryBits) selfEntry(root phys.Addr) (mask, want uint64) {
	return b.frame | b.present | b.write | b.user | b.large, uint64(root) | b.present | b.write
}

// selfMapped reports whether exactly one entry of a page's kernel half maps
// the page itself.
func (b *entryBits) selfMapped(page []byte, root phys.Addr) bool {
	mask, want := b.selfEntry(root)
	count := 0
	for i := 8 * kernelEntry; i < phys.PageSize; i += 8 {
		if binary.LittleEndian.Uint64(page[i:i+8])&mask == want {
			count++
		}
	}
	return count == 1
}
