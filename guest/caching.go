package guest

import (
	"context"
	"iter"

	"snap/phys"
)

// Anew returns s as it reads what addresses lead to as it is now, where its memory is
// phys.Caching. Page tables stay those that were read.
func (s *AddressSpace) Anew() VirtReader { return anewSpace{s} }

type anewSpace struct{ *AddressSpace }

func (s anewSpace) ReadVirt(ctx context.Context, p []byte, at phys.VirtAddr) error {
	return s.readVirt(ctx, phys.Anew(s.mem), p, at)
}

// prefetcher is a VirtReader that can be told what it will be asked for.
type prefetcher interface {
	prefetch(ctx context.Context, at phys.VirtAddr, n uint64)
}

var _ prefetcher = (*AddressSpace)(nil)

// prefetch has memory that is phys.Caching read those of the n bytes at at that are in
// it, since they will be asked for.
func (s *AddressSpace) prefetch(ctx context.Context, at phys.VirtAddr, n uint64) {
	phys.Prefetch(ctx, s.mem, s.resident(ctx, at, n))
}

// resident yields the pages of memory that n bytes at a virtual address are in, as far
// as they are in memory and page tables can be read.
func (s *AddressSpace) resident(ctx context.Context, at phys.VirtAddr, n uint64) iter.Seq[phys.Run] {
	return func(yield func(phys.Run) bool) {
		for n > 0 {
			e, err := s.Extent(ctx, at)
			if err != nil {
				return
			}
			size := min(e.Size, n)
			if e.Residence == phys.Resident {
				if run, ok := phys.RunOf(e.At, size); !ok || !yield(run) {
					return
				}
			}
			end, ok := at.Add(size)
			if !ok {
				return
			}
			at, n = end, n-size
		}
	}
}
