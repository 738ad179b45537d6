package ntlab

import (
	"fmt"
	"slices"

	"snap/phys"
)

// Mix says in which proportion (of any sum) filled pages hold what. It stands
// for what guests' memory is made of, as far as compression cares.
type Mix struct {
	Zero, Text, Structures, Random int
}

// fill is a range of pages whose contents are made up when they are read.
type fill struct {
	run  phys.Run
	mix  Mix
	seed uint64
}

// Fill gives n bytes (rounded down to pages) of RAM that is free, from the
// lowest address up, contents of the given mix. They cost no host memory
// until written to. Fill what is left of the free RAM with a second call.
func (im *Image) Fill(n uint64, mix Mix) error {
	sum := mix.Zero + mix.Text + mix.Structures + mix.Random
	if sum <= 0 || min(mix.Zero, mix.Text, mix.Structures, mix.Random) < 0 {
		return fmt.Errorf("fill with mix %+v: no proportions", mix)
	}
	need := n >> phys.PageShift
	var taken phys.Runs
	for _, r := range im.freeRuns() {
		if need == 0 {
			break
		}
		r.Pages = min(r.Pages, need)
		need -= r.Pages
		im.mem.fills = append(im.mem.fills, fill{run: r, mix: mix, seed: mix64(im.Config.Seed + 0xf111)})
		taken = append(taken, r)
	}
	im.alloc.remove(taken)
	slices.SortFunc(im.mem.fills, func(a, b fill) int { return int(int64(a.run.Base) - int64(b.run.Base)) })
	if need > 0 {
		return fmt.Errorf("fill %d bytes: %w with %d to go", n, errNoMemory, need<<phys.PageShift)
	}
	return nil
}

// freeRuns returns the usable pages that nothing has taken, in runs.
func (im *Image) freeRuns() phys.Runs {
	blocks := make([]uint64, 0, len(im.alloc.used))
	for b := range im.alloc.used {
		blocks = append(blocks, b)
	}
	slices.Sort(blocks)
	var used []phys.Run
	for _, b := range blocks {
		for i := range phys.PFN(largePages) {
			if p := phys.PFN(b*largePages) + i; im.alloc.isUsed(p) {
				used = append(used, phys.Run{Base: p, Pages: 1})
			}
		}
	}
	taken, err := phys.NewRuns(used...)
	if err != nil {
		panic("ntlab: internal error: " + err.Error())
	}
	return im.alloc.usable.Minus(taken)
}

func (s *sparse) fillOf(p phys.PFN) *fill {
	lo, hi := 0, len(s.fills)
	for lo < hi {
		if m := (lo + hi) / 2; s.fills[m].run.End() > p {
			hi = m
		} else {
			lo = m + 1
		}
	}
	if lo < len(s.fills) && s.fills[lo].run.Base <= p {
		return &s.fills[lo]
	}
	return nil
}

// words is what text-like pages are made of.
var words = []string{
	"the ", "system ", "service ", "HKEY_LOCAL_MACHINE\\SOFTWARE\\", "error ", "Windows ", "C:\\Program Files\\",
	"of ", "started ", "0x80070005 ", "and ", "event ", "user ", "session ", "\r\n", "a ", "update ", "network ",
}

// generate fills dst, a whole page, with what page p holds.
func (f *fill) generate(dst []byte, p phys.PFN) {
	r := rng{mix64(f.seed ^ uint64(p))}
	m := f.mix
	switch n := int(r.below(uint64(m.Zero + m.Text + m.Structures + m.Random))); {
	case n < m.Zero:
		clear(dst)
	case n < m.Zero+m.Text:
		for len(dst) > 0 {
			k := copy(dst, words[r.below(uint64(len(words)))])
			dst = dst[k:]
		}
	case n < m.Zero+m.Text+m.Structures:
		generateStructures(dst, &r)
	default:
		r.fill(dst)
	}
}

// generateStructures fills a page with records of 64 bytes: pointers that
// share their upper half, small counters, zeros.
func generateStructures(dst []byte, r *rng) {
	clear(dst)
	base := uint64(0xffff_8000_0000_0000) | r.u64()>>17&^0xfff_ffff
	for i := 0; i < len(dst); i += 64 {
		v := r.u64()
		le.PutUint64(dst[i:], base|v&0xfff_fff0)
		le.PutUint64(dst[i+8:], base|v>>28&0xfff_fff0)
		le.PutUint32(dst[i+16:], uint32(v>>56))
		le.PutUint64(dst[i+24:], base|uint64(i))
		le.PutUint32(dst[i+40:], 0x20)
	}
}
