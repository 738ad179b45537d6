package capture

import (
	"context"
	"fmt"

	"snap/header"
	"snap/phys"
)

// crashed reports whether the guest is in a bug check.
func (a *Analysis) crashed() bool { return a.System.BugCheck.Code.Value != 0 }

// bugCheckRange is how many bytes of KeBugCheckEx a processor may be in when its
// context is saved. The kernel gives it the address of the first (the triage dump of
// build 19041 in testdata), older ones that of the call that saves it.
const bugCheckRange = 0x200

// crashedProcessor returns the index of the processor that crashed, and how that is
// told: -1 and why it can't be told. Windows saves its context as that of
// KeBugCheckEx, whose first four arguments, the bug check's code and parameters, are
// in Rcx, Rdx, R8 and R9 (WDK KeBugCheckEx; x64 calling convention); it freezes the
// others where they are. Where several crash at once, the arguments tell whose bug
// check is shown.
func (a *Analysis) crashedProcessor(ctx context.Context) (at int, how string) {
	entry, err := a.System.Kernel.Export(ctx, "KeBugCheckEx")
	var byArguments, byPlace []int
	saved := 0
	for i := range a.System.Processors {
		c := a.contexts[i]
		if c == nil || c.from != contextSaved && c.from != contextFrozen {
			continue
		}
		saved++
		if a.hasArguments(&c.Context) {
			byArguments = append(byArguments, i)
		}
		if err == nil && a.System.Arch.Address(c.Rip)-entry < bugCheckRange { // wraps below it
			byPlace = append(byPlace, i)
		}
	}
	switch {
	case len(byArguments) == 1:
		return byArguments[0], "with the arguments of KeBugCheckEx"
	case len(byArguments) == 0 && len(byPlace) == 1:
		return byPlace[0], "in KeBugCheckEx"
	case saved == 0:
		return -1, "the guest has saved no context of a processor"
	case len(byArguments) == 0 && len(byPlace) == 0:
		return -1, "no context that the guest saved is of KeBugCheckEx"
	}
	return -1, fmt.Sprintf("%d contexts that the guest saved are of KeBugCheckEx", max(len(byArguments), len(byPlace)))
}

// hasArguments reports whether a processor had the bug check's code and parameters
// where a call of KeBugCheckEx has its arguments; on x86 that is the stack, of which the
// context says nothing.
func (a *Analysis) hasArguments(c *header.Context) bool {
	b := a.System.BugCheck.Values()
	return c.Flags&header.ContextFlagAMD64 != 0 && header.SameBugCheck(uint32(c.Rcx), uint32(b[0])) && c.Rdx == b[1] && c.R8 == b[2] && c.R9 == b[3]
}

// chooseHeaderContext returns the CONTEXT that a debugger shows first, and where it is
// from: that of the processor that crashed. Without a crash, or where the processor
// can't be told, it is of one in the kernel, else of one in a program of 64 bits; the
// context of a 32-bit program is never taken.
func (a *Analysis) chooseHeaderContext(ctx context.Context) phys.Known[[]byte] {
	why := ""
	if a.crashed() {
		i, how := a.crashedProcessor(ctx)
		if i >= 0 {
			c := a.contexts[i]
			return phys.Know(c.data, fmt.Sprintf("%s of processor %d, which crashed: %s", c.origin(), a.System.Processors[i].Number, how))
		}
		why = fmt.Sprintf("which processor crashed is not known, since %s: ", how)
	}
	i := a.likeliestProcessor()
	if i < 0 && len(a.contexts) > 0 {
		a.warn("%sthe header has no context: all processors run 32-bit programs, as far as they are known", why)
		return phys.Known[[]byte]{From: "snap: all known processors run 32-bit programs"}
	}
	if i < 0 {
		return phys.Known[[]byte]{}
	}
	c, number := a.contexts[i], a.System.Processors[i].Number
	switch {
	case c.from <= contextFrozen && c.Code() == header.UserCode:
		a.warn("%sthe header's context is that of processor %d, which runs a program: none is known to run the kernel", why, number)
	case why != "":
		a.warn("%sthe header's context is that of processor %d", why, number)
	}
	return phys.Know(c.data, c.origin())
}

// likeliestProcessor returns the index of the processor whose context says most, the
// lowest of several; -1 if there is none for the header.
func (a *Analysis) likeliestProcessor() int {
	best, rank := -1, 0
	for i, p := range a.System.Processors {
		c := a.contexts[i]
		if c == nil || c.Code() == header.UserCode32 {
			continue
		}
		r := 1 // for being true
		switch {
		case c.from <= contextFrozen && c.Code() == header.KernelCode:
			r = 4
		case c.from <= contextFrozen:
			r = 3
		case c.from == contextSwitch:
			r = 2
		}
		if p.ContextAt != 0 {
			r += 4 // where debuggers find it, too
		}
		if r > rank {
			best, rank = i, r
		}
	}
	return best
}
