package ntlab

import (
	"fmt"
	"iter"

	"snap/phys"
)

// WritePhys stores b in guest-physical memory from at on.
func (im *Image) WritePhys(at phys.Addr, b []byte) error {
	if !im.ram.Covers(at, uint64(len(b))) {
		return &phys.AccessError{At: at, Len: len(b), Err: phys.ErrNotRAM}
	}
	im.mem.write(at, b)
	return nil
}

// WriteVirt stores b at va as the System process's page tables map it.
func (im *Image) WriteVirt(va phys.VirtAddr, b []byte) error {
	return im.WriteVirtIn(im.Truth.DirectoryTableBase, va, b)
}

// WriteVirtIn is WriteVirt through another directory table base.
func (im *Image) WriteVirtIn(dtb phys.Addr, va phys.VirtAddr, b []byte) error {
	return im.eachPiece(dtb, va, b, func(at phys.Addr, piece []byte) { im.mem.write(at, piece) })
}

// ReadVirt fills b from va as the System process's page tables map it.
func (im *Image) ReadVirt(va phys.VirtAddr, b []byte) error {
	return im.ReadVirtIn(im.Truth.DirectoryTableBase, va, b)
}

// ReadVirtIn is ReadVirt through another directory table base.
func (im *Image) ReadVirtIn(dtb phys.Addr, va phys.VirtAddr, b []byte) error {
	return im.eachPiece(dtb, va, b, func(at phys.Addr, piece []byte) {
		im.mem.copyPage(piece, at.PFN(), at.Offset())
	})
}

func (im *Image) eachPiece(dtb phys.Addr, va phys.VirtAddr, b []byte, do func(phys.Addr, []byte)) error {
	for len(b) > 0 {
		at, ok := im.TranslateIn(dtb, va)
		if !ok || !im.ram.Has(at.PFN()) {
			return fmt.Errorf("guest-virtual %#x maps no memory of the image", uint64(va))
		}
		n := min(len(b), int(phys.PageSize-va.Offset()))
		do(at, b[:n])
		b = b[n:]
		va += phys.VirtAddr(n)
	}
	return nil
}

// AllocPhys takes n free scattered pages of guest memory out of use and
// returns them. They read as zero until written.
func (im *Image) AllocPhys(n int) ([]phys.PFN, error) {
	out := make([]phys.PFN, 0, n)
	for range n {
		p, err := im.alloc.page()
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// AllocPages maps n fresh scattered pages as writable kernel data, one after
// the other in virtual memory, and returns the first one's address. Every
// process sees them.
func (im *Image) AllocPages(n int) (phys.VirtAddr, error) {
	return im.pool.pages(im, uint64(n))
}

// Spare returns a region of the kernel's .text that holds no code of its own,
// for a guest that is made to run: its page tables let it execute there.
func (im *Image) Spare() (va phys.VirtAddr, size uint64) { return im.spare, spareSize }

// Symbol returns the address of a kernel variable or routine that the builder
// placed, by its name without "nt!".
func (im *Image) Symbol(name string) (phys.VirtAddr, bool) {
	va, ok := im.symbols[name]
	return va, ok
}

// Pages yields the pages that hold anything but zeros by having been written,
// in ascending order, fills excepted. The bytes are the image's own: writing
// to them writes to the guest.
func (im *Image) Pages() iter.Seq2[phys.PFN, *[phys.PageSize]byte] { return im.mem.pages() }

// Populated returns the pages that can hold anything but zeros: those written
// and those filled.
func (im *Image) Populated() phys.Runs {
	var rs []phys.Run
	for p := range im.mem.written() {
		if n := len(rs); n > 0 && rs[n-1].End() == p {
			rs[n-1].Pages++
		} else {
			rs = append(rs, phys.Run{Base: p, Pages: 1})
		}
	}
	for i := range im.mem.fills {
		rs = append(rs, im.mem.fills[i].run)
	}
	out, err := phys.NewRuns(rs...)
	if err != nil {
		panic("ntlab: internal error: " + err.Error())
	}
	return out
}

// Free returns the pages of Windows' runs above 1 MiB that the guest doesn't
// use: nothing maps them, and they aren't filled.
func (im *Image) Free() phys.Runs { return im.freeRuns() }
