package dump

import (
	"math/bits"

	"snap/phys"
)

// What a page holds is told by how many different bytes there are among sampledBytes of
// it: of random ones 57 are likely, and fewer than 50 in one page of a hundred; of text
// and structures half of that or less, and of programs something between
// (docs/benchmarks/compression.md).
const (
	sampledBytes = 64
	randomFrom   = 50
	programFrom  = 32
)

const (
	// sampledPages is how many pages there are to one that is looked at.
	sampledPages = 2
	// sampleStep goes through a page, and through the offsets in 64 bytes too, so that
	// all fields of records of that length are seen.
	sampleStep = 64 + 7
)

// randomLiterals reports whether most of what a compressor finds no match for in p, of
// whole pages, is random: to look for a code of it that is shorter than itself would be
// in vain. It isn't where there are as many pages of programs, whose bytes have one.
func randomLiterals(p []byte) bool {
	const step = sampledPages * phys.PageSize
	random, program := 0, 0
	for at := 0; at+phys.PageSize <= len(p); at += step {
		switch n := differentBytes((*[phys.PageSize]byte)(p[at:])); {
		case n >= randomFrom:
			random++
		case n >= programFrom:
			program++
		}
	}
	return random > program
}

// differentBytes counts how many there are in a sample of a page.
func differentBytes(p *[phys.PageSize]byte) int {
	var seen [4]uint64
	for i := range sampledBytes {
		c := p[i*sampleStep%phys.PageSize]
		seen[c>>6] |= 1 << (c & 63)
	}
	n := 0
	for _, s := range seen {
		n += bits.OnesCount64(s)
	}
	return n
}
