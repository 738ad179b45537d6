package guest

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"snap/phys"
)

// follow reads the guest by a candidate: by the paging by which its table maps what
// only Windows maps, KUSER_SHARED_DATA.
func (d *discovery) follow(ctx context.Context, c candidate) (*System, error) {
	if !d.ram.Has(c.root.PFN()) {
		return nil, phys.ErrNotRAM
	}
	var odd error // of the likeliest paging
	var reasons []error
	for _, p := range c.pagings {
		space := d.arch.AddressSpace(p, d.mem, d.ram, c.root)
		if _, err := readKUSER(ctx, d.arch, space); err != nil {
			if odd == nil {
				odd = err
			}
			continue
		}
		sys, err := d.followBy(ctx, c, space)
		if err == nil || ctx.Err() != nil {
			return sys, err
		}
		if reasons = append(reasons, err); d.ended != nil {
			break
		}
	}
	if len(reasons) == 0 {
		return nil, odd
	}
	return nil, errors.Join(reasons...)
}

// followBy goes from a candidate to the kernel, from there to the System process and
// to its page table, and reads the guest by that.
func (d *discovery) followBy(ctx context.Context, c candidate, space *AddressSpace) (*System, error) {
	d.windows = true
	half, err := space.kernelHalf(ctx)
	if err != nil {
		return nil, err
	}
	if from, ok := d.barren[half]; ok {
		return nil, fmt.Errorf("the same kernel half as %s", from)
	}
	if err := d.budget.spend(workSpaces, 1); err != nil {
		d.ended = err
		return nil, err
	}
	var sys *System
	var reasons []error
	lacking := false
	hints := append(c.hints, space.arch.hints(ctx, space, d.cpus)...)
	err = d.search.find(ctx, space, hints, func(kernel *Image, from string) bool {
		found, worth, err := d.enter(ctx, space, half, kernel)
		if found != nil {
			found.Witness, found.KernBase.From = c.from, from
		}
		switch {
		case err == nil && len(found.Lacks) == 0:
			sys = found
			return true
		case err == nil:
			lacking = true
			d.keep(found, worth)
			return false
		}
		d.search.passed.add(nameImage(ctx, kernel), err.Error())
		reasons = append(reasons, fmt.Errorf("kernel at %#x: %w", uint64(kernel.Base), err))
		return false
	})
	if err != nil {
		if (lacking || len(reasons) == 0) && errors.Is(err, errNoKernel) {
			d.barren[half] = c.from // other processes' tables would lead to no more
		}
		if lacking {
			reasons = append(reasons, errLacking)
		}
		return nil, errors.Join(append(reasons, err)...)
	}
	return sys, nil
}

// kernelHalf is what of a top-level table decides where kernels can be.
// Processes share it, so that one search does for all of them.
type kernelHalf struct {
	paging  *Paging
	entries [kernelSlots]uint64
	others  [sha256.Size]byte // hash of all, where there are more
}

// kernelIn is a kernel image in a kernel half.
type kernelIn struct {
	half kernelHalf
	base phys.VirtAddr
}

func (s *AddressSpace) kernelHalf(ctx context.Context) (half kernelHalf, err error) {
	t, err := s.table(ctx, s.root, s.paging.top)
	if err != nil {
		return half, err
	}
	p := s.paging
	half.paging = p
	leads := func(e uint64) uint64 { return e & (p.frame | p.present) }
	all := t.entries[p.index(s.arch.kernelsLow, p.top) : p.index(s.arch.kernelsLast, p.top)+1]
	for i, e := range all[:min(len(all), kernelSlots)] {
		half.entries[i] = leads(e)
	}
	if len(all) > kernelSlots {
		h := sha256.New()
		for _, e := range all {
			if p.at(e) != s.root { // a process's own
				h.Write(binary.LittleEndian.AppendUint64(nil, leads(e)))
			}
		}
		h.Sum(half.others[:0])
	}
	return half, nil
}

// enter reads the guest of a kernel image: by its KDBG, or where none of those in it
// can be used, without. What it is worth is of one that lacks something.
func (d *discovery) enter(ctx context.Context, space *AddressSpace, half kernelHalf, kernel *Image) (sys *System, worth int, err error) {
	key := kernelIn{half, kernel.Base}
	search := d.searches[key]
	if search == nil {
		search = newKDBGSearch(kernel, d.budget)
		d.searches[key] = search
	}
	var second *System
	var reasons []error
	for part := range kdbgParts {
		in := search.part(ctx, part)
		if ctx.Err() != nil {
			return nil, 0, ctx.Err()
		}
		reasons = append(reasons, in.err)
		sys, why := d.byBlocks(ctx, space, kernel, in.blocks)
		switch {
		case ctx.Err() != nil:
			return nil, 0, ctx.Err()
		case sys != nil && len(sys.Lacks) == 0:
			return sys, 0, nil
		case second == nil:
			second = sys
		}
		reasons = append(reasons, why)
	}
	if second != nil {
		return second, worthKDBG, nil
	}
	why := errors.Join(reasons...)
	if sys, worth, err = d.withoutKDBG(ctx, space, kernel, why); err != nil {
		return nil, 0, errors.Join(why, err)
	}
	return sys, worth, nil
}

// byBlocks reads the guest by the first of the blocks by which it is whole, or else by
// the first by which it can be read at all. The error is of the others before.
func (d *discovery) byBlocks(ctx context.Context, space *AddressSpace, kernel *Image, blocks []KDBG) (*System, error) {
	var second *System
	var reasons []error
	for _, k := range blocks {
		if err := d.budget.spend(workBeliefs, 1); err != nil {
			reasons = append(reasons, err)
			break
		}
		sys, err := d.believe(ctx, space, kernel, k)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil && len(sys.Lacks) == 0:
			if len(blocks) > 1 {
				sys.warn("%d debugger data blocks in the kernel image; the one at %#x agrees with the rest of the guest",
					len(blocks), uint64(k.At))
			}
			return sys, nil
		case err == nil && second == nil:
			second = sys
		case err != nil:
			reasons = append(reasons, fmt.Errorf("KDBG at %#x: %w", uint64(k.At), err))
		}
	}
	return second, errors.Join(reasons...)
}

// believe checks a KDBG against the kernel it was found in and, through it,
// gets at the System process's page table, by which it reads the guest.
func (d *discovery) believe(ctx context.Context, space *AddressSpace, kernel *Image, k KDBG) (*System, error) {
	exported, err := agreesWithExports(ctx, kernel, &k)
	if err != nil {
		return nil, err
	}
	if !exported { // where the kernel exports the very head, the list may be cut
		if err := listHead(ctx, space, "PsLoadedModuleList", k.va(kdbgPsLoadedModuleList)); err != nil {
			return nil, err
		}
	}
	eprocess, from, err := systemProcess(ctx, space, kernel, &k)
	if err != nil {
		return nil, err
	}
	sys, err := d.readBy(ctx, space, kernel, k, eprocess, from)
	if err != nil {
		return nil, err
	}
	sys.checkModuleHead(ctx)
	return sys, d.fillProcessors(ctx, sys)
}

// readBy reads the guest, but for its processors, by the page table of its System
// process, whose EPROCESS from led to: it must show the same guest as space does. k is
// empty where there is no KDBG.
func (d *discovery) readBy(ctx context.Context, space *AddressSpace, kernel *Image, k KDBG, eprocess phys.VirtAddr, from string) (*System, error) {
	root, err := processRoot(ctx, space, eprocess, &k)
	if err != nil {
		return nil, fmt.Errorf("System process: %w", err)
	}
	own := d.arch.AddressSpace(space.paging, d.mem.Reader, d.ram, root) // outlives the discovery
	slot, err := sameGuest(ctx, space, own, kernel.Base, &k)
	if err != nil {
		return nil, fmt.Errorf("page table %#x of the System process: %w", uint64(root), err)
	}
	im, err := ReadImage(ctx, own, kernel.Base)
	if err != nil {
		return nil, err
	}
	sys := &System{
		Space: own, Kernel: im, KDBG: k, DirectoryTableBase: phys.Know(root, from), SelfMapSlot: slot,
		PsInitialSystemProcess: eprocess,
	}
	return sys, sys.fill(ctx)
}

// fillProcessors finds the processors of a guest with a KDBG. Where KiProcessorBlock is
// gone, they are found otherwise.
func (d *discovery) fillProcessors(ctx context.Context, sys *System) error {
	err := sys.fillProcessors(ctx)
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	sys.lack("KiProcessorBlock can't be read",
		"KiProcessorBlock can't be read (%v): debuggers find no processor by it, and neither contexts nor current threads", err)
	held, scanErr := sys.scanHeld(ctx, d.budget)
	if scanErr != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return sys.recoverProcessors(ctx, d.cpus, held.processors)
}

// sameGuest checks that own, the page table of the System process, maps what
// space does: the shared data, the kernel at the same place in RAM, and itself
// where the KDBG says. It returns the slot of the self-map.
func sameGuest(ctx context.Context, space, own *AddressSpace, kernBase phys.VirtAddr, k *KDBG) (int, error) {
	slot, err := selfMapSlot(ctx, own, k)
	if err != nil {
		return 0, err
	}
	for _, va := range []phys.VirtAddr{own.arch.kuser, kernBase} {
		got, err := own.Translate(ctx, va)
		if err != nil {
			return 0, err
		}
		want, err := space.Translate(ctx, va)
		if err != nil {
			return 0, err
		}
		if got.Addr != want.Addr {
			return 0, fmt.Errorf("%w: %#x is at %#x, not at %#x as for the processor", ErrMalformed,
				uint64(va), uint64(got.Addr), uint64(want.Addr))
		}
	}
	return slot, nil
}

// selfMapSlot returns the slot of the top-level table's one entry for itself,
// which must be where the KDBG's PteBase says, if it says.
func selfMapSlot(ctx context.Context, space *AddressSpace, k *KDBG) (int, error) {
	slots, err := space.SelfMapSlots(ctx)
	if err != nil {
		return 0, err
	}
	if len(slots) != 1 {
		return 0, fmt.Errorf("%w: %d entries of the kernel half map the table itself", ErrMalformed, len(slots))
	}
	base := uint64(space.paging.entryAddress(slots[0]))
	if want, ok := k.value(kdbgPteBase); ok && want != 0 && want != base {
		return 0, fmt.Errorf("%w: self-map at %#x, but PteBase is %#x", ErrMalformed, base, want)
	}
	return slots[0], nil
}
