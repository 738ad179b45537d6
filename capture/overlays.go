package capture

import (
	"context"
	"errors"
	"fmt"

	"snap/dump"
	"snap/guest"
	"snap/phys"
)

// overlays lists the bytes of the dump that differ from the guest's memory:
// the decoded KDBG, and each processor's CONTEXT. What can't be placed is left
// as the guest has it, with a warning. needed are the pages that debuggers need, over
// some kinds of which no CONTEXT is laid.
func (a *Analysis) overlays(ctx context.Context, needed []guest.ProtectedPages) ([]dump.Overlay, error) {
	pages, err := phys.SetOf(a.Plan.Runs)
	if err != nil {
		return nil, fmt.Errorf("memory runs of the dump: %w", err)
	}
	l := &overlayList{space: a.System.Space, pages: pages}
	if a.System.KDBG.Encoded {
		if err := l.add(ctx, "KDBG", a.System.KDBG.At, a.System.KDBG.Block); err != nil {
			return nil, fmt.Errorf("place the decoded KDBG: %w", err)
		}
	}
	l.never = contextFree(needed)
	left := 0
	for i, p := range a.System.Processors {
		data := a.contextAt(i)
		if data == nil {
			continue
		}
		what := fmt.Sprintf("CONTEXT of processor %d", p.Number)
		err := a.contextPlace(p.ContextAt)
		if err == nil {
			err = l.add(ctx, what, p.ContextAt, data)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			if left++; left <= maxNamed {
				a.warn("%s is left as the guest has it: %v", what, err)
			}
		}
	}
	if more := left - maxNamed; more > 0 {
		a.warn("%d more CONTEXTs are left as the guest has them", more)
	}
	return l.done, nil
}

// contextAt returns the CONTEXT to lay over that of processor i, nil to leave it as
// the guest has it.
func (a *Analysis) contextAt(i int) []byte {
	c := a.contexts[i]
	if c == nil || c.from == contextSaved || a.System.Processors[i].ContextAt == 0 {
		return nil
	}
	return c.data
}

// overlayList gathers overlays at virtual addresses, piece by page.
type overlayList struct {
	space *guest.AddressSpace
	pages phys.Runs // of the dump
	never phys.Runs // of these, those that nothing is laid over
	done  []dump.Overlay
}

var errOverlayPlace = errors.New("not within the dump's pages")

// add places data at a virtual address: all of it, or none and an error.
func (l *overlayList) add(ctx context.Context, what string, at phys.VirtAddr, data []byte) error {
	var pieces []dump.Overlay
	for len(data) > 0 {
		n := min(len(data), phys.PageSize-int(at.Offset()))
		m, err := l.space.Translate(ctx, at)
		if err != nil {
			return err
		}
		piece := dump.Overlay{At: m.Addr, Data: data[:n], What: what}
		if !l.pages.Covers(piece.At, uint64(n)) {
			return fmt.Errorf("guest-physical %#x: %w", uint64(piece.At), errOverlayPlace)
		}
		if l.never.Has(piece.At.PFN()) {
			return fmt.Errorf("guest-physical %#x is in a page that the kernel has for something else", uint64(piece.At))
		}
		for _, o := range append(l.done, pieces...) {
			if piece.At < o.At+phys.Addr(len(o.Data)) && o.At < piece.At+phys.Addr(n) {
				return fmt.Errorf("guest-physical %#x is also the place of %s", uint64(piece.At), o.What)
			}
		}
		pieces = append(pieces, piece)
		data = data[n:]
		var ok bool
		if at, ok = at.Add(uint64(n)); !ok && len(data) > 0 {
			return fmt.Errorf("%s wraps around the address space", what)
		}
	}
	l.done = append(l.done, pieces...)
	return nil
}
