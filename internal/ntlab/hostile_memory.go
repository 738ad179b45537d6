package ntlab

import (
	"context"

	"snap/phys"
)

// freeSlots returns PML4 slots of the system half that map nothing.
func freeSlots(im *Image) []uint64 {
	var out []uint64
	for i := uint64(256); i < 512; i++ {
		if im.entry(im.Truth.DirectoryTableBase.PFN(), i) == 0 {
			out = append(out, i)
		}
	}
	return out
}

func memoryAttacks() []Attack {
	return []Attack{
		edited(
			"many self-maps", "four more slots of the PML4 map the PML4 itself", Refused, "kernel",
			attack(func(e *edits) {
				dtb := e.im.Truth.DirectoryTableBase
				for _, s := range freeSlots(e.im)[:4] {
					e.physical(dtb+phys.Addr(8*s), le.AppendUint64(nil, uint64(dtb)|kernelTable))
				}
			}),
		),
		edited(
			"tables outside of RAM", "slots of the PML4 lead into the VGA hole, past RAM, and to the last page of 52 bits", Found, "",
			attack(func(e *edits) {
				dtb, slots := e.im.Truth.DirectoryTableBase, freeSlots(e.im)
				for i, p := range []phys.Addr{0xA0000, e.im.ram.End().Addr(), phys.MaxAddr - phys.PageSize} {
					e.physical(dtb+phys.Addr(8*slots[i]), le.AppendUint64(nil, uint64(p)|kernelTable))
				}
			}),
		),
		edited(
			"table of itself", "a page-directory-pointer table whose 512 entries all lead to it", Found, "",
			attack(func(e *edits) {
				pages, err := e.im.AllocPhys(1)
				if err != nil {
					e.err = err
					return
				}
				at := pages[0].Addr()
				var table []byte
				for range 512 {
					table = le.AppendUint64(table, uint64(at)|kernelTable)
				}
				e.physical(at, table)
				slot := freeSlots(e.im)[0]
				e.physical(e.im.Truth.DirectoryTableBase+phys.Addr(8*slot), le.AppendUint64(nil, uint64(at)|kernelTable))
			}),
		),
		edited(
			"kernel section count", "the kernel's NT headers claim 65535 sections", Refused, "no-kernel",
			attack(func(e *edits) { e.put16(e.im.Truth.KernelBase+peHeaderAt+6, 0xFFFF) }),
		),
		edited(
			"kernel header offset", "e_lfanew of the kernel leads out of its first page by all of 32 bits", Refused, "no-kernel",
			attack(func(e *edits) { e.put32(e.im.Truth.KernelBase+0x3C, 0xFFFF_FFF0) }),
		),
		edited(
			"kernel export counts", "the kernel's export directory claims 4 Gi names", Degraded, "4294967295 names",
			attack(func(e *edits) {
				d := e.exports()
				e.put32(d+0x14, 0xFFFF_FFFF)
				e.put32(d+0x18, 0xFFFF_FFFF)
			}),
		),
		edited(
			"kernel export directory", "the kernel's export directory lies past its end", Found, "",
			attack(func(e *edits) {
				e.put32(e.im.Truth.KernelBase+peHeaderAt+0x18+0x70, e.im.Truth.KernelSize-8)
			}),
		),
		edited(
			"forged KDBG in free memory", "8 plain KDBGs that name the kernel's base lie in unused pages", Found, "",
			attack(func(e *edits) {
				pages, err := e.im.AllocPhys(8)
				if err != nil {
					e.err = err
					return
				}
				for i, p := range pages {
					e.physical(p.Addr()+phys.Addr(0x20*i), forgedKDBG(e.im))
				}
			}),
		),
		edited(
			"forged KDBG in pool", "a plain KDBG that names the kernel's base, and junk besides, lies in nonpaged pool", Found, "",
			attack(func(e *edits) {
				va, err := e.im.AllocPages(1)
				if err != nil {
					e.err = err
					return
				}
				e.put(va+0x40, forgedKDBG(e.im))
			}),
		),
		edited(
			"forged KDBG in the kernel", "a plain KDBG with junk lies in the kernel's .text", Found, "",
			attack(func(e *edits) { e.put(e.im.spare+0x100, forgedKDBG(e.im)) }),
		),
		edited(
			"forged start blocks", "low memory holds start blocks whose CR3 is a page of zeros, or no RAM", Found, "",
			attack(func(e *edits) {
				zero, err := e.im.AllocPhys(1)
				if err != nil {
					e.err = err
					return
				}
				for i, cr3 := range []phys.Addr{zero[0].Addr(), 0xA0000, e.im.ram.End().Addr()} {
					s := make([]byte, phys.PageSize)
					le.PutUint64(s, 0x1_0006_12E9)
					le.PutUint64(s[stubLmTarget:], uint64(e.im.Truth.KernelBase))
					le.PutUint64(s[stubCR3:], uint64(cr3))
					e.physical(phys.PFN(0x40+i).Addr(), s)
				}
			}),
		),
		edited(
			"forged top-level tables", "pages in the first 16 MiB look like a PML4 with a self-map, and map nothing", Found, "",
			attack(func(e *edits) {
				for range 16 {
					p, err := e.im.alloc.pageBelow(16 * mib >> phys.PageShift)
					if err != nil {
						e.err = err
						return
					}
					forgeTop(e, p)
				}
			}),
		),
		edited(
			"stale kernel", "a copy of the kernel's first MiB lies in unmapped memory, as after a soft reboot", Found, "",
			attack(staleKernel),
		),
		edited(
			"broken IDT", "every gate of every processor leads to address 0", Found, "",
			attack(func(e *edits) {
				for i := range e.im.cpus {
					e.put(e.im.cpus[i].idt, make([]byte, idtLimit+1))
				}
			}),
		),
	}
}

// exports returns the address of the kernel's export directory.
func (e *edits) exports() phys.VirtAddr {
	return e.im.Truth.KernelBase + e.get64(e.im.Truth.KernelBase+peHeaderAt+0x18+0x70)&0xffffffff
}

// forgedKDBG is a block with a right tag, size and kernel base, and junk for
// the rest.
func forgedKDBG(im *Image) []byte {
	b := make([]byte, len(im.Truth.KDBGPlain))
	stream(im.Config.Seed, 'f').fill(b)
	copy(b[kdbgOwnerTag:kdbgKernBase+8], im.Truth.KDBGPlain[kdbgOwnerTag:])
	return b
}

// forgeTop makes page p look like a top-level table by its entries alone.
func forgeTop(e *edits, p phys.PFN) {
	t := make([]byte, phys.PageSize)
	le.PutUint64(t[8*0x1ED:], uint64(p.Addr())|kernelTable)
	r := stream(e.im.Config.Seed, uint64(p))
	for range 8 {
		le.PutUint64(t[8*r.between(0x100, 0x1EC):], r.below(uint64(e.im.ram.End()))<<phys.PageShift|kernelTable)
	}
	e.physical(p.Addr(), t)
}

func staleKernel(e *edits) {
	const pages = 256
	fresh, err := e.im.AllocPhys(pages)
	if err != nil {
		e.err = err
		return
	}
	buf := make([]byte, phys.PageSize)
	for i, p := range fresh {
		at, ok := e.im.Translate(e.im.Truth.KernelBase + phys.VirtAddr(i<<phys.PageShift))
		if !ok {
			continue
		}
		if err := e.im.ReadPhys(context.Background(), buf, at); err != nil {
			e.err = err
			return
		}
		e.physical(p.Addr(), buf)
	}
}

// HalfDecodeKDBG leaves the first n bytes (a multiple of 8) of an encoded KDBG
// decoded, as when a guest is stopped within the routine that does it.
func (im *Image) HalfDecodeKDBG(n int) error {
	return im.WriteVirt(im.Truth.KDBG, im.Truth.KDBGPlain[:n&^7])
}
