package capture

import (
	"bytes"
	"context"
	"hash/maphash"

	"snap/hv"
	"snap/phys"
)

// notedMemory is a memory of which it is noted what its pages held when they
// were last read whole: 32 bits for each, with a key that the guest can't know,
// so that it can't hide a change. It takes 4 bytes for each page of begin.
type notedMemory struct {
	hv.Memory
	seed  maphash.Seed
	index *phys.Index // of the pages that are noted
	sums  []uint32    // by number of the page, 0 if it was not read
}

func newNotedMemory(mem hv.Memory) *notedMemory {
	return &notedMemory{Memory: mem, seed: maphash.MakeSeed(), index: phys.NewIndex(nil)}
}

// begin has the given pages noted from now on. No read may be under way.
func (m *notedMemory) begin(pages phys.Runs) {
	m.index = phys.NewIndex(pages)
	m.sums = make([]uint32, m.index.Pages())
}

// ReadPhys implements phys.Reader. Reads at a time must be of different pages.
func (m *notedMemory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	return m.read(ctx, m.Memory, p, at)
}

// ReadCost implements hv.DearMemory: it is that of the memory below.
func (m *notedMemory) ReadCost() hv.ReadCost { return hv.ReadCostOf(m.Memory) }

// Batch implements hv.DearMemory.
func (m *notedMemory) Batch() hv.Batch { return batchOver{hv.BatchOf(m.Memory), m.read} }

// read is ReadPhys with below to read the memory below.
func (m *notedMemory) read(ctx context.Context, below phys.Reader, p []byte, at phys.Addr) error {
	if err := below.ReadPhys(ctx, p, at); err != nil || !at.Aligned() {
		return err
	}
	for pfn := at.PFN(); len(p) >= phys.PageSize; pfn, p = pfn+1, p[phys.PageSize:] {
		if i, ok := m.index.Number(pfn); ok {
			m.sums[i] = m.sum(p[:phys.PageSize])
		}
	}
	return nil
}

func (m *notedMemory) sum(page []byte) uint32 {
	return max(1, uint32(maphash.Bytes(m.seed, page)))
}

// same is a judge: pages that were not to be noted are zero in the dump.
func (m *notedMemory) same(p phys.PFN, now []byte) bool {
	i, ok := m.index.Number(p)
	switch {
	case !ok:
		return bytes.Equal(now, zeroPage[:])
	case m.sums[i] == 0: // a gap
		return true
	default:
		return now != nil && m.sum(now) == m.sums[i]
	}
}
