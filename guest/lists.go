package guest

import (
	"context"

	"snap/phys"
)

// listHead checks that the list at head is linked both ways at both ends.
func listHead(ctx context.Context, mem VirtReader, what string, head phys.VirtAddr) error {
	arch := archOf(mem)
	r, err := readRecord(ctx, mem, what, head, arch.ListEntrySize())
	if err != nil {
		return err
	}
	for i, back := range []int{arch.pointer, 0} {
		next := r.va(arch.pointer * i)
		if err := alignedPointer(mem, what, next); err != nil {
			return err
		}
		got, err := readVA(ctx, mem, what, next+phys.VirtAddr(back))
		if err != nil {
			return err
		}
		if got != head {
			return malformed(what, head, "its neighbour %#x links to %#x", uint64(next), uint64(got))
		}
	}
	return nil
}

// walkList calls visit with the address of each LIST_ENTRY after head, at most
// limit of them. It fails on the first link that isn't kept both ways, that
// was already followed or that can't be read, and when visit does.
func walkList(ctx context.Context, mem VirtReader, what string, head phys.VirtAddr, limit int,
	visit func(entry phys.VirtAddr) error,
) error {
	if err := alignedPointer(mem, what, head); err != nil {
		return err
	}
	arch := archOf(mem)
	seen := map[phys.VirtAddr]bool{}
	at, prev := head, phys.VirtAddr(0)
	for {
		r, err := readRecord(ctx, mem, what, at, arch.ListEntrySize())
		if err != nil {
			return err
		}
		if back := r.va(arch.pointer); at != head && back != prev {
			return malformed(what, at, "entry %d links back to %#x, not %#x", len(seen), uint64(back), uint64(prev))
		}
		if at != head {
			if err := visit(at); err != nil {
				return err
			}
		}
		next := r.va(0)
		if next == head {
			return nil
		}
		if err := alignedPointer(mem, what, next); err != nil {
			return err
		}
		if seen[next] {
			return malformed(what, next, "entry is in the list twice")
		}
		if len(seen) >= limit {
			return malformed(what, head, "more than %d entries", limit)
		}
		seen[next] = true
		prev, at = at, next
	}
}
