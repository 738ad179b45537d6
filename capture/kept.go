package capture

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"snap/hv"
	"snap/phys"
)

// maxKeptPages bounds what is kept of a changing memory for one verification: 64 MiB.
const maxKeptPages = 1 << 14

// keptMemory is a memory that changes, of which the pages that were read during a look
// are kept: whoever reads them later gets the same. So what was verified is what is
// written.
type keptMemory struct {
	hv.Memory

	mu      sync.RWMutex
	keeping bool
	pages   map[phys.PFN][]byte
}

// during has the pages kept that look reads. Of a nil memory, which doesn't change,
// none need be.
func (m *keptMemory) during(look func() error) error {
	if m == nil {
		return look()
	}
	m.set(true)
	defer m.set(false)
	return look()
}

func (m *keptMemory) set(keeping bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keeping = keeping
	if keeping && m.pages == nil {
		m.pages = map[phys.PFN][]byte{}
	}
}

// ReadPhys implements phys.Reader.
func (m *keptMemory) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	return m.read(ctx, m.Memory, p, at)
}

// ReadCost implements hv.DearMemory: it is that of the memory below.
func (m *keptMemory) ReadCost() hv.ReadCost { return hv.ReadCostOf(m.Memory) }

// Batch implements hv.DearMemory.
func (m *keptMemory) Batch() hv.Batch { return batchOver{hv.BatchOf(m.Memory), m.read} }

// read is ReadPhys with below to read the memory below.
func (m *keptMemory) read(ctx context.Context, below phys.Reader, p []byte, at phys.Addr) error {
	if err := below.ReadPhys(ctx, p, at); err != nil {
		return err
	}
	run, ok := phys.RunOf(at, uint64(len(p)))
	if !ok {
		return nil // of no bytes
	}
	m.mu.RLock()
	keeping := m.keeping
	m.fill(p, at, run)
	m.mu.RUnlock()
	if !keeping {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fill(p, at, run) // others may have read the same meanwhile
	return m.keep(p, at, run)
}

// fill puts the pages of run that are kept into p, the memory at at.
func (m *keptMemory) fill(p []byte, at phys.Addr, run phys.Run) {
	if len(m.pages) == 0 {
		return
	}
	for pfn := run.Base; pfn < run.End(); pfn++ {
		if page, ok := m.pages[pfn]; ok {
			fillPage(p, at, pfn, page)
		}
	}
}

// keep keeps the whole pages in p.
func (m *keptMemory) keep(p []byte, at phys.Addr, run phys.Run) error {
	for pfn := run.Base; pfn < run.End(); pfn++ {
		if _, ok := m.pages[pfn]; ok {
			continue
		}
		if pfn.Addr() < at || (pfn+1).Addr() > at+phys.Addr(len(p)) {
			return fmt.Errorf("keep the page at %#x: only a part of it was read", uint64(pfn.Addr()))
		}
		if len(m.pages) == maxKeptPages {
			return fmt.Errorf("keep what is verified of a guest that runs: it is more than %d pages", maxKeptPages)
		}
		m.pages[pfn] = bytes.Clone(p[pfn.Addr()-at:][:phys.PageSize])
	}
	return nil
}
