package guest

import (
	"encoding/binary"

	"snap/phys"
)

// Paging is how page tables are built: of which size and how many their entries are,
// and which bits of an address each level translates. A guest has one for as long as it
// runs. The package has the values, see Arch.Pagings; they are constant and safe for
// concurrent use.
type Paging struct {
	name        string
	top         int       // level of the root; the tables that map 4 KiB pages are level 1
	largest     int       // the highest level of which an entry can map a page
	kept        int       // the lowest level of which Windows never takes a table of the next out of use
	bare        int       // the level whose entries say nothing of protection, 0 for none
	addressBits uint      // bits of a virtual address that are translated, the rest repeat the highest
	shifts      [8]uint8  // by level: lowest bit of the virtual address that indexes a table
	counts      [8]uint16 // by level: entries of a table, a power of two
	rootMask    uint64    // what of CR3 is the root's address
	// row: the root is but a row of entries, which no table maps; its last entry leads
	// to a table that maps itself, and that begins with the same entries.
	row bool

	entryBits
}

// entryBits are what the bits of an entry mean. Those that a paging doesn't have are 0.
type entryBits struct {
	size int // bytes

	// Bits of an entry.
	present, write, user, large, noExec uint64
	// Bits of an entry that is not present, as Windows uses them.
	prototype, transition, swizzle uint64

	frame   uint64 // where the entry leads
	ignored uint64 // say nothing of where a present entry leads

	// The address of a prototype PTE is what is left of its entry after so many bits,
	// sign-extended; 0 where the entry alone doesn't say it.
	protoShift uint8
	// pageFileShift is where PageFileHigh begins, which is not 0 for what is in a page
	// file (MMPTE_SOFTWARE).
	pageFileShift uint8
	// Bits of an entry for a large page that are of its address, and by how much they
	// are higher there.
	largeHigh      uint64
	largeHighShift uint8
}

// Levels returns how many tables a walk goes through to a 4 KiB page.
func (p *Paging) Levels() int { return p.top }

// String returns what people call p, such as "4-level paging".
func (p *Paging) String() string { return p.name }

// PAE reports whether p is that of 32-bit guests with physical address extension.
func (p *Paging) PAE() bool { return p.row }

// shift returns the lowest bit of the virtual address that indexes a table of
// the given level.
func (p *Paging) shift(level int) uint { return uint(p.shifts[level&7]) & 63 }

// entries returns how many entries a table of the given level has.
func (p *Paging) entries(level int) uint64 { return uint64(p.counts[level&7]) }

// maps returns how many bytes an entry of a table of the given level maps.
func (p *Paging) maps(level int) uint64 { return 1 << p.shift(level) }

// index returns the entry of a table of the given level that va is translated
// with.
func (p *Paging) index(va phys.VirtAddr, level int) uint64 {
	return uint64(va) >> p.shift(level) & (uint64(p.counts[level&7]) - 1)
}

// kernelEntry returns the first entry of a root table that is of the kernel's half.
func (p *Paging) kernelEntry() uint64 { return p.entries(p.top) / 2 }

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

// root returns the address of the root table of which a CR3 tells.
func (p *Paging) root(cr3 uint64) phys.Addr { return phys.Addr(cr3 & p.rootMask) }

// at returns the address that an entry holds, of a table or a page.
func (b *entryBits) at(e uint64) phys.Addr { return phys.Addr(e & b.frame) }

// load fills entries with those that a table's bytes begin with.
func (b *entryBits) load(entries []uint64, table []byte) {
	if b.size == 4 {
		for i := range entries {
			entries[i] = uint64(binary.LittleEndian.Uint32(table[4*i:]))
		}
		return
	}
	for i := range entries {
		entries[i] = binary.LittleEndian.Uint64(table[8*i:])
	}
}

// entry returns an entry of a table.
func (b *entryBits) entry(table []byte, i uint64) uint64 {
	if b.size == 4 {
		return uint64(binary.LittleEndian.Uint32(table[4*i:]))
	}
	return binary.LittleEndian.Uint64(table[8*i:])
}

// selfEntry returns what an entry of the table at root that maps the table
// itself for the kernel, present, writable, not for user mode, not a large page,
// is under mask.
func (b *entryBits) selfEntry(root phys.Addr) (mask, want uint64) {
	return b.frame | b.present | b.write | b.user | b.large, uint64(root) | b.present | b.write
}

// selfMapped reports whether exactly one entry of a page's kernel half, as that of a
// root table, maps the page itself.
func (p *Paging) selfMapped(page []byte, root phys.Addr) bool {
	mask, want := p.selfEntry(root)
	count := 0
	for i := p.kernelEntry(); i < p.entries(p.top); i++ {
		if p.entry(page, i)&mask == want {
			count++
		}
	}
	return count == 1
}

// SameTable reports whether two page tables, each a page of memory, lead to the
// same: they may differ in bits that say nothing of where an entry leads, such
// as those that the processor sets when it uses the entry. In entries that
// aren't present every bit counts.
func (p *Paging) SameTable(x, y []byte) bool {
	if string(x) == string(y) {
		return true
	}
	if len(x) != len(y) {
		return false
	}
	for i := range uint64(len(x) / p.size) {
		e, f := p.entry(x, i), p.entry(y, i)
		if diff := e ^ f; diff != 0 && (e&p.present == 0 || diff&^p.ignored != 0) {
			return false
		}
	}
	return true
}
