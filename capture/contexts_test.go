package capture

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"snap/header"
	"snap/internal/ntlab"
	"snap/phys"
)

// TestContextsWithoutRegisters: of a source without registers each processor's
// CONTEXT is the best that the guest's memory has, what it is is said, and the
// header agrees with the first.
func TestContextsWithoutRegisters(t *testing.T) {
	// Offsets in KPRCB and KTHREAD of build 19041, as the KDBG has them.
	const (
		stateContext = 0x1F0
		thread       = 0x08
		kernelStack  = 0x58
		switchReturn = 0x38
	)
	saved := func(rip uint64) []byte {
		return header.ContextAMD64(&phys.Registers{RIP: rip, RSP: 0xfffff80000123450, RAX: 0x1122, RFLAGS: 2})
	}
	im, err := ntlab.Build(ntlab.Config{Profile: "win10-22h2", CPUs: 4})
	if err != nil {
		t.Fatal(err)
	}
	kernel := uint64(im.Truth.KernelBase)
	p := im.Truth.Processors
	write := func(at phys.VirtAddr, b []byte) {
		t.Helper()
		if err := im.WriteVirt(at, b); err != nil {
			t.Fatal(err)
		}
	}
	pointer := func(at phys.VirtAddr) phys.VirtAddr {
		t.Helper()
		b := make([]byte, 8)
		if err := im.ReadVirt(at, b); err != nil {
			t.Fatal(err)
		}
		return phys.VirtAddr(binary.LittleEndian.Uint64(b))
	}
	write(p[0].KPRCB+stateContext, saved(kernel+0x1000))
	write(p[1].Context, saved(kernel+0x2000))
	write(p[1].KPRCB+stateContext, saved(kernel+0x3000)) // not the better one
	stack := pointer(pointer(p[2].KPRCB+thread) + kernelStack)
	write(stack+switchReturn, binary.LittleEndian.AppendUint64(nil, kernel+0x4000))

	a, err := Analyze(t.Context(), im, im.RAM(), nil, LookOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		from     contextOrigin
		rip, rsp uint64
	}{
		{contextFrozen, kernel + 0x1000, 0xfffff80000123450},
		{contextSaved, kernel + 0x2000, 0xfffff80000123450},
		{contextSwitch, kernel + 0x4000, uint64(stack)},
		{contextMade, kernel, uint64(p[3].KPCR)},
	} {
		c, err := header.DecodeContextAMD64(a.contexts[i].data)
		if err != nil || a.contexts[i].from != want.from || c.Rip != want.rip || c.Rsp != want.rsp {
			t.Errorf("processor %d: %v, Rip %#x, Rsp %#x, %v; want %+v", i, a.contexts[i].from, c.Rip, c.Rsp, err, want)
		}
		// What the guest itself has in place isn't touched, all else is laid over it.
		over := a.contextAt(i)
		if (want.from == contextSaved) != (over == nil) {
			t.Errorf("processor %d: %d bytes are laid over its context", i, len(over))
		}
	}
	if !bytes.Equal(a.Header.ContextRecord[:header.ContextSizeAMD64], a.contexts[0].data) {
		t.Error("the header's context is not that of processor 0")
	}
	const want = "no processor registers: 1 of the dump's contexts are those that the guest saved at its places for them, 1 those of its KPRCBs, 1 are the stacks"
	if !strings.Contains(strings.Join(a.Warnings, "\n"), want) {
		t.Errorf("warnings %q; want one with %q", a.Warnings, want)
	}
	// With registers there is nothing to say.
	if a, err = Analyze(t.Context(), im, im.RAM(), im.Registers(), LookOptions{}); err != nil || len(a.Warnings) > 0 {
		t.Errorf("with registers: warnings %q, %v; want none", a.Warnings, err)
	}
	// With registers of some, of these there is.
	if a, err = Analyze(t.Context(), im, im.RAM(), im.Registers()[:2], LookOptions{}); err != nil ||
		!strings.Contains(strings.Join(a.Warnings, "\n"), "the registers of 2 processors are not known: ") {
		t.Errorf("with registers of some: warnings %q, %v; want one for the others", a.Warnings, err)
	}
}
