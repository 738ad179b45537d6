package guest

import (
	"context"
	"encoding/binary"
	"fmt"

	"snap/phys"
)

// findLowStub reads the page that starts processors, which names a page table.
var findLowStub = finder{
	Finder: Finder{
		Name:  "low stub",
		Cost:  "reads 636 KiB",
		Trust: "Windows starts processors and wakes up by it, but what was there before may still be",
	},
	find: func(ctx context.Context, d *discovery, try func(candidate) bool) (string, error) {
		if !d.arch.lowStubs {
			return "", nil
		}
		stubs, err := lowStubs(ctx, d.arch, d.mem, d.ram)
		if err != nil {
			return "", err
		}
		return offer(stubs, try, "no low stub below 1 MiB"), nil
	},
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
	lowStubCR4      = 0xA8
)

// lowStubs returns the top-level tables that low stubs name.
func lowStubs(ctx context.Context, arch *Arch, mem phys.Reader, ram phys.Runs) ([]candidate, error) {
	var out []candidate
	area := phys.Runs{{Base: lowStubFirst >> phys.PageShift, Pages: (lowStubEnd - lowStubFirst) >> phys.PageShift}}
	err := eachChunk(ctx, mem, area.Intersect(ram), func(chunk []byte, at phys.Addr) bool {
		for off := 0; off < len(chunk); off += phys.PageSize {
			page := chunk[off:]
			target := binary.LittleEndian.Uint64(page[lowStubTarget:])
			cr3 := binary.LittleEndian.Uint64(page[lowStubCR3:])
			if binary.LittleEndian.Uint64(page[lowStubJump:])&lowStubJumpMask != lowStubJumpWant ||
				cr3&lowStubCR3Mask != 0 || cr3 == 0 {
				continue
			}
			// The processor goes on by what the stub has of its control registers.
			cr4 := binary.LittleEndian.Uint64(page[lowStubCR4:])
			if target&lowStubTgtMask != lowStubTgtWant && (cr4&phys.CR4LA57 == 0 || !phys.VirtAddr(target).Kernel()) {
				continue // with 5 levels it isn't known that kernels stay where they were
			}
			stub := fmt.Sprintf("low stub at %#x", uint64(at)+uint64(off))
			out = append(out, candidate{
				root: phys.Addr(cr3), from: stub, named: true, pagings: arch.pagingsOf(&phys.Registers{CR4: cr4}),
				hints: []hint{{phys.VirtAddr(target), stub + " LmTarget"}},
			})
		}
		return true
	})
	return out, err
}
