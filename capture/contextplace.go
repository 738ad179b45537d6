package capture

import (
	"fmt"

	"snap/guest"
	"snap/phys"
)

// neverContext are the kinds of pages that Windows never has a CONTEXT in. The guest
// says where one goes: laid over these it would make a dump that no debugger opens of
// a guest that is sound.
var neverContext = map[string]bool{
	guest.ProtectedPageTable:   true,
	guest.ProtectedKUSER:       true,
	guest.ProtectedImageHeader: true,
}

// contextFree returns the pages that no CONTEXT may be laid over.
func contextFree(needed []guest.ProtectedPages) phys.Runs {
	var out phys.Runs
	for _, s := range needed {
		if neverContext[s.Reason] {
			out = out.Union(s.Pages)
		}
	}
	return out
}

// contextPlace fails if the CONTEXT of a processor can't go where the guest says, for
// something else is there.
func (a *Analysis) contextPlace(at phys.VirtAddr) error {
	s := a.System
	end := at + phys.VirtAddr(s.Arch.ContextSize())
	listHead := phys.VirtAddr(s.Arch.ListEntrySize())
	for _, v := range []struct {
		what string
		at   phys.VirtAddr
		n    phys.VirtAddr
	}{
		{"the KDBG", s.KDBG.At, phys.VirtAddr(len(s.KDBG.Block))},
		{"the list of modules", s.PsLoadedModuleList.Value, listHead},
		{"the list of processes", s.PsActiveProcessHead.Value, listHead},
		{"the EPROCESS of System", s.PsInitialSystemProcess, eprocessHead},
	} {
		if at < v.at+v.n && v.at < end {
			return fmt.Errorf("its place, %#x, is %s", uint64(at), v.what)
		}
	}
	for _, p := range s.Processors {
		if at < p.KPCR+phys.VirtAddr(s.Arch.KPCRHead()) && p.KPCR < end {
			return fmt.Errorf("its place, %#x, is the KPCR of processor %d", uint64(at), p.Number)
		}
	}
	return nil
}

// eprocessHead is the beginning of an EPROCESS, with its page table, in every Windows
// (public ntkrnlmp and ntkrpamp symbols).
const eprocessHead = 0x30
