package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"snap/phys"
)

var le = binary.LittleEndian

// Bits of a page-table entry (AMD64 manual volume 2, 5.4).
const (
	ptePresent  = 1 << 0
	pteWritable = 1 << 1
	pteNoCache  = 1<<3 | 1<<4
	pteLarge    = 1 << 7
	pteAddress  = 0x000f_ffff_ffff_f000
)

// tableBase returns the physical address in a CR3, without PCID and flags.
func tableBase(cr3 uint64) phys.Addr { return phys.Addr(cr3 & pteAddress) }

// tables reads and writes an image by virtual address. The image is our own,
// so what it maps is trusted.
type tables struct {
	im   Image
	root phys.Addr
	la57 bool // they have 5 levels
}

// tablesOf returns the tables at root, of the kind that the image's processors use.
func tablesOf(im Image, root phys.Addr) tables {
	return tables{im: im, root: root, la57: im.Registers()[0].CR4&phys.CR4LA57 != 0}
}

// topShift is the bit of an address where the index of the table at the root begins.
func (t tables) topShift() uint {
	if t.la57 {
		return 48
	}
	return 39
}

// errNotWritable says that the image maps a page read-only.
var errNotWritable = errors.New("mapped read-only")

// translate walks the page tables. writable tells whether every level
// allows writes.
func (t tables) translate(v phys.VirtAddr) (at phys.Addr, writable bool, err error) {
	table, writable := t.root, true
	for shift := t.topShift(); ; shift -= 9 {
		var e [8]byte
		slot := uint64(v) >> shift & 511
		if err := t.im.ReadPhys(context.Background(), e[:], table+phys.Addr(slot*8)); err != nil {
			return 0, false, fmt.Errorf("translate %#x: %w", uint64(v), err)
		}
		pte := le.Uint64(e[:])
		if pte&ptePresent == 0 {
			return 0, false, fmt.Errorf("translate %#x: entry %#x at level %d is not present", uint64(v), pte, shift)
		}
		writable = writable && pte&pteWritable != 0
		if shift == 12 || (shift <= 30 && pte&pteLarge != 0) {
			mask := uint64(1)<<shift - 1
			return phys.Addr(pte&pteAddress&^mask | uint64(v)&mask), writable, nil
		}
		table = phys.Addr(pte & pteAddress)
	}
}

// each calls do for every page that the n bytes at v touch.
func (t tables) each(v phys.VirtAddr, n int, do func(at phys.Addr, lo, hi int) error) error {
	for lo := 0; lo < n; {
		hi := min(n, lo+int(phys.PageSize-(v+phys.VirtAddr(lo)).Offset()))
		at, _, err := t.translate(v + phys.VirtAddr(lo))
		if err != nil {
			return err
		}
		if err := do(at, lo, hi); err != nil {
			return err
		}
		lo = hi
	}
	return nil
}

// readPhys reads by physical address.
func (t tables) readPhys(p []byte, at phys.Addr) error {
	return t.im.ReadPhys(context.Background(), p, at)
}

func (t tables) read(p []byte, v phys.VirtAddr) error {
	return t.each(v, len(p), func(at phys.Addr, lo, hi int) error {
		return t.im.ReadPhys(context.Background(), p[lo:hi], at)
	})
}

func (t tables) write(p []byte, v phys.VirtAddr) error {
	return t.each(v, len(p), func(at phys.Addr, lo, hi int) error {
		return t.im.WritePhys(at, p[lo:hi])
	})
}

// mustWrite checks that the guest itself may write the n bytes at v.
func (t tables) mustWrite(v phys.VirtAddr, n int) error {
	for at := v.Page(); at < v+phys.VirtAddr(n); at += phys.PageSize {
		_, ok, err := t.translate(at)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("write %#x: %w", uint64(at), errNotWritable)
		}
	}
	return nil
}
