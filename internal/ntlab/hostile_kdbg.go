package ntlab

import (
	"context"
	"fmt"

	"snap/phys"
)

// nowhere are pointers that no kernel has.
var nowhere = []uint64{0, 0x7FFE_0000, 0x8000_0000_0000_0000, 0xFFFF_8000_0000_0000, ^uint64(0), 0xFFFF_FFFF_FFFF_FFF8}

// kdbgAttacks are fields of the debugger data block that lie.
func kdbgAttacks() []Attack {
	const gone = "no debugger data block (KDBG)"
	word := func(off int, v uint64) func(*Image) error {
		return attack(func(e *edits) { e.kdbg(off, v) })
	}
	half := func(off int, v uint16) func(*Image) error {
		return attack(func(e *edits) { e.kdbg16(off, v) })
	}
	out := []Attack{
		edited("KDBG size of 4 GiB", "the size in the KDBG is 4 GiB less one", Degraded, gone, word(kdbgOwnerTag, kdbgTag|0xFFFF_FFFF<<32)),
		edited("KDBG size of 4 KiB", "the size in the KDBG is 4 KiB, which is more than there is", Found, "", word(kdbgOwnerTag, kdbgTag|0x1000<<32)),
		edited("KDBG tag", "the KDBG has another tag", Degraded, gone, word(kdbgOwnerTag, 0x380<<32|0x41414141)),
		edited("KDBG of another kernel", "the KDBG has the base of another kernel", Degraded, gone, word(kdbgKernBase, 0xFFFF_F800_1234_5000)),
		edited("KDBG page size", "the KDBG says that pages have 2 MiB", Degraded, gone, word(kdbgPageSize, 2*mib)),
		edited("KDBG list loops on itself", "the KDBG's links lead to the KDBG", Found, "",
			attack(func(e *edits) {
				e.kdbg(kdbgFlink, uint64(e.im.Truth.KDBG))
				e.kdbg(kdbgBlink, uint64(e.im.Truth.KDBG))
			})),
		edited("KDBG without lists", "the heads of lists in the KDBG are outside of the kernel", Degraded, gone,
			attack(func(e *edits) {
				e.kdbg(0x48, uint64(e.im.Truth.KernelBase)+1<<32)
				e.kdbg(0x50, uint64(e.im.Truth.KernelBase)-8)
			})),
		edited("KDBG with lists swapped", "the KDBG takes the list of modules for that of processes, and the other way round", Degraded, gone,
			attack(func(e *edits) {
				e.kdbg(0x48, uint64(e.im.Truth.PsActiveProcessHead))
				e.kdbg(0x50, uint64(e.im.Truth.PsLoadedModuleList))
			})),
		edited("KDBG EPROCESS offset", "the KDBG says that DirectoryTableBase is 64 KiB into EPROCESS", Degraded, gone, half(0x2AE, 0xFFF8)),
		edited("KDBG EPROCESS size", "the KDBG says that an EPROCESS has 65535 bytes", Found, "", half(0x2A8, 0xFFFF)),
		edited("KDBG context offset", "the KDBG says that the pointer to a processor's context is 64 KiB into KPRCB", Warned, "no place for its context", half(0x338, 0xFFF8)),
		edited("KDBG number offset", "the KDBG says that a processor's number is 64 KiB into KPRCB", Degraded, "KiProcessorBlock can't be read", half(0x2BE, 0xFFF8)),
		edited("half-decoded KDBG", "the kernel is decoding the KDBG, and has done its first 0x18 bytes", Any, "", halfDecoded(0x18)),
		edited("mostly decoded KDBG", "the kernel is decoding the KDBG, and has done its first 0x200 bytes", Any, "", halfDecoded(0x200)),
		edited("KDBG gone", "the KDBG is zeros", Degraded, gone,
			attack(func(e *edits) { e.put(e.im.Truth.KDBG, make([]byte, len(e.im.Truth.KDBGPlain))) })),
		edited("PteBase", "the KDBG says that page tables are mapped where they aren't", Degraded, gone, word(kdbgPTEBase, 0xFFFF_8080_0000_0000)),
	}
	for _, f := range []struct {
		name    string
		off     int
		outcome Outcome
		says    string
	}{
		{"MmPfnDatabase", 0xC0, Warned, "MmPfnDatabase"},
		{"KiBugCheckData", 0x88, Warned, "KiBugcheckData"},
		{"MmPhysicalMemoryBlock", 0x270, Warned, "MmPhysicalMemoryBlock"},
		{"KiProcessorBlock", 0x218, Degraded, "KiProcessorBlock can't be read"},
	} {
		for _, v := range nowhere[1:] {
			out = append(out, edited(fmt.Sprintf("KDBG %s at %#x", f.name, v), "the KDBG says that the variable is where nothing is", f.outcome, f.says, word(f.off, v)))
		}
		out = append(out, edited("KDBG "+f.name+" is itself", "the KDBG says that the variable is the KDBG", Any, "",
			attack(func(e *edits) { e.kdbg(f.off, uint64(e.im.Truth.KDBG)) })))
	}
	return out
}

// soundForgery is a KDBG that is sound as far as it can be told without following it.
func soundForgery(im *Image) []byte {
	b := forgedKDBG(im)
	copy(b[:0x18], im.Truth.KDBGPlain)
	copy(b[0x48:0x58], im.Truth.KDBGPlain[0x48:])
	copy(b[kdbgPageSize:kdbgPageSize+8], im.Truth.KDBGPlain[kdbgPageSize:])
	return b
}

// textIsData says of the kernel's code that the kernel writes to it.
func textIsData(e *edits) {
	const text = 't'<<32 | 'x'<<24 | 'e'<<16 | 't'<<8 | '.'
	for i := range kernelSections(e) {
		if at := sectionAt(e, i); e.get64(at) == text {
			e.put32(at+sectionFlags, scnWrite)
		}
	}
}

// kernelSections returns how many sections the kernel has.
func kernelSections(e *edits) int {
	return int(e.get64(e.im.Truth.KernelBase+peSections) & 0xFFFF)
}

// sectionFlags is where the Characteristics are in an IMAGE_SECTION_HEADER.
const sectionFlags = 36

// sectionAt returns where a section of the kernel is described.
func sectionAt(e *edits, i int) phys.VirtAddr {
	return e.im.Truth.KernelBase + peSectionTable + phys.VirtAddr(i)*40
}

// halfDecoded stops an encoded guest while it decodes its KDBG.
func halfDecoded(n int) func(*Image) error {
	return func(im *Image) error {
		if !im.Truth.KDBGEncoded {
			return ErrNothingThere
		}
		return im.HalfDecodeKDBG(n)
	}
}

// forgedAttacks are structures that look as if they were the guest's, in number.
func forgedAttacks() []Attack {
	return []Attack{
		edited("forged KDBGs in number", "70 plain KDBGs with the kernel's base and sound heads of lists, and junk besides, are in its .text before the true one, which its section table calls data", Degraded, "ended after 64 debugger data blocks",
			attack(func(e *edits) {
				textIsData(e)
				at := e.im.Truth.KernelBase + 0x20_0000
				for i := range 70 {
					e.put(at+phys.VirtAddr(i)*0x400, soundForgery(e.im))
				}
			})),
		edited("one forged KDBG", "a plain KDBG with sound heads of lists, and junk besides, is in the kernel's .text before the true one, which its section table calls data", Warned, "2 debugger data blocks",
			attack(func(e *edits) {
				textIsData(e)
				e.put(e.im.spare, soundForgery(e.im))
			})),
		edited("one forged KDBG in code", "a plain KDBG with sound heads of lists, and junk besides, is in the kernel's .text", Found, "",
			attack(func(e *edits) { e.put(e.im.spare, soundForgery(e.im)) })),
		edited("kernel without data", "the kernel's section table calls no section writable", Found, "",
			attack(func(e *edits) {
				for i := range kernelSections(e) {
					e.put32(sectionAt(e, i)+sectionFlags, scnRead)
				}
			})),
		edited("forged kernels", "8 images before the kernel's routines have a kernel's headers and names", Found, "",
			attack(func(e *edits) {
				head := make([]byte, phys.PageSize)
				e.err = e.im.ReadVirt(e.im.Truth.KernelBase, head)
				for i := range phys.VirtAddr(spareSize / phys.PageSize) {
					e.put(e.im.spare&^(phys.PageSize-1)+i<<phys.PageShift, head)
				}
			})),
		edited("forged kernel below the true one", "the pages of the kernel are mapped once more, 32 MiB below it, and first in that range", Found, "",
			attack(func(e *edits) { mapAgain(e, e.im.Truth.KernelBase-32*mib) })),
		edited("forged kernel above the true one", "the pages of the kernel are mapped once more, 32 MiB above it", Found, "",
			attack(func(e *edits) { mapAgain(e, e.im.Truth.KernelBase+32*mib) })),
		edited("forged top-level tables in number", "500 pages map themselves and KUSER_SHARED_DATA, each with other tables where kernels are", Found, "",
			attack(func(e *edits) { forgeSpaces(e, 500) })),
		edited("forged KUSER_SHARED_DATA in number", "1000 free pages hold a copy of it", Found, "",
			attack(func(e *edits) { e.copies(kuserKernel, 1000) })),
		edited("KUSER_SHARED_DATA version", "it says that Windows is of version 99", Refused, "",
			attack(func(e *edits) { e.put32(kuserKernel+kuserMajor, 99) })),
		edited("KUSER_SHARED_DATA machine", "it says that the kernel is for ARM64", Refused, "",
			attack(func(e *edits) { e.put16(kuserKernel+kuserImageLow, 0xAA64) })),
		edited("KUSER_SHARED_DATA times", "the halves of its times never agree", Warned, "time",
			attack(func(e *edits) {
				e.put32(kuserKernel+kuserInterruptTime+8, 0xFFFF_FFFF)
				e.put32(kuserKernel+kuserSystemTime+8, 0xFFFF_FFFF)
			})),
		edited("published headers everywhere", "1000 free pages begin as the header of a crash dump does", Found, "",
			attack(func(e *edits) {
				h := make([]byte, phys.PageSize)
				stream(e.im.Config.Seed, 'h').fill(h)
				copy(h, "PAGEDU64")
				le.PutUint64(h[0x10:], uint64(e.im.Truth.DirectoryTableBase))
				for range 1000 {
					e.physical(e.free(), h)
				}
			})),
		edited("forged notes everywhere", "1000 free pages begin as a note of vmcoreinfo does, and name a header out of RAM", Found, "",
			attack(func(e *edits) {
				n := make([]byte, phys.PageSize)
				copy(n, "\x0B\x00\x00\x00\x08\x20\x00\x00\x00\x00\x00\x00VMCOREINFO\x00\x00")
				copy(n[0x18:], "PAGEDU64")
				for range 1000 {
					e.physical(e.free(), n)
				}
			})),
		edited("bug check parameters anywhere", "KiBugCheckData is of a bug check whose parameters are pointers anywhere", Warned, "which processor crashed is not known",
			attack(func(e *edits) {
				at := e.symbol("KiBugCheckData")
				for i, v := range []uint64{0x1_0000_007E, 0x8000_0000_0000_0000, ^uint64(0), 0xFFFF_8000_0000_0000, 1} {
					e.put64(at+phys.VirtAddr(8*i), v)
				}
			})),
		edited("build number", "NtBuildNumber is 0", Warned, "build 0",
			attack(func(e *edits) { e.put32(e.symbol("NtBuildNumber"), 0) })),
	}
}

// mapAgain maps the pages of the kernel once more, at another address.
func mapAgain(e *edits, at phys.VirtAddr) {
	for off := phys.VirtAddr(0); off < phys.VirtAddr(e.im.Truth.KernelSize) && e.err == nil; off += phys.PageSize {
		if pa, ok := e.im.Translate(e.im.Truth.KernelBase + off); ok {
			e.err = e.im.MapPage(e.im.Truth.DirectoryTableBase, at+off, pa.PFN(), 1, kernelData)
		}
	}
}

// copies puts n copies of a page into free ones.
func (e *edits) copies(va phys.VirtAddr, n int) {
	b := make([]byte, phys.PageSize)
	if e.err == nil {
		e.err = e.im.ReadVirt(va, b)
	}
	for range n {
		e.physical(e.free(), b)
	}
}

// forgeSpaces makes n pages of low memory look like top-level tables: each maps itself
// and KUSER_SHARED_DATA, and has tables of its own where kernels are, which lead to it.
func forgeSpaces(e *edits, n int) {
	top := e.im.levels()
	own := e.im.Truth.DirectoryTableBase.PFN()
	for range n {
		if e.err != nil {
			return
		}
		p, err := e.im.alloc.pageBelow(16 * mib >> phys.PageShift)
		if err != nil {
			e.err = err
			return
		}
		t := make([]byte, phys.PageSize)
		self := uint64(p.Addr()) | kernelTable
		shared := tableIndex(kuserKernel, top)
		le.PutUint64(t[8*shared:], e.im.entry(own, shared))
		if top == 4 {
			le.PutUint64(t[8*0x1F0:], uint64(e.free())|kernelTable)
			le.PutUint64(t[8*0x1F1:], uint64(e.free())|kernelTable)
		}
		le.PutUint64(t[8*0x101:], self)
		e.physical(p.Addr(), t)
	}
}

// changingReader reads the image as it is, but for what change does.
type changingReader struct {
	*Image
	change func(p []byte, at phys.Addr) error
}

// ReadPhys implements phys.Reader.
func (r *changingReader) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	if err := r.Image.ReadPhys(ctx, p, at); err != nil {
		return err
	}
	return r.change(p, at)
}
