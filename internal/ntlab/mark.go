package ntlab

import "snap/guest/phys"

// MarkKind says where marked pages are.
type MarkKind string

// Kinds of marked pages.
const (
	MarkSmall      MarkKind = "4 KiB pages"   // nonpaged memory, scattered physically
	MarkLarge      MarkKind = "2 MiB page"    // part of one
	MarkHuge       MarkKind = "1 GiB page"    // part of one; only images of 4 GiB and more have it
	MarkRunEnds    MarkKind = "ends of runs"  // where MmPhysicalMemoryBlock's runs begin and end; nothing maps them
	MarkShared     MarkKind = "shared pages"  // two processes and the kernel map them
	MarkTransition MarkKind = "transition"    // out of the working set, still in RAM
	MarkPartly     MarkKind = "partly in RAM" // mapped, in transition, in the page file, demand-zero by turns
)

// MarkKinds are all kinds.
func MarkKinds() []MarkKind {
	return []MarkKind{MarkSmall, MarkLarge, MarkHuge, MarkRunEnds, MarkShared, MarkTransition, MarkPartly}
}

// Marked is a range of memory all of which holds a marker.
type Marked struct {
	Kind MarkKind
	// VA is the range's first address in the system space, 0 if nothing maps it.
	VA phys.VirtAddr
	// Pages is the length of the range, pages that are not in RAM included.
	Pages uint64
	// PFNs are the pages in RAM, in the range's order.
	PFNs []phys.PFN
	// Views are the other mappings of all the pages.
	Views []View
	// Marker is found all over each of the pages, at odd and even offsets,
	// and nowhere else: no 8 bytes of it are in another page but by chance.
	Marker []byte
}

// View is a process's mapping of memory.
type View struct {
	DirectoryTableBase phys.Addr
	VA                 phys.VirtAddr
}

// Request returns the entry that asks for the range: by virtual address if
// the range has one, else by physical.
func (m Marked) Request() RemovePages {
	if m.VA != 0 {
		return RemovePages{Flags: RemoveVirtual, Address: uint64(m.VA), Count: m.Pages}
	}
	return RemovePages{Flags: RemovePhysical, Address: uint64(m.PFNs[0].Addr()), Count: m.Pages}
}

// Mark puts ranges of n pages of the kind into the image, each with a marker
// of its own. It is one range, but MarkRunEnds gives several, none longer than
// n.
func (im *Image) Mark(n int, kind MarkKind) ([]Marked, error) {
	return nil, errNotYet
}
