package main

import (
	"fmt"
	"math"
)

// goal is a ratio of two measurements of one run that is to be reached.
type goal struct {
	What  string  // is held against what
	Most  float64 // the ratio is to be at most this
	Ratio float64 // that was measured, NaN for none
}

// String says whether it was reached.
func (g goal) verdict() string {
	switch {
	case math.IsNaN(g.Ratio):
		return "not measured"
	case g.Ratio <= g.Most:
		return "reached"
	}
	return "**missed**"
}

// Names of rows, which goals speak of.
const (
	rowCopy     = "limit: read only (bare copy)"
	rowCompress = "limit: compress only"
	rowPeekRead = "limit: read once through libvirt"
	rowELF      = "virsh dump --memory-only (ELF)"
	rowELFZstd  = "virsh dump (ELF), then zstd -T0 -1"
	rowKdump    = "virsh dump, kdump-zlib"
	rowWinDmp   = "virsh dump, win-dmp"
	rowWinZstd  = "virsh dump, win-dmp, then zstd -T0 -1"
	rowDecoded  = "snap dump"
	rowStored   = "snap dump --verify stored"
	rowPeek     = "snap dump --source peek"
	rowNone     = "snap dump --compress none"
	rowSnapshot = "snap dump --mode snapshot"
)

// goalsOf are those of a dump of one guest, beside its peers. Of a guest that is
// mostly zeros the dump is held against the ELF core alone.
func goalsOf(guest string, rows []*row, zeros bool) []goal {
	row := func(name string) *row { return find(rows, name) }
	ofDump := func(name, against string, most float64) goal {
		return goal{fmt.Sprintf("%s: %s / %s", guest, name, against), most, ratio(row(name), row(against), took, took)}
	}
	if zeros {
		return []goal{ofDump(rowDecoded, rowELF, 1.0)}
	}
	return []goal{
		ofDump(rowDecoded, rowCompress, 1.5),
		ofDump(rowStored, rowCompress, 1.25),
		ofDump(rowDecoded, rowKdump, 0.2),
		ofDump(rowDecoded, rowELFZstd, 0.6),
		{fmt.Sprintf("%s: the pause / %s", guest, rowCopy), 1.1, ratio(row(rowDecoded), row(rowCopy), still, took)},
		{fmt.Sprintf("%s: file of %s / of %s", guest, rowDecoded, rowKdump), 1.0, ratio(row(rowDecoded), row(rowKdump), stored, stored)},
	}
}
