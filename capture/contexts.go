package capture

import (
	"context"
	"fmt"

	"snap/dump/verify"
	"snap/guest"
	"snap/header"
	"snap/phys"
)

// processorContext is what the dump says of one of Windows' processors.
type processorContext struct {
	header.Context // data, decoded

	data []byte // a CONTEXT of the guest's machine
	from contextOrigin
	vcpu int // whose registers they are, where they are a vCPU's
}

// contextOrigin says how much of a CONTEXT is true.
type contextOrigin int

// Origins, the best first. The first three are the registers of a processor: what it
// is doing now, or what it did when Windows saved them, at a bug check or when it
// last froze its processors.
const (
	contextRegisters contextOrigin = iota
	contextSaved                   // where a debugger looks for it
	contextFrozen                  // in the KPRCB's ProcessorState
	contextSwitch                  // where the thread on it was last switched in
	contextMade                    // nothing but the kernel's selectors, and its base
	contextOrigins
)

func (c *processorContext) origin() string {
	switch c.from {
	case contextRegisters:
		return fmt.Sprintf("registers of vCPU %d", c.vcpu)
	case contextSaved:
		return "CONTEXT that the guest saved"
	case contextFrozen:
		return "KPRCB ProcessorState"
	case contextSwitch:
		return "snap: the stack of the KPRCB's CurrentThread when it was last switched"
	default:
		return "snap: no processor's registers are known"
	}
}

// gatherContexts finds a CONTEXT for every processor that has a place for one, or a
// vCPU, and says what those are that no vCPU's registers are known for.
func (a *Analysis) gatherContexts(ctx context.Context) {
	a.contexts = map[int]*processorContext{}
	var counts [contextOrigins]int
	unknown := 0
	for i, p := range a.System.Processors {
		if p.ContextAt == 0 && p.VCPU < 0 {
			continue
		}
		c := a.contextOfProcessor(ctx, p)
		a.contexts[i] = c
		if p.VCPU < 0 {
			unknown++
			counts[c.from]++
		}
	}
	switch {
	case unknown == 0 && len(a.CPUs) > 0:
		return
	case len(a.CPUs) == 0:
		a.warn("the source holds no processor registers: %s", contextsTold(&counts))
	default:
		a.warn("the registers of %d processors are not known: %s", unknown, contextsTold(&counts))
	}
}

// contextsTold says what contexts are that aren't of vCPUs.
func contextsTold(counts *[contextOrigins]int) string {
	return fmt.Sprintf("%d of the dump's contexts are those that the guest saved at its places for them, %d those of its KPRCBs, %d are the stacks from which threads were last switched, without general registers, and %d are made, with the kernel's selectors and nothing else",
		counts[contextSaved], counts[contextFrozen], counts[contextSwitch], counts[contextMade])
}

// contextOfProcessor returns the best context of a processor that there is. Of one
// that its vCPU's registers are known of, it is those, unless Windows saved what the
// processor did before it showed its blue screen: what it does since is to wait. A
// processor that runs a program now was not stopped by that.
func (a *Analysis) contextOfProcessor(ctx context.Context, p guest.Processor) *processorContext {
	var cpu *phys.Registers
	if p.VCPU >= 0 {
		cpu = &a.CPUs[p.VCPU]
	}
	if cpu == nil || a.crashed() && !cpu.UserMode() {
		if c := a.savedContext(ctx, p); c != nil {
			return c
		}
	}
	if cpu != nil {
		return a.madeContext(cpu, contextRegisters)
	}
	r := phys.Registers{RIP: uint64(a.System.Kernel.Base), RSP: uint64(p.KPCR), RFLAGS: 1 << 1}
	from := contextMade
	if stack, back, ok := a.switchFrame(ctx, p); ok {
		r.RSP, r.RIP, from = uint64(stack), uint64(back), contextSwitch
	}
	return a.madeContext(&r, from)
}

// savedContext returns what Windows saved of a processor, nil if there is nothing
// that a debugger could use.
func (a *Analysis) savedContext(ctx context.Context, p guest.Processor) *processorContext {
	if c := a.usableContext(ctx, p.ContextAt, contextSaved); c != nil {
		return c
	}
	if off, ok := a.System.KDBG.Value("OffsetPrcbProcStateContext"); ok && off != 0 {
		return a.usableContext(ctx, p.PRCB+phys.VirtAddr(off), contextFrozen)
	}
	return nil
}

// usableContext reads a CONTEXT, nil if a debugger can't use it.
func (a *Analysis) usableContext(ctx context.Context, at phys.VirtAddr, from contextOrigin) *processorContext {
	if at == 0 {
		return nil
	}
	m := header.Machine(a.System.Machine.Value)
	c := &processorContext{data: make([]byte, m.ContextSize()), from: from}
	if err := a.System.Space.ReadVirt(ctx, c.data, at); err != nil {
		return nil
	}
	var err error
	if c.Context, err = header.DecodeContext(m, c.data); err != nil || verify.PlausibleContext(&c.Context, a.System.Space) != nil {
		return nil
	}
	return c
}

// madeContext makes the CONTEXT of the guest's machine.
func (a *Analysis) madeContext(r *phys.Registers, from contextOrigin) *processorContext {
	m := header.Machine(a.System.Machine.Value)
	c := &processorContext{data: header.ContextFor(m, r), from: from, vcpu: r.CPU}
	c.Context, _ = header.DecodeContext(m, c.data) // it is as long as it must be
	return c
}

// switchFrame returns the stack of the thread that a processor runs as it was when
// the thread was last switched, and the address there to which it returned. It is
// true of the thread, and not of the processor now.
func (a *Analysis) switchFrame(ctx context.Context, p guest.Processor) (stack, back phys.VirtAddr, ok bool) {
	k := &a.System.KDBG
	thread, ok1 := k.Value("OffsetPrcbCurrentThread")
	saved, ok2 := k.Value("OffsetKThreadKernelStack")
	if !ok1 || !ok2 || saved == 0 {
		return 0, 0, false
	}
	at := p.PRCB
	for _, off := range []uint64{thread, saved} {
		at, ok = a.pointer(ctx, at+phys.VirtAddr(off))
		if !ok {
			return 0, 0, false
		}
	}
	back, ok = a.pointer(ctx, at+phys.VirtAddr(a.System.Arch.SwitchReturn()))
	kernel := a.System.Kernel
	inKernel := back >= kernel.Base && back-kernel.Base < phys.VirtAddr(kernel.Size)
	return at, back, ok && inKernel
}

// pointer reads a kernel pointer.
func (a *Analysis) pointer(ctx context.Context, at phys.VirtAddr) (phys.VirtAddr, bool) {
	v, err := a.System.Space.Pointer(ctx, at)
	return v, err == nil && v.Kernel()
}
