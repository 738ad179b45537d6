package guest

import (
	"context"

	"snap/phys"
)

// imageHeads knows which pages of RAM begin a PE image. It reads each page once,
// whatever maps it and how often. It is for one goroutine.
type imageHeads struct {
	mem    phys.Reader
	ram    phys.Runs
	budget *budget
	buf    []byte  // of scanChunk bytes
	looked pageSet // that were read, or could not be
	heads  pageSet // of these, those that begin an image
}

func newImageHeads(mem phys.Reader, ram phys.Runs, b *budget) *imageHeads {
	return &imageHeads{mem: mem, ram: ram, budget: b, buf: make([]byte, scanChunk)}
}

// in calls found with the offset from at of each page of the n bytes from there
// on, whole pages, that begins an image, until found returns false. What isn't
// RAM or can't be read begins none. The errors are those of ctx and of class
// errBudget.
func (h *imageHeads) in(ctx context.Context, at phys.Addr, n uint64, found func(off uint64) bool) error {
	for off := uint64(0); off < n; off += scanChunk {
		size := min(n-off, scanChunk)
		run, ok := phys.RunOf(at+phys.Addr(off), size)
		if !ok {
			return nil // beyond physical addresses
		}
		if err := h.look(ctx, run); err != nil {
			return err
		}
		for p := range phys.PFN(run.Pages) {
			if h.heads.has(run.Base+p) && !found(off+uint64(p)<<phys.PageShift) {
				return nil
			}
		}
	}
	return nil
}

// look reads those pages of run, at most scanChunk bytes, that were not yet
// looked at: those that follow each other at once.
func (h *imageHeads) look(ctx context.Context, run phys.Run) error {
	for p := run.Base; p < run.End(); {
		first := p
		for p < run.End() && !h.looked.has(p) && h.ram.Has(p) {
			p++
		}
		if p == first {
			p++
			continue
		}
		pages := uint64(p - first)
		if err := h.budget.spend(workScanned, pages<<phys.PageShift); err != nil {
			return err
		}
		if err := h.read(ctx, phys.Run{Base: first, Pages: pages}); err != nil {
			return err
		}
	}
	return nil
}

// read looks at pages of RAM. Those that can't be read are passed over.
func (h *imageHeads) read(ctx context.Context, run phys.Run) error {
	b := h.buf[:run.Size()]
	if err := h.mem.ReadPhys(ctx, b, run.Base.Addr()); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if run.Pages > 1 {
			half := run.Pages / 2
			if err := h.read(ctx, phys.Run{Base: run.Base, Pages: half}); err != nil {
				return err
			}
			return h.read(ctx, phys.Run{Base: run.Base + phys.PFN(half), Pages: run.Pages - half})
		}
		clear(b)
	}
	for p := range phys.PFN(run.Pages) {
		h.looked.add(run.Base + p)
		if _, ok := peOffset(b[p<<phys.PageShift:][:phys.PageSize]); ok {
			h.heads.add(run.Base + p)
		}
	}
	return nil
}
