package guest

import (
	"context"

	"snap/phys"
)

// Finder is a way to find page tables that may be a Windows guest's, for people.
// Whatever it finds is held against the guest: page tables that don't lead to a
// kernel whose KDBG, exports and lists agree are passed over.
type Finder struct {
	Name  string
	Cost  string // what it reads
	Trust string // what speaks for, and against, what it finds
}

// finder is a Finder that can be used.
type finder struct {
	Finder
	// byProcessor: what it finds, a processor of the guest runs by.
	byProcessor bool
	// readsAll: it reads all RAM, which is not done if a processor led to a guest
	// that merely lacks something.
	readsAll bool
	// find offers try what may be top-level page tables, the likeliest first,
	// until try returns false. The note says for people why none was found, or
	// that none of those found was the guest's. It fails only when ctx ends.
	find func(ctx context.Context, d *discovery, try func(candidate) bool) (note string, err error)
}

// candidate is a physical address that may be a Windows guest's top-level page
// table, and pointers that may lead to the kernel in it.
type candidate struct {
	root phys.Addr
	from string
	// pagings are how the table may be built, the likelier first; nil where nothing
	// says that.
	pagings []*Paging
	hints   []hint
	// named: what Windows leaves in memory names the table, which need not look like one.
	named bool
}

// offer offers try the candidates until it returns false. The note is none where
// there are none.
func offer(of []candidate, try func(candidate) bool, none string) (note string) {
	for _, c := range of {
		if !try(c) {
			break
		}
	}
	if len(of) == 0 {
		return none
	}
	return ""
}

// finders returns all finders in the order in which Discover tries them: what
// costs least and is believed most comes first.
func finders() []finder {
	return []finder{
		findRegisters,
		findShadow,
		findPublished,
		findLowStub,
		findSelfMap,
		findSelfMapBeyond,
	}
}

// Finders returns the ways in which Discover looks for a guest's page tables, in
// the order in which it tries them.
func Finders() []Finder {
	var out []Finder
	for _, f := range finders() {
		out = append(out, f.Finder)
	}
	return out
}
