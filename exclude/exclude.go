// Package exclude decides which pages of a guest stay out of its dump, and
// says why.
//
// A [Request] asks to leave out a range of pages. Drivers in the guest make
// them by advertising KBUGCHECK_REMOVE_PAGES structures ([DecodeTable]), the
// operator by naming ranges ([ParseRanges]); both go the same way from there.
// [NewPlan] holds all requests against the RAM map and against the pages that a
// debugger can't do without, and gives the set of pages to leave out with a
// line for each request: honoured, refused or ignored.
//
// The package is pure: it reads no memory and touches no guest. Requests are
// hostile input. No request can make it loop, overflow or allocate by a count
// that the guest chose; what a plan costs is bounded by the constants
// MaxRequests, MaxRequestsBy and MaxFragments and by the guest's RAM.
package exclude

import (
	"fmt"

	"snap/phys"
)

// Kind says what the address of a range means. The values are the flags of
// KBUGCHECK_REMOVE_PAGES.
type Kind uint32

// The kinds of range.
const (
	Virtual  Kind = FlagVirtual  // contiguous in the System process's address space
	Physical Kind = FlagPhysical // contiguous in guest-physical memory
)

func (k Kind) String() string {
	switch k {
	case Virtual:
		return "virtual"
	case Physical:
		return "physical"
	default:
		return "unknown"
	}
}

// Reason says on whose authority a page is to stay out.
type Reason string

// The reasons for a request.
const (
	Advertised Reason = "advertised" // a driver in the guest asks
	Operator   Reason = "operator"   // the person who takes the dump asks
)

// Request asks to leave Pages pages out, from the one that Address lies in. It
// may be malformed in every way: NewPlan judges it.
type Request struct {
	By           string // who asks: a driver's name, a flag, or a file's name
	Reason       Reason
	Flags        uint32 // of KBUGCHECK_REMOVE_PAGES, as they were given
	BugCheckCode uint32 // 0: for every dump; else only for a dump with that code
	Address      uint64 // virtual or physical, as Kind says; need not be aligned
	Pages        uint64 // 4 KiB pages; 0 asks for nothing
}

// Kind returns what Address means, 0 where Flags don't say it unambiguously.
func (r Request) Kind() Kind {
	switch r.Flags & (FlagVirtual | FlagPhysical) {
	case FlagVirtual:
		return Virtual
	case FlagPhysical:
		return Physical
	default:
		return 0
	}
}

// Features returns the feature nibbles of Flags, in place (bits 4 to 11).
func (r Request) Features() uint32 { return r.Flags & featureMask }

// String returns r's range as ParseRanges reads it: "pa:0x1000+16".
func (r Request) String() string {
	prefix := "??"
	switch r.Kind() {
	case Virtual:
		prefix = prefixVirtual
	case Physical:
		prefix = prefixPhysical
	}
	return fmt.Sprintf("%s:%#x+%d", prefix, r.Address, r.Pages)
}

// physicalRun returns the pages that a physical request names, and false where
// they leave the guest-physical address space.
func (r Request) physicalRun() (phys.Run, bool) {
	run := phys.Run{Base: phys.Addr(r.Address).PFN(), Pages: r.Pages}
	return run, run.Valid()
}

// virtualSpan returns the virtual page numbers that a virtual request names,
// and false where they wrap around or leave the half of the canonical addresses that
// they begin in.
func (r Request) virtualSpan(canonical func(phys.VirtAddr) bool) (span, bool) {
	first, last, ok := r.virtualPages()
	if !ok || !canonical(first) || !canonical(last) || last.Kernel() != first.Kernel() {
		return span{}, false
	}
	return span{lo: uint64(first) >> phys.PageShift, hi: uint64(last)>>phys.PageShift + 1}, true
}

// outsideOfBothHalves reports whether nothing can be mapped at any address of a
// virtual request: all of it lies between the canonical halves.
func (r Request) outsideOfBothHalves(canonical func(phys.VirtAddr) bool) bool {
	first, last, ok := r.virtualPages()
	return ok && !canonical(first) && !canonical(last)
}

// virtualPages returns the first bytes of the first and of the last page of a virtual
// request, and false where there is none or they wrap around.
func (r Request) virtualPages() (first, last phys.VirtAddr, ok bool) {
	const pages = 1 << (64 - phys.PageShift)
	first = phys.VirtAddr(r.Address).Page()
	if lo := uint64(first) >> phys.PageShift; r.Pages == 0 || r.Pages > pages-lo {
		return 0, 0, false
	}
	return first, first + phys.VirtAddr((r.Pages-1)<<phys.PageShift), true
}
