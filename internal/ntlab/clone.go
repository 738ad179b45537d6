package ntlab

import (
	"iter"
	"maps"
	"slices"

	"snap/phys"
)

// Clone returns an image of its own that begins as im is. The two share pages until
// the clone writes to them, so that it costs little: a table of tests builds one image
// and breaks as many clones of it as it has rows. As long as there are clones im must
// not be written to; any number of them may be made and used concurrently.
func (im *Image) Clone() *Image {
	c := *im
	c.mem = im.mem.clone()
	c.alloc = im.alloc.clone()
	c.regs = slices.Clone(im.regs)
	c.symbols = maps.Clone(im.symbols)
	c.pool, c.paged, c.ptes, c.loader = im.pool.clone(), im.paged.clone(), im.ptes.clone(), im.loader.clone()
	t := &c.Truth
	t.Adverts, t.Registrations, t.Marks = slices.Clone(t.Adverts), slices.Clone(t.Registrations), slices.Clone(t.Marks)
	t.Runs, t.Modules, t.Processes = slices.Clone(t.Runs), slices.Clone(t.Modules), slices.Clone(t.Processes)
	return &c
}

func (a *allocator) clone() *allocator {
	c := *a
	r := *a.r
	c.r, c.usable = &r, slices.Clone(a.usable)
	c.used = make(map[uint64]*[8]uint64, len(a.used))
	for at, bits := range a.used {
		b := *bits
		c.used[at] = &b
	}
	return &c
}

func (g region) clone() region {
	if g.r != nil {
		r := *g.r
		g.r = &r
	}
	return g
}

// Changed yields the pages of a clone that were written to since it was made, in
// ascending order.
func (im *Image) Changed() iter.Seq[phys.PFN] {
	own := im.mem
	own.under = nil
	return own.written()
}

// KDBGWord returns a word of the KDBG as the guest keeps it: encoded or plain.
func (im *Image) KDBGWord(v uint64) uint64 {
	if !im.Truth.KDBGEncoded {
		return v
	}
	never, always := uint64(im.deref(im.symbols["KiWaitNever"])), uint64(im.deref(im.symbols["KiWaitAlways"]))
	return le.Uint64(encodeKDBG(le.AppendUint64(nil, v), never, always, im.symbols["KdpDataBlockEncoded"]))
}
