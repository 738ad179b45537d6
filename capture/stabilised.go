package capture

import (
	"bytes"
	"context"

	"snap/hv"
	"snap/phys"
)

// stableMemory is a memory some pages of which are taken from a later copy.
type stableMemory struct {
	hv.Memory
	metadata *memoryCopy // nil for none yet
	over     phys.Runs   // its pages, but for gaps
}

// ReadPhys implements phys.Reader.
func (m *stableMemory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	return m.read(ctx, m.Memory, p, at)
}

// ReadCost implements hv.DearMemory: it is that of the memory below.
func (m *stableMemory) ReadCost() hv.ReadCost { return hv.ReadCostOf(m.Memory) }

// Batch implements hv.DearMemory.
func (m *stableMemory) Batch() hv.Batch { return batchOver{hv.BatchOf(m.Memory), m.read} }

// read is ReadPhys with below to read the memory below.
func (m *stableMemory) read(ctx context.Context, below phys.Reader, p []byte, at phys.Addr) error {
	want, ok := phys.RunOf(at, uint64(len(p)))
	if !ok || len(m.over) == 0 {
		return below.ReadPhys(ctx, p, at)
	}
	if m.over.Covers(at, uint64(len(p))) {
		return m.metadata.ReadPhys(ctx, p, at)
	}
	// Read at once what is side by side, and then put the few others over it.
	if err := below.ReadPhys(ctx, p, at); err != nil {
		return err
	}
	for i, _ := m.over.Find(want.Base); i < len(m.over) && m.over[i].Base < want.End(); i++ {
		r := m.over[i]
		from := max(at, r.Base.Addr())
		part := p[from-at : min(uint64(len(p)), uint64(r.End().Addr()-at))]
		if err := m.metadata.ReadPhys(ctx, part, from); err != nil {
			return err
		}
	}
	return nil
}

// Populated implements hv.Memory.
func (m *stableMemory) Populated(ctx context.Context) (phys.Runs, bool, error) {
	set, known, err := m.Memory.Populated(ctx)
	return set.Union(m.over), known, err
}

// replace takes the pages of s, which may be nil, from there, but for gaps.
func (m *stableMemory) replace(s *memoryCopy) error {
	old := m.metadata
	m.metadata, m.over = s, nil
	if s != nil {
		m.over = s.index.Set()
		for _, g := range s.gaps {
			m.over = m.over.Minus(phys.Runs{g.run})
		}
	}
	if old == nil {
		return nil
	}
	return old.Close()
}

// Close gives the later copy back. The memory below stays open.
func (m *stableMemory) Close() error { return m.replace(nil) }

// same is a judge for a memory that is a copy as a whole.
func (m *stableMemory) same(p phys.PFN, now []byte) bool {
	from := m.metadata
	if !m.over.Has(p) {
		from = m.Memory.(*memoryCopy)
	}
	switch have, copied := from.page(p); {
	case !copied: // a gap of the dump
		return true
	case have != nil:
		return bytes.Equal(have, now)
	default:
		return bytes.Equal(now, zeroPage[:])
	}
}
