package ntlab

import (
	"fmt"
	"slices"

	"snap/phys"
)

// imageRoom is what of a kernel image is taken, in bytes from its base.
type imageRoom struct{ taken [][2]uint32 }

func (m *imageRoom) take(from, size uint32) { m.taken = append(m.taken, [2]uint32{from, from + size}) }

func (m *imageRoom) free(from, size uint32) bool {
	return !slices.ContainsFunc(m.taken, func(t [2]uint32) bool { return from < t[1] && t[0] < from+size })
}

// place takes size bytes somewhere in a section.
func (m *imageRoom) place(s section, size, align uint32, r *rng) (uint32, error) {
	const tries = 1000
	if size < s.size {
		for range tries {
			at := s.rva + uint32(r.below(uint64((s.size-size)/align+1)))*align
			if m.free(at, size) {
				m.take(at, size)
				return at, nil
			}
		}
	}
	return 0, fmt.Errorf("section %s has no room for %#x bytes", s.name, size)
}

// placeRowVariables gives each variable the address that the row says, and those of
// which it says none a free one in their section, which the seed decides.
func (b *builder) placeRowVariables(r *rng, kdbgRVA uint32) {
	var room imageRoom
	rdata, data := b.p.section(".rdata"), b.p.section(".data")
	room.take(rdata.rva, 0x400*0x10+0x100) // the debug directory
	room.take(kdbgRVA, b.p.kdbg.size)
	set := func(name string, rva uint32) { b.symbols[name] = b.lay.kernel + phys.VirtAddr(rva) }
	for _, n := range b.p.fixedData() {
		rva := b.p.row.rvas[n]
		if n != "KdDebuggerDataBlock" {
			if size := b.p.fixedSize(n); room.free(rva, size) {
				room.take(rva, size)
			} else {
				check(fmt.Errorf("%s at %#x is where something else is", n, rva))
			}
		}
		set(n, rva)
	}
	if _, placed := b.symbols["KiInitialPCR"]; b.p.processor.bootPCRInImage && !placed {
		set("KiInitialPCR", must(room.place(data, b.p.processor.sizePCR, phys.PageSize, r)))
	}
	vars := slices.Concat(kernelVariables, b.p.kdbg.pointers)
	r.shuffle(len(vars), func(i, j int) { vars[i], vars[j] = vars[j], vars[i] })
	for _, v := range vars {
		if v.size == 0 {
			continue // a routine
		}
		if b.symbols[v.name] == 0 {
			set(v.name, must(room.place(b.p.section(v.area), v.size, 16, r)))
		}
		if isListHead(v) {
			b.list(b.symbols[v.name])
		}
	}
	b.symbols["KdPrintDefaultCircularBufferEnd"] = b.symbols["KdPrintDefaultCircularBuffer"] + 0x1000
}
