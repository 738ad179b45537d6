package vmstate

import (
	"iter"

	"snap/phys"
)

// PageKind is what a stream says of a page.
type PageKind uint8

// Kinds of pages.
const (
	Absent PageKind = iota // not in the stream: memory that the guest doesn't have
	Zero                   // all zero
	Data                   // has content
)

// Range is a range of consecutive pages of a block.
type Range struct {
	First uint64 // offset in the block, in pages
	Pages uint64
}

// The index of a block is a tree of two levels, made where pages are found: a
// record costs at most a region, a group and a table, each of which stands for a
// fixed part of the block. What has no page takes no memory but its pointer in
// the level above.
const (
	groupPages  = 512              // 2 MiB of the guest
	regionPages = groupPages * 512 // 1 GiB of the guest
)

// group is the index of groupPages pages.
type group struct {
	zero [groupPages / 64]uint64 // bit set: the page is Zero
	at   *[groupPages]uint64     // offset of a Data page in the stream; nil if there is none
}

func (g *group) kind(i uint64) PageKind {
	switch {
	case g == nil:
		return Absent
	case g.at != nil && g.at[i] != 0:
		return Data
	case g.zero[i/64]>>(i%64)&1 != 0:
		return Zero
	}
	return Absent
}

type region [regionPages / groupPages]*group

// Block is a RAM block of QEMU.
type Block struct {
	Name string // QEMU's name, as in "pc.ram"
	Size uint64 // used length in bytes, a multiple of the page size

	stream  []byte
	regions []*region
}

func newBlock(name string, size uint64, stream []byte) *Block {
	n := (size>>phys.PageShift + regionPages - 1) / regionPages
	return &Block{Name: name, Size: size, stream: stream, regions: make([]*region, n)}
}

func (b *Block) pages() uint64 { return b.Size >> phys.PageShift }

// group returns the index of the pages around i, which must lie in the block.
func (b *Block) group(i uint64) *group {
	r := b.regions[i/regionPages]
	if r == nil {
		return nil
	}
	return r[i%regionPages/groupPages]
}

// makeGroup is like group, but makes what isn't there.
func (b *Block) makeGroup(i uint64) *group {
	r := b.regions[i/regionPages]
	if r == nil {
		r = new(region)
		b.regions[i/regionPages] = r
	}
	g := r[i%regionPages/groupPages]
	if g == nil {
		g = new(group)
		r[i%regionPages/groupPages] = g
	}
	return g
}

// setZero notes that page i, which lies in the block, is zero. It is false if
// the page has been there before.
func (b *Block) setZero(i uint64) bool {
	g := b.makeGroup(i)
	i %= groupPages
	if g.kind(i) != Absent {
		return false
	}
	g.zero[i/64] |= 1 << (i % 64)
	return true
}

// setData notes that the content of page i is at offset at of the stream.
func (b *Block) setData(i uint64, at int) bool {
	g := b.makeGroup(i)
	i %= groupPages
	if g.kind(i) != Absent {
		return false
	}
	if g.at == nil {
		g.at = new([groupPages]uint64)
	}
	g.at[i] = uint64(at)
	return true
}

// Page returns what the stream has for page i of the block, counted from the
// block's start. The bytes are nil unless kind is Data; they are part of the
// stream and must not be written to. A page past the block's end is Absent.
func (b *Block) Page(i uint64) (page []byte, kind PageKind) {
	if i >= b.pages() {
		return nil, Absent
	}
	g := b.group(i)
	i %= groupPages
	kind = g.kind(i)
	if kind != Data {
		return nil, kind
	}
	at := g.at[i]
	return b.stream[at : at+phys.PageSize : at+phys.PageSize], Data
}

// Runs gives the maximal ranges of pages of kind k, ascending. Parts of the
// block without any page cost next to nothing.
func (b *Block) Runs(k PageKind) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		var run Range
		for r := range b.parts(k) {
			if run.Pages > 0 && run.First+run.Pages == r.First {
				run.Pages += r.Pages
				continue
			}
			if run.Pages > 0 && !yield(run) {
				return
			}
			run = r
		}
		if run.Pages > 0 {
			yield(run)
		}
	}
}

// parts is Runs, in pieces.
func (b *Block) parts(k PageKind) iter.Seq[Range] {
	return func(yield func(Range) bool) {
		for at := uint64(0); at < b.pages(); {
			g, span := b.group(at), uint64(groupPages)
			if b.regions[at/regionPages] == nil {
				span = regionPages
			}
			n := min(span, b.pages()-at)
			if g == nil {
				if k == Absent && !yield(Range{at, n}) {
					return
				}
				at += n
				continue
			}
			for i := range n {
				if g.kind(i) == k && !yield(Range{at + i, 1}) {
					return
				}
			}
			at += n
		}
	}
}
