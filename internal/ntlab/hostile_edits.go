package ntlab

import (
	"errors"
	"fmt"
	"slices"

	"snap/phys"
)

// ErrNothingThere says that a guest's Windows is too old to have what an attack changes.
var ErrNothingThere = errors.New("the guest has no such thing")

// edits is a series of writes that stops at the first failure.
type edits struct {
	im  *Image
	err error
}

func (e *edits) put(va phys.VirtAddr, b []byte) {
	if e.err == nil {
		e.err = e.im.WriteVirt(va, b)
	}
}

func (e *edits) put64(va phys.VirtAddr, v uint64) { e.put(va, le.AppendUint64(nil, v)) }
func (e *edits) put32(va phys.VirtAddr, v uint32) { e.put(va, le.AppendUint32(nil, v)) }
func (e *edits) put16(va phys.VirtAddr, v uint16) { e.put(va, le.AppendUint16(nil, v)) }

func (e *edits) get64(va phys.VirtAddr) phys.VirtAddr {
	var b [8]byte
	if e.err == nil {
		e.err = e.im.ReadVirt(va, b[:])
	}
	return phys.VirtAddr(le.Uint64(b[:]))
}

// physical stores b if there is RAM; where there isn't, the attack has
// nothing to work on.
func (e *edits) physical(at phys.Addr, b []byte) {
	if e.err == nil {
		e.err = e.im.WritePhys(at, b)
	}
}

func (e *edits) symbol(name string) phys.VirtAddr {
	va, ok := e.im.symbols[name]
	if !ok && e.err == nil {
		e.err = fmt.Errorf("the image has no %s", name)
	}
	return va
}

func attack(f func(*edits)) func(*Image) error {
	return func(im *Image) error {
		e := &edits{im: im}
		f(e)
		return e.err
	}
}

// entry stores an entry of the System process's page tables: that of the given level
// for va, whose tables above must be there.
func (e *edits) entry(va phys.VirtAddr, level int, v uint64) {
	at, ok := e.im.EntryAddr(va, level)
	if !ok && e.err == nil {
		e.err = fmt.Errorf("no entry of level %d for %#x", level, uint64(va))
	}
	e.physical(at, le.AppendUint64(nil, v))
}

// leaf returns the level of the entry that maps va.
func (e *edits) leaf(va phys.VirtAddr) int {
	for level := 1; level <= maxLargeLevel; level++ {
		if at, ok := e.im.EntryAddr(va, level); ok && e.im.entry(at.PFN(), at.Offset()/8)&pteP != 0 {
			return level
		}
	}
	if e.err == nil {
		e.err = fmt.Errorf("nothing maps %#x", uint64(va))
	}
	return 1
}

// unmap takes out of the tables what maps va.
func (e *edits) unmap(va phys.VirtAddr) { e.entry(va, e.leaf(va), 0) }

// kdbg stores a word of the KDBG in the form in which the guest keeps it, and in
// Truth: it is the guest's KDBG that lies.
func (e *edits) kdbg(off int, v uint64) {
	if e.err == nil && off+8 > len(e.im.Truth.KDBGPlain) {
		e.err = ErrNothingThere
	}
	if e.err != nil {
		return
	}
	e.put64(e.im.Truth.KDBG+phys.VirtAddr(off), e.im.KDBGWord(v))
	b := le.AppendUint64(nil, v)
	e.im.Truth.KDBGPlain = slices.Concat(e.im.Truth.KDBGPlain[:off], b, e.im.Truth.KDBGPlain[off+8:])
}

// kdbg16 is kdbg for a field of 16 bits.
func (e *edits) kdbg16(off int, v uint16) {
	word := off &^ 7
	if word+8 > len(e.im.Truth.KDBGPlain) {
		e.err = ErrNothingThere
		return
	}
	b := slices.Clone(e.im.Truth.KDBGPlain[word : word+8])
	le.PutUint16(b[off-word:], v)
	e.kdbg(word, le.Uint64(b))
}

// pages returns n fresh pages of mapped kernel memory.
func (e *edits) pages(n int) phys.VirtAddr {
	if e.err != nil {
		return 0
	}
	va, err := e.im.AllocPages(n)
	e.err = err
	return va
}

// free returns a page of RAM that nothing maps.
func (e *edits) free() phys.Addr {
	if e.err != nil {
		return 0
	}
	p, err := e.im.AllocPhys(1)
	if e.err = err; err != nil {
		return 0
	}
	return p[0].Addr()
}

// top stores entry i of the System process's top-level table.
func (e *edits) top(i, v uint64) {
	e.physical(e.im.Truth.DirectoryTableBase+phys.Addr(8*i), le.AppendUint64(nil, v))
}
