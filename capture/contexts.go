package capture

import (
	"context"
	"encoding/binary"
	"fmt"

	"snap/dump/verify"
	"snap/guest"
	"snap/header"
	"snap/phys"
)

// A source without registers, such as a raw image, leaves it to the guest's memory
// to say where its processors are. savedContext is what a processor's CONTEXT in the
// dump is then.
type savedContext struct {
	data []byte
	from contextOrigin
}

// contextOrigin says how much of a CONTEXT is true.
type contextOrigin int

// Origins, the best first. Only the first two are the registers of a processor, as
// Windows saved them at a bug check, or when it last froze its processors.
const (
	contextSaved  contextOrigin = iota // where a debugger looks for it
	contextFrozen                      // in the KPRCB's ProcessorState
	contextSwitch                      // where the thread on it was last switched in
	contextMade                        // nothing but the kernel's selectors, and its base
)

func (o contextOrigin) String() string {
	switch o {
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

// saveContexts finds a CONTEXT for every processor of a guest whose source holds no
// registers, and says what they are.
func (a *Analysis) saveContexts(ctx context.Context) {
	if len(a.CPUs) > 0 {
		return
	}
	a.saved = map[int]savedContext{}
	var counts [contextMade + 1]int
	for i, p := range a.System.Processors {
		if p.ContextAt == 0 {
			continue
		}
		c := a.saveContext(ctx, p)
		a.saved[i] = c
		counts[c.from]++
	}
	a.warn("the source holds no processor registers: %d of the dump's contexts are those that the guest saved at its places for them, %d those of its KPRCBs, %d are the stacks from which threads were last switched, without general registers, and %d are made, with the kernel's selectors and nothing else",
		counts[contextSaved], counts[contextFrozen], counts[contextSwitch], counts[contextMade])
}

func (a *Analysis) saveContext(ctx context.Context, p guest.Processor) savedContext {
	k := &a.System.KDBG
	if b, ok := a.usableContext(ctx, p.ContextAt); ok {
		return savedContext{b, contextSaved}
	}
	if off, ok := k.Value("OffsetPrcbProcStateContext"); ok && off != 0 {
		if b, ok := a.usableContext(ctx, p.PRCB+phys.VirtAddr(off)); ok {
			return savedContext{b, contextFrozen}
		}
	}
	r := phys.Registers{RIP: uint64(k.KernBase()), RSP: uint64(p.KPCR), RFLAGS: 1 << 1}
	from := contextMade
	if stack, back, ok := a.switchFrame(ctx, p); ok {
		r.RSP, r.RIP, from = uint64(stack), uint64(back), contextSwitch
	}
	return savedContext{a.contextOf(&r), from}
}

// usableContext reads a CONTEXT that a debugger can use.
func (a *Analysis) usableContext(ctx context.Context, at phys.VirtAddr) ([]byte, bool) {
	b := make([]byte, header.ContextSizeAMD64)
	if err := a.System.Space.ReadVirt(ctx, b, at); err != nil {
		return nil, false
	}
	c, err := header.DecodeContextAMD64(b)
	return b, err == nil && verify.PlausibleContext(&c) == nil
}

// switchReturn is where a thread's saved stack holds the address to which it
// returns: KSWITCH_FRAME.Return of x64 (public ntkrnlmp symbols).
const switchReturn = 0x38

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
	back, ok = a.pointer(ctx, at+switchReturn)
	kernel := a.System.Kernel
	inKernel := back >= kernel.Base && back-kernel.Base < phys.VirtAddr(kernel.Size)
	return at, back, ok && inKernel
}

// pointer reads a kernel pointer.
func (a *Analysis) pointer(ctx context.Context, at phys.VirtAddr) (phys.VirtAddr, bool) {
	var b [8]byte
	if err := a.System.Space.ReadVirt(ctx, b[:], at); err != nil {
		return 0, false
	}
	v := phys.VirtAddr(binary.LittleEndian.Uint64(b[:]))
	return v, v.Kernel()
}

// headerContext returns the CONTEXT that a debugger shows first, and where it is
// from; nil where there is none.
func (a *Analysis) headerContext() phys.Known[[]byte] {
	if cpu := a.firstCPU(); cpu != nil {
		return phys.Know(a.contextOf(cpu), fmt.Sprintf("registers of vCPU %d", cpu.CPU))
	}
	for i := range a.System.Processors {
		if c, ok := a.saved[i]; ok {
			return phys.Know(c.data, c.from.String())
		}
	}
	return phys.Known[[]byte]{}
}
