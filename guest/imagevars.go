package guest

import (
	"context"

	"snap/phys"
)

// heldVariables are variables of a kernel image that are told by what they hold, 0
// where none was found. Each is the first in the image that can be it; of
// processors, which has the most.
type heldVariables struct {
	modules    phys.VirtAddr // PsLoadedModuleList: its first entry is the kernel
	processes  phys.VirtAddr // PsActiveProcessHead: its first entry is of process 4
	processors phys.VirtAddr // KiProcessorBlock
}

// holdScan looks for a kernel's variables by what they hold. It is for one goroutine.
type holdScan struct {
	ctx    context.Context
	sys    *System // with Space, Kernel and the build number
	budget *budget
	heldVariables
	most int // processors that the best KiProcessorBlock has
}

// scanHeld looks through a kernel image for what its variables hold. The error is
// that of ctx, or of class errBudget: then the result is what was found until then.
func (s *System) scanHeld(ctx context.Context, b *budget) (heldVariables, error) {
	h := &holdScan{ctx: ctx, sys: s, budget: b}
	buf := make([]byte, scanChunk)
	size := min(uint64(s.Kernel.Size), maxKernelSize) &^ (phys.PageSize - 1)
	for off := uint64(0); off < size; off += scanChunk {
		chunk := buf[:min(size-off, scanChunk)]
		at := s.Kernel.Base + phys.VirtAddr(off)
		if err := b.spend(workHeld, uint64(len(chunk))); err != nil {
			return h.heldVariables, err
		}
		if _, err := readSparse(ctx, s.Space, chunk, at); err != nil {
			return h.heldVariables, err
		}
		if err := h.chunk(chunk, at); err != nil {
			return h.heldVariables, err
		}
	}
	return h.heldVariables, nil
}

// chunk looks at each pointer of b, which is memory of the image from at on. A list
// head that lies across two chunks is not found: neither does any compiler put one
// there.
func (h *holdScan) chunk(b []byte, at phys.VirtAddr) error {
	r := record{arch: h.sys.Space.arch, what: "kernel image", at: at, b: b}
	word := r.arch.pointer
	p := r.va(0)
	for i := 0; i < len(b); i += word {
		var next phys.VirtAddr
		if i+2*word <= len(b) {
			next = r.va(i + word)
		}
		va := at + phys.VirtAddr(i)
		if h.sys.isPointer(p) && h.sys.isPointer(next) && p != va && (h.modules == 0 || h.processes == 0) {
			if err := h.list(va, p); err != nil {
				return err
			}
		}
		if h.sys.isPointer(p) && p%prcbAlign == 0 {
			if err := h.block(va, p); err != nil {
				return err
			}
		}
		p = next
	}
	return h.ctx.Err()
}

// isPointer reports whether p may be a pointer of the kernel to a structure.
func (s *System) isPointer(p phys.VirtAddr) bool {
	return p.Kernel() && p%phys.VirtAddr(s.Space.arch.pointer) == 0
}

// prcbAlign is what KPRCBs are aligned to: they are for cache lines (winnt's
// DECLSPEC_CACHEALIGN in the public symbols of every x64 kernel).
const prcbAlign = 64

// follow spends the budget for one pointer that is followed.
func (h *holdScan) follow() error {
	return h.budget.spend(workPointers, 1)
}

// list looks at the list whose head may be at va, and whose first entry at first.
func (h *holdScan) list(va, first phys.VirtAddr) error {
	if err := h.follow(); err != nil {
		return err
	}
	space := h.sys.Space
	word := phys.VirtAddr(space.arch.pointer)
	if back, err := readVA(h.ctx, space, "LIST_ENTRY", first+word); err != nil || back != va {
		return nil
	}
	if listHead(h.ctx, space, "LIST_ENTRY", va) != nil {
		return nil
	}
	if base, err := readVA(h.ctx, space, "DllBase", first+phys.VirtAddr(space.arch.layout.ldrDllBase)); h.modules == 0 && err == nil && base == h.sys.Kernel.Base {
		h.modules = va
	}
	if pid, err := readVA(h.ctx, space, "UniqueProcessId", first-word); h.processes == 0 && err == nil && pid == systemPID {
		h.processes = va
	}
	return nil
}

// block looks at the KiProcessorBlock that may be at va, whose first entry is prcb.
func (h *holdScan) block(va, prcb phys.VirtAddr) error {
	n, word := 0, h.sys.Space.arch.pointer
	for ; n < maxProcessors; n++ {
		if err := h.follow(); err != nil {
			return err
		}
		if h.sys.isProcessor(h.ctx, n, prcb) != nil {
			break
		}
		var err error
		if prcb, err = readVA(h.ctx, h.sys.Space, "KiProcessorBlock", va+phys.VirtAddr(word*(n+1))); err != nil {
			n++
			break
		}
	}
	if n > h.most {
		h.processors, h.most = va, n
	}
	return nil
}
