package hv

import (
	"context"

	"snap/phys"
)

// DearMemory is a Memory each read of which is a call to somebody else, and costs what
// many pages do, whatever its length: it is best read with few calls, large ones, and
// several at a time.
type DearMemory interface {
	Memory

	// ReadCost says what calls are best. It is the zero value where one of this
	// memory costs no more than its bytes, as of one that only wraps another.
	ReadCost() ReadCost

	// Batch begins a row of reads that are vouched for together, which saves calls:
	// ReadPhys of a Memory vouches for each that it is of the guest that was opened.
	Batch() Batch
}

// ReadCost is what reading a DearMemory is like.
type ReadCost struct {
	// Gap is how many bytes that nobody needs may be read between two that are
	// needed, so that one call does for both. 0 says that reads aren't dear.
	Gap uint64
	// Most is how many bytes one call reads at most, a multiple of phys.PageSize.
	Most uint64
	// Flight is how many calls should be under way at once.
	Flight int
}

// Dear reports whether reads cost much besides their bytes.
func (c ReadCost) Dear() bool { return c.Gap > 0 }

// Batch is a row of reads of a DearMemory. It is safe for concurrent use.
type Batch interface {
	phys.Reader

	// Vouch fails, with ErrNotRunning, unless all that was read so far is of the
	// guest whose memory was opened: that one may have ended, and another one begun
	// under its name. Until then nothing that was read is to be relied on.
	Vouch(ctx context.Context) error
}

// ReadCostOf returns what reads of mem cost, the zero value if nothing but their bytes.
func ReadCostOf(mem phys.Reader) ReadCost {
	if d, ok := mem.(DearMemory); ok {
		return d.ReadCost()
	}
	return ReadCost{}
}

// BatchOf begins a row of reads of mem. If mem isn't dear, they are mem's own.
func BatchOf(mem Memory) Batch {
	if d, ok := mem.(DearMemory); ok && d.ReadCost().Dear() {
		return d.Batch()
	}
	return vouched{mem}
}

// vouched is a memory that vouches for each read.
type vouched struct{ Memory }

func (vouched) Vouch(context.Context) error { return nil }
