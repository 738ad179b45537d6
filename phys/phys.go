// Package phys is the vocabulary for a machine seen from outside: guest
// addresses, sets of guest pages, memory that can be read, and processor
// registers. It knows neither hypervisors nor operating systems; every other
// package speaks in its types.
package phys

// Pages are the 4 KiB pages of the x86 and ARM64 Windows kernels, which is
// also the unit of every dump format here.
const (
	PageShift = 12
	PageSize  = 1 << PageShift
)

// MaxAddr is the first byte past the largest guest-physical address that the
// x86-64 architecture can express (52 bits, AMD64 manual volume 2, 5.3).
const MaxAddr Addr = 1 << 52

// Addr is a guest-physical byte address (GPA).
type Addr uint64

// VirtAddr is a guest-virtual byte address. What it means depends on a page
// table; it is never an address on the host.
type VirtAddr uint64

// PFN is a guest page frame number: a guest-physical address divided by PageSize.
type PFN uint64

// PFN returns the number of the page that a lies in.
func (a Addr) PFN() PFN { return PFN(a >> PageShift) }

// Offset returns the byte offset of a inside its page.
func (a Addr) Offset() uint64 { return uint64(a) & (PageSize - 1) }

// Aligned reports whether a is the first byte of a page.
func (a Addr) Aligned() bool { return a.Offset() == 0 }

// Add returns a+n, and false where that is not a guest-physical address.
func (a Addr) Add(n uint64) (Addr, bool) {
	s := a + Addr(n)
	return s, s >= a && s <= MaxAddr
}

// Addr returns the first byte of page p. It is only meaningful for p up to
// MaxAddr.PFN(), which every Run guarantees.
func (p PFN) Addr() Addr { return Addr(p) << PageShift }

// Add returns v+n, and false where the sum wraps around.
func (v VirtAddr) Add(n uint64) (VirtAddr, bool) {
	s := v + VirtAddr(n)
	return s, s >= v
}

// Page returns the first byte of the page that v lies in.
func (v VirtAddr) Page() VirtAddr { return v &^ (PageSize - 1) }

// Offset returns the byte offset of v inside its page.
func (v VirtAddr) Offset() uint64 { return uint64(v) & (PageSize - 1) }

// canonicalShift is the highest bit of an address that 5-level x86-64 paging
// translates, 56 (Intel SDM volume 3, 4.5.1). 4-level paging translates fewer, to
// bit 47: what it can't translate its page tables have no entry for.
const canonicalShift = 56

// Canonical reports whether bits 63..56 of v are equal, as the widest x86-64 paging,
// that with 5 levels, demands. A guest with 4 levels can translate only some of these
// addresses.
func (v VirtAddr) Canonical() bool {
	top := int64(v) >> canonicalShift
	return top == 0 || top == -1
}

// Kernel reports whether v lies in the canonical upper half of the widest paging,
// which has that of every other in it.
func (v VirtAddr) Kernel() bool { return int64(v)>>canonicalShift == -1 }
