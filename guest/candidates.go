package guest

import (
	"context"
	"encoding/binary"
	"fmt"

	"snap/phys"
)

// candidate is a physical address that may be a Windows guest's top-level page
// table, and pointers that may lead to the kernel in it.
type candidate struct {
	root  phys.Addr
	from  string
	hints []hint
}

// The low stub is a page below 1 MiB that starts Windows' other processors and
// wakes it from sleep; winload and the HAL leave it in place. The masks and
// offsets are those that LeechCore's and memflow's public sources look for
// (memflow-win32, src/kernel/start_block/x64.rs).
const (
	lowStubFirst = 0x1000
	lowStubEnd   = 0xA0000

	lowStubJump     = 0x00 // jmp rel16, completion flag 1
	lowStubJumpMask = 0xFFFF_FFFF_FFFF_00FF
	lowStubJumpWant = 0x0000_0001_0006_00E9
	lowStubTarget   = 0x70 // LmTarget: where long mode goes on
	lowStubTgtMask  = 0xFFFF_F800_0000_0003
	lowStubTgtWant  = 0xFFFF_F800_0000_0000
	lowStubCR3      = 0xA0
	lowStubCR3Mask  = 0xFFFF_FF00_0000_0FFF
)

// lowStubs returns the top-level tables that low stubs name.
func lowStubs(ctx context.Context, mem phys.Reader, ram phys.Runs) ([]candidate, error) {
	var out []candidate
	area := phys.Runs{{Base: lowStubFirst >> phys.PageShift, Pages: (lowStubEnd - lowStubFirst) >> phys.PageShift}}
	err := eachChunk(ctx, mem, area.Intersect(ram), func(chunk []byte, at phys.Addr) bool {
		for off := 0; off < len(chunk); off += phys.PageSize {
			page := chunk[off:]
			target := binary.LittleEndian.Uint64(page[lowStubTarget:])
			cr3 := binary.LittleEndian.Uint64(page[lowStubCR3:])
			if binary.LittleEndian.Uint64(page[lowStubJump:])&lowStubJumpMask != lowStubJumpWant ||
				target&lowStubTgtMask != lowStubTgtWant || cr3&lowStubCR3Mask != 0 || cr3 == 0 {
				continue
			}
			stub := fmt.Sprintf("low stub at %#x", uint64(at)+uint64(off))
			out = append(out, candidate{phys.Addr(cr3), stub, []hint{{phys.VirtAddr(target), stub + " LmTarget"}}})
		}
		return true
	})
	return out, err
}

// selfMaps calls yield with each page of area that has exactly one entry for
// itself in its kernel half, until yield returns false. Any process's kernel
// page table looks so: their kernel halves are alike.
func selfMaps(ctx context.Context, mem phys.Reader, area phys.Runs, yield func(candidate) bool) error {
	return eachChunk(ctx, mem, area, func(chunk []byte, at phys.Addr) bool {
		for off := 0; off < len(chunk); off += phys.PageSize {
			root := at + phys.Addr(off)
			if !selfMapped(chunk[off:off+phys.PageSize], root) {
				continue
			}
			if !yield(candidate{root: root, from: fmt.Sprintf("self-map scan at %#x", uint64(root))}) {
				return false
			}
		}
		return true
	})
}

// selfMapped reports whether exactly one entry of a page's kernel half maps
// the page itself.
func selfMapped(page []byte, root phys.Addr) bool {
	count := 0
	for i := phys.PageSize / 2; i < phys.PageSize; i += 8 {
		if selfEntry(binary.LittleEndian.Uint64(page[i:i+8]), root) {
			count++
		}
	}
	return count == 1
}

// eachChunk reads area in chunks of at most scanChunk bytes and calls visit
// with each until it returns false. A chunk that can't be read is passed over.
func eachChunk(ctx context.Context, mem phys.Reader, area phys.Runs, visit func(chunk []byte, at phys.Addr) bool) error {
	buf := make([]byte, scanChunk)
	for _, r := range area {
		for at, end := r.Base.Addr(), r.End().Addr(); at < end; {
			chunk := buf[:min(uint64(end-at), scanChunk)]
			if err := mem.ReadPhys(ctx, chunk, at); err == nil {
				if !visit(chunk, at) {
					return nil
				}
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			at += phys.Addr(len(chunk))
		}
	}
	return nil
}

// registerCandidates returns the top-level tables that the processors use, each
// once, and hints at the kernel from their registers. A processor with 5-level
// paging is no witness.
func registerCandidates(cpus []phys.Registers) []candidate {
	var out []candidate
	seen := map[phys.Addr]bool{}
	for i := range cpus {
		c := &cpus[i]
		root := phys.Addr(c.CR3 & pteFrame)
		if c.CR4&phys.CR4LA57 != 0 || root == 0 || seen[root] {
			continue
		}
		seen[root] = true
		out = append(out, candidate{root: root, from: fmt.Sprintf("vCPU %d CR3", c.CPU)})
	}
	return out
}

// registerHints returns what the processors' registers know of where the
// kernel is: its system call entry, its first interrupt handler, the boot
// processor's KPCR (a variable of the kernel image), the code that runs.
func registerHints(ctx context.Context, space *AddressSpace, cpus []phys.Registers) []hint {
	var out []hint
	seen := map[phys.VirtAddr]bool{}
	add := func(at uint64, cpu int, what string) {
		va := phys.VirtAddr(at)
		// Hints in the same chunk search the same memory.
		if chunk := va &^ (scanChunk - 1); va.Kernel() && !seen[chunk] {
			seen[chunk] = true
			out = append(out, hint{va, fmt.Sprintf("vCPU %d %s", cpu, what)})
		}
	}
	for i := range cpus {
		c := &cpus[i]
		if c.HasLSTAR {
			add(c.LSTAR, c.CPU, "LSTAR")
		}
		if gate, err := readRecord(ctx, space, "IDT", phys.VirtAddr(c.IDT.Base), 16); err == nil {
			add(gateOffset(gate), c.CPU, "IDT")
		}
	}
	for i := range cpus {
		c := &cpus[i]
		add(c.RIP, c.CPU, "RIP")
		add(c.GS.Base, c.CPU, "GS base")
		if c.HasKernelGSBase {
			add(c.KernelGSBase, c.CPU, "KernelGSBase")
		}
	}
	return out
}

// gateOffset returns the handler's address from a 64-bit interrupt gate (Intel
// SDM volume 3, 6.14.1).
func gateOffset(g *record) uint64 {
	return uint64(g.u16(0)) | uint64(g.u16(6))<<16 | uint64(g.u32(8))<<32
}

// shadowOffsets are where, from the KPCR, KPRCB.KernelDirectoryTableBase is in
// Windows versions with page table isolation (public ntkrnlmp symbols). Which
// one applies isn't known before the kernel is found; each is only a candidate.
var shadowOffsets = []phys.VirtAddr{0x7000, 0x9000, 0xA000, 0xB000}

// shadowCandidates returns the kernel's top-level tables that the processors'
// KPCRs name, as far as space, one of a process in user mode, maps them.
func shadowCandidates(ctx context.Context, space *AddressSpace, cpus []phys.Registers) []candidate {
	var out []candidate
	for i := range cpus {
		c := &cpus[i]
		for _, kpcr := range kpcrClaims(c) {
			for _, off := range shadowOffsets {
				cr3, err := readVA(ctx, space, "KernelDirectoryTableBase", kpcr+off)
				root := phys.Addr(cr3 & pteFrame)
				if err == nil && root != 0 && space.ram.Has(root.PFN()) {
					out = append(out, candidate{root: root, from: fmt.Sprintf("vCPU %d KPRCB", c.CPU)})
				}
			}
		}
	}
	return out
}

// kpcrClaims returns where a processor's KPCR may be, the likelier one first.
// In user mode it is in KernelGSBase, and GS base is the program's own affair;
// in kernel mode it is the other way round, but for a few instructions after
// an entry and before an exit.
func kpcrClaims(c *phys.Registers) []phys.VirtAddr {
	var claims []phys.VirtAddr
	if !c.UserMode() {
		claims = append(claims, phys.VirtAddr(c.GS.Base))
	}
	if c.HasKernelGSBase {
		claims = append(claims, phys.VirtAddr(c.KernelGSBase))
	}
	var out []phys.VirtAddr
	for _, v := range claims {
		if v.Kernel() && v.Offset()%8 == 0 {
			out = append(out, v)
		}
	}
	return out
}
