package boot

import (
	_ "embed"
	"math/rand/v2"

	"snap/phys"
)

// Kind is what a filled page holds. The values are those of stub.asm.
type Kind uint64

// Kinds of page.
const (
	Zero       Kind = iota // written, and zero
	Text                   // words: compresses well
	Structures             // kernel pointers and counts: compresses very well
	Random                 // doesn't compress
)

// Mix is the share of each kind of page, in parts of their sum; all 0 means
// as many of each.
type Mix struct{ Zero, Text, Structures, Random uint }

// Fill is a run of pages of one kind.
type Fill struct {
	Run  phys.Run
	Kind Kind
	Seed uint64
}

func (f Fill) entry() [4]uint64 {
	return [4]uint64{uint64(f.Run.Base.Addr()), f.Run.Pages, uint64(f.Kind), f.Seed}
}

// fillRun is the longest run of one kind, in pages.
const fillRun = 256

// planFills divides the first o.FillPages of the unused pages into runs whose
// kinds follow o.Mix.
func planFills(unused phys.Runs, o Options) []Fill {
	m := o.Mix
	if m == (Mix{}) {
		m = Mix{1, 1, 1, 1}
	}
	r := rand.New(rand.NewPCG(o.Seed, uint64(len("fills"))))
	var out []Fill
	left := o.FillPages
	for _, run := range unused {
		for run.Pages > 0 && left > 0 {
			n := min(run.Pages, left, fillRun)
			out = append(out, Fill{phys.Run{Base: run.Base, Pages: n}, m.draw(r), o.Seed | 1})
			run.Base += phys.PFN(n)
			run.Pages -= n
			left -= n
		}
	}
	return out
}

func (m Mix) draw(r *rand.Rand) Kind {
	n := r.UintN(m.Zero + m.Text + m.Structures + m.Random)
	for k, share := range []uint{m.Zero, m.Text, m.Structures} {
		if n < share {
			return Kind(k)
		}
		n -= share
	}
	return Random
}

// words are the 64 words of 8 bytes that text is made of, as in stub.asm.
//
//go:embed words.txt
var words string

// Page writes to b, which has phys.PageSize bytes, what the guest fills page
// pfn with.
func (f Fill) Page(b []byte, pfn phys.PFN) {
	const odd = 0x9E3779B97F4A7C15
	x := uint64(pfn)*odd ^ f.Seed
	if x == 0 {
		x = odd
	}
	next := func() uint64 { // xorshift64 (Marsaglia, Journal of Statistical Software 8/14)
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		return x
	}
	clear(b)
	switch f.Kind {
	case Zero:
	case Text:
		for i := 0; i < phys.PageSize; i += 8 {
			w := next() >> 32 & 63 * 8
			copy(b[i:], words[w:w+8])
		}
	case Structures:
		const pool = 0xFFFFA000_00000000
		for i := 0; i < phys.PageSize; i += 64 {
			v := next()
			le.PutUint64(b[i:], pool|v&0x0FFFFFF0)
			le.PutUint64(b[i+8:], pool|v>>32&0x0FFFFFF0)
			le.PutUint64(b[i+16:], v&0xFF)
		}
	case Random:
		for i := 0; i < phys.PageSize; i += 8 {
			le.PutUint64(b[i:], next())
		}
	}
}
