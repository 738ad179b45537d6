package capture

import (
	"context"
	"encoding/binary"
	"errors"

	"snap/guest"
	"snap/hv"
	"snap/phys"
)

// RAMFit says how well a map of a guest's memory, which somebody guessed, fits what
// Windows says of its memory.
type RAMFit struct {
	Outside uint64 // pages that Windows has and the map hasn't
	Astray  int    // processes whose page tables aren't where they must be
	Beyond  uint64 // pages that the map has and Windows hasn't: firmware's, few
}

// better reports whether f fits better than g.
func (f RAMFit) better(g RAMFit) bool {
	switch {
	case f.Outside != g.Outside:
		return f.Outside < g.Outside
	case f.Astray != g.Astray:
		return f.Astray < g.Astray
	}
	return f.Beyond < g.Beyond
}

// BestRAM returns the index of the source whose map of memory fits the guest in it
// best, of sources that read the same memory by different maps; of those that fit
// alike the first. The error is that of the first source if there is no Windows to be
// found by any of them.
func BestRAM(ctx context.Context, sources []hv.Source) (int, error) {
	best, first := -1, error(nil)
	var fit RAMFit
	for i, src := range sources {
		f, err := fitRAM(ctx, src)
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		switch {
		case err != nil && i == 0:
			first = err
		case err == nil && (best < 0 || f.better(fit)):
			best, fit = i, f
		}
	}
	if best < 0 {
		return 0, first
	}
	return best, nil
}

func fitRAM(ctx context.Context, src hv.Source) (_ RAMFit, err error) {
	mem, err := src.OpenMemory(ctx, hv.MechanismAuto)
	if err != nil {
		return RAMFit{}, err
	}
	defer func() { err = errors.Join(err, mem.Close()) }()
	cpus, err := src.Registers(ctx)
	if err != nil {
		return RAMFit{}, err
	}
	sys, err := guest.Discover(ctx, mem, mem.RAM(), cpus)
	if err != nil {
		return RAMFit{}, err
	}
	ram := mem.RAM().Pages()
	f := RAMFit{Outside: ram}
	if block := sys.PhysicalMemory.Value; block != nil {
		f.Outside = sys.PhysicalMemoryOutside
		f.Beyond = ram - min(ram, pagesOf(block))
	}
	f.Astray, err = astray(ctx, mem, sys)
	return f, err
}

// astray counts the processes whose top-level page table isn't one: each has an
// entry for itself, in the same slot. They lie all over the guest's memory.
func astray(ctx context.Context, mem phys.Reader, sys *guest.System) (int, error) {
	if sys.SelfMapSlot < 0 {
		return 0, nil
	}
	processes, _ := sys.Processes(ctx) // as far as they can be listed
	n := 0
	for _, p := range processes {
		var b [8]byte
		err := mem.ReadPhys(ctx, b[:], p.DirectoryTableBase+phys.Addr(8*sys.SelfMapSlot))
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		entry := phys.Addr(binary.LittleEndian.Uint64(b[:]))
		if err != nil || (entry&(phys.MaxAddr-1)).PFN() != p.DirectoryTableBase.PFN() {
			n++
		}
	}
	return n, nil
}
