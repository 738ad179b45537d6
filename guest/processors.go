package guest

import (
	"context"
	"errors"

	"snap/phys"
)

// maxProcessors is how many entries KiProcessorBlock has at most
// (MAXIMUM_PROCESSORS of newer x64 kernels).
const maxProcessors = 2048

// prcbNumberSince is the first build with more than one group of processors, and
// so with KPRCB.Number in its place; before, LegacyNumber, a byte, is the number
// (public ntkrnlmp and ntkrpamp symbols).
const prcbNumberSince = 7600

// fillProcessors reads the array KiProcessorBlock that the KDBG names.
func (s *System) fillProcessors(ctx context.Context) error {
	return s.processorsOf(ctx, s.KDBG.va(kdbgKiProcessorBlock), "KDBG KiProcessorBlock")
}

// processorsOf reads KiProcessorBlock, an array of KPRCB addresses by processor
// number, at block. Without a sound one there it fails.
func (s *System) processorsOf(ctx context.Context, block phys.VirtAddr, from string) error {
	const what = "KiProcessorBlock"
	if err := alignedPointer(s.Space, what, block); err != nil {
		return err
	}
	word := s.Space.arch.pointer
	expected := s.processorCount(ctx)
	unsound := s.few("processors in KiProcessorBlock are not sound")
	placeless := s.few("processors have no place for their context")
	for i := range maxProcessors {
		prcb, err := readVA(ctx, s.Space, what, block+phys.VirtAddr(word*i))
		if err != nil {
			return err
		}
		if prcb == 0 && i >= expected {
			break
		}
		p, err := s.processor(ctx, i, prcb)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if expected != 0 && i >= expected {
				break // what follows the last entry of a full array is none
			}
			unsound.warn("processor %d: %v", i, err)
			if i >= expected {
				break
			}
			continue
		}
		if err := s.placeContext(ctx, &p); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			placeless.warn("processor %d has no place for its context: %v", i, err)
		}
		s.Processors = append(s.Processors, p)
	}
	unsound.end()
	placeless.end()
	if len(s.Processors) == 0 {
		return malformed(what, block, "no processor in it is sound")
	}
	s.countProcessors(expected, from)
	return nil
}

// countProcessors says how many there are, where the guest says that it has so
// many, or 0 for not known.
func (s *System) countProcessors(expected int, from string) {
	if expected != 0 && len(s.Processors) != expected {
		s.warn("%d processors are sound, but the guest says it has %d", len(s.Processors), expected)
	}
	s.NumberProcessors = phys.Know(uint32(len(s.Processors)), from)
}

// processorCount returns how many processors are active, 0 if nothing says so
// credibly.
func (s *System) processorCount(ctx context.Context) int {
	n := s.KUSER.ActiveProcessorCount
	if n == 0 {
		// One byte wide up to Windows Vista, four from then on.
		at, err := s.Kernel.Export(ctx, "KeNumberProcessors")
		if err != nil {
			return 0
		}
		r, err := readRecord(ctx, s.Space, "KeNumberProcessors", at, 1)
		if err != nil {
			return 0
		}
		n = uint32(r.u8(0))
	}
	if n > maxProcessors {
		s.warn("the guest says it has %d processors", n)
		return 0
	}
	return int(n)
}

// numberOf reads the number that a KPRCB says is its processor's.
func (s *System) numberOf(ctx context.Context, prcb phys.VirtAddr) (uint32, error) {
	l := &s.Space.arch.layout
	otherwise := l.prcbNumber
	if build := s.Build(); build != 0 && build < prcbNumberSince {
		otherwise = l.prcbLegacyNumber
	}
	off, width := s.KDBG.offset(kdbgOffsetPrcbNumber, otherwise), 4
	if off == l.prcbLegacyNumber {
		width = 1
	}
	r, err := readRecord(ctx, s.Space, "KPRCB.Number", prcb+phys.VirtAddr(off), width)
	if err != nil {
		return 0, err
	}
	if width == 1 {
		return uint32(r.u8(0)), nil
	}
	return r.u32(0), nil
}

// kpcrOf returns the KPCR that a KPRCB is in.
func (s *System) kpcrOf(prcb phys.VirtAddr) phys.VirtAddr {
	return prcb - phys.VirtAddr(s.KDBG.offset(kdbgOffsetPcrContainedPrcb, s.Space.arch.layout.kpcrPrcb))
}

// isProcessor fails if processor i can't have its KPRCB at prcb.
func (s *System) isProcessor(ctx context.Context, i int, prcb phys.VirtAddr) error {
	if err := alignedPointer(s.Space, "KPRCB", prcb); err != nil {
		return err
	}
	number, err := s.numberOf(ctx, prcb)
	if err != nil {
		return err
	}
	if number != uint32(i) {
		return malformed("KPRCB", prcb, "its number is %d", number)
	}
	kpcr := s.kpcrOf(prcb)
	if err := alignedPointer(s.Space, "KPCR", kpcr); err != nil {
		return err
	}
	self, err := readVA(ctx, s.Space, "KPCR.Self", kpcr+phys.VirtAddr(s.KDBG.offset(kdbgOffsetPcrSelfPcr, s.Space.arch.layout.kpcrSelf)))
	if err != nil {
		return err
	}
	if self != kpcr {
		return malformed("KPCR", kpcr, "its self pointer is %#x", uint64(self))
	}
	return nil
}

// processor reads and checks processor i.
func (s *System) processor(ctx context.Context, i int, prcb phys.VirtAddr) (Processor, error) {
	if err := s.isProcessor(ctx, i, prcb); err != nil {
		return Processor{}, err
	}
	return Processor{Number: i, PRCB: prcb, KPCR: s.kpcrOf(prcb), VCPU: -1}, nil
}

// placeContext finds where the context of a processor goes. It doesn't fail where
// nothing says that.
func (s *System) placeContext(ctx context.Context, p *Processor) (err error) {
	if len(s.KDBG.Block) > 0 {
		p.ContextAt, err = s.contextAt(ctx, p.PRCB)
	}
	return err
}

// contextAt returns where a debugger looks for a processor's CONTEXT: where
// the KPRCB points from Windows 7 on, inside the KPRCB before.
func (s *System) contextAt(ctx context.Context, prcb phys.VirtAddr) (phys.VirtAddr, error) {
	const what = "CONTEXT"
	k := &s.KDBG
	var at phys.VirtAddr
	if off := k.u64(kdbgOffsetPrcbContext); off != 0 {
		p, err := readVA(ctx, s.Space, "KPRCB.Context", prcb+phys.VirtAddr(off))
		if err != nil {
			return 0, err
		}
		at = p
	} else if off := k.offset(kdbgOffsetPrcbProcStateContext, s.Space.arch.layout.prcbContext); off != 0 {
		at = prcb + phys.VirtAddr(off)
	} else {
		return 0, errors.New("the KDBG holds no offset of it")
	}
	if err := kernelPointer(what, at, uint64(s.Space.arch.contextAlign)); err != nil {
		return 0, err
	}
	if _, err := readRecord(ctx, s.Space, what, at, s.Space.arch.contextSize); err != nil {
		return 0, err
	}
	return at, nil
}

// match finds out which virtual processor is which of Windows' by what it
// holds: the KPCR in a GS base, else the base of its GDT, else of its IDT.
// A value tells only if one virtual processor and one of Windows' have it.
func (s *System) match(ctx context.Context, cpus []phys.Registers) {
	kpcrs := map[phys.VirtAddr]bool{}
	for _, p := range s.Processors {
		kpcrs[p.KPCR] = true
	}
	arch := s.Space.arch
	claim := func(c *phys.Registers) uint64 {
		for _, v := range arch.kpcrs(ctx, s.Space, c) {
			if kpcrs[v] {
				return uint64(v)
			}
		}
		return 0
	}
	s.matchBy(cpus, claim, func(p *Processor) uint64 { return uint64(p.KPCR) })
	for _, base := range []struct {
		off int
		cpu func(*phys.Registers) uint64
	}{
		{arch.layout.kpcrGdtBase, func(c *phys.Registers) uint64 { return c.GDT.Base }},
		{arch.layout.kpcrIdtBase, func(c *phys.Registers) uint64 { return c.IDT.Base }},
	} {
		s.matchBy(cpus, base.cpu, func(p *Processor) uint64 {
			r, err := readRecord(ctx, s.Space, "KPCR", p.KPCR, arch.layout.kpcrSize)
			if err != nil {
				return 0
			}
			return r.word(base.off)
		})
	}
	s.reportUnmatched(cpus)
}

// matchBy pairs the virtual processors and Windows' that are still alone and
// share a key, other than 0, with nobody else.
func (s *System) matchBy(cpus []phys.Registers, ofCPU func(*phys.Registers) uint64, ofWindows func(*Processor) uint64) {
	taken := map[int]bool{}
	for _, p := range s.Processors {
		taken[p.VCPU] = true
	}
	const several = -2
	only := func(m map[uint64]int, key uint64, i int) {
		if _, dup := m[key]; dup {
			i = several
		}
		m[key] = i
	}
	byKey := map[uint64]int{}
	for i := range cpus {
		if key := ofCPU(&cpus[i]); key != 0 && !taken[i] {
			only(byKey, key, i)
		}
	}
	owners := map[uint64]int{}
	for i := range s.Processors {
		if p := &s.Processors[i]; p.VCPU < 0 {
			only(owners, ofWindows(p), i)
		}
	}
	for key, i := range owners {
		if cpu, ok := byKey[key]; ok && key != 0 && i != several && cpu != several {
			s.Processors[i].VCPU = cpu
		}
	}
}

func (s *System) reportUnmatched(cpus []phys.Registers) {
	matched := map[int]bool{}
	alone := s.few("processors whose KPCR, GDT or IDT no vCPU holds")
	for _, p := range s.Processors {
		if p.VCPU < 0 && len(cpus) > 0 {
			alone.warn("processor %d: no vCPU holds its KPCR, GDT or IDT", p.Number)
		}
		matched[p.VCPU] = true
	}
	alone.end()
	others := s.few("vCPUs are none of the guest's processors")
	for i := range cpus {
		if !matched[i] {
			others.warn("vCPU %d is none of the guest's processors", cpus[i].CPU)
		}
	}
	others.end()
}
