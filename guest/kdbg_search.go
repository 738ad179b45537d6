package guest

import (
	"context"

	"snap/phys"
)

// kdbgSearch searches a kernel image for its KDBG in two parts: the data that the kernel
// writes to, where a block is that it fills in, and then the rest, which is most of the
// image. Only a guest whose block is lost, or was hidden, costs the second.
type kdbgSearch struct {
	kernel *Image
	scan   *kdbgScan
	parts  []foundBlocks // that were searched
}

// foundBlocks is what the search of a part of a kernel image for KDBGs returned.
type foundBlocks struct {
	blocks []KDBG // that are in no part before, by address
	err    error  // why there may be more
}

// kdbgParts is how many parts there are.
const kdbgParts = 2

func newKDBGSearch(kernel *Image, b *budget) *kdbgSearch {
	return &kdbgSearch{kernel: kernel, scan: newKDBGScan(kernel.mem, kernel.Base, kernel.Size, b)}
}

// part returns what is in a part, which is searched when it is asked for first.
func (s *kdbgSearch) part(ctx context.Context, i int) foundBlocks {
	for len(s.parts) <= i {
		before := len(s.scan.found)
		var err error
		if len(s.parts) == 0 {
			err = searching(s.kernel, s.data(ctx))
		} else {
			err = s.scan.image(ctx, s.kernel)
		}
		if ctx.Err() != nil {
			return foundBlocks{err: ctx.Err()} // it was not searched
		}
		s.parts = append(s.parts, foundBlocks{s.scan.found[before:], err})
	}
	return s.parts[i]
}

// data searches the sections that the kernel writes to, as far as they follow each
// other: a linker lays them out in ascending order (Microsoft PE format, section table).
func (s *kdbgSearch) data(ctx context.Context) error {
	end := uint64(0)
	for _, sec := range s.kernel.Sections {
		from, to := uint64(sec.VirtualAddress), uint64(sec.VirtualAddress)+uint64(sec.VirtualSize)
		to = min(to, maxKernelSize)
		if !sec.writable() || from%phys.PageSize != 0 || from < end || from >= to {
			continue
		}
		end = to
		if err := s.scan.scan(ctx, s.kernel.Base+phys.VirtAddr(from), (to-from)&^7); err != nil {
			return err
		}
	}
	return nil
}
