package vmstate

import "iter"

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

// Block is a RAM block of QEMU.
type Block struct {
	Name string // QEMU's name, as in "pc.ram"
	Size uint64 // used length in bytes, a multiple of the page size
}

// Page returns what the stream has for page i of the block, counted from the
// block's start. The bytes are nil unless kind is Data; they are part of the
// stream and must not be written to. A page past the block's end is Absent.
func (b *Block) Page(i uint64) (page []byte, kind PageKind) { return nil, Absent }

// Runs gives the maximal ranges of pages of kind k, ascending.
func (b *Block) Runs(k PageKind) iter.Seq[Range] { return func(func(Range) bool) {} }
