// Package filetest makes files of the formats that package hv/file reads, for tests
// of whoever reads them. It shares no code with what reads them.
package filetest

import (
	"maps"
	"slices"

	"snap/phys"
)

// Range is memory at a guest-physical address.
type Range struct {
	At   phys.Addr
	Data []byte
}

// Ranges returns pages as ranges, ascending, each as long as it can be. Pages are
// whole.
func Ranges(pages map[phys.PFN][]byte) []Range {
	var out []Range
	for _, p := range slices.Sorted(maps.Keys(pages)) {
		if n := len(out); n > 0 && out[n-1].At+phys.Addr(len(out[n-1].Data)) == p.Addr() {
			out[n-1].Data = append(out[n-1].Data, pages[p]...)
			continue
		}
		out = append(out, Range{At: p.Addr(), Data: slices.Clone(pages[p])})
	}
	return out
}
