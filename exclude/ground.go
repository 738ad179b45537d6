package exclude

import (
	"fmt"

	"snap/phys"
)

// obstacle is why a request can't be honoured.
type obstacle struct {
	status NTStatus
	reason string
}

// ground is the physical memory that requests are held against.
type ground struct {
	ram       phys.Runs
	protected []Protected
}

// check returns the first page of run that can't be left out, and why; ok if
// all of them can. run may lie outside of the address space, but must not wrap
// around.
func (g *ground) check(run phys.Run) (bad phys.PFN, why obstacle, ok bool) {
	ok = true
	i, inRAM := g.ram.Find(run.Base)
	switch {
	case !inRAM:
		return run.Base, outsideRAM, false
	case g.ram[i].End() < run.End():
		bad, why, ok = g.ram[i].End(), outsideRAM, false
	}
	for _, p := range g.protected {
		j, _ := p.Pages.Find(run.Base)
		if j == len(p.Pages) || p.Pages[j].Base >= run.End() {
			continue
		}
		if at := max(run.Base, p.Pages[j].Base); ok || at < bad {
			bad, why, ok = at, obstacle{StatusAccessDenied, "protected: " + p.Reason}, false
		}
	}
	return bad, why, ok
}

// What can be wrong with a request, beside protected pages.
var (
	outsideRAM   = obstacle{StatusInvalidAddress, "outside the guest's RAM"}
	notPhysical  = obstacle{StatusInvalidAddress, "outside the guest-physical address space"}
	notCanonical = obstacle{StatusInvalidAddress, "not a canonical virtual range"}
	noTranslator = obstacle{StatusInvalidAddress, "virtual addresses can't be translated"}
	unknownFlags = obstacle{StatusInvalidParameter4, "unknown flags"}
	notOneKind   = obstacle{StatusInvalidParameter, "must be either virtual or physical"}
	outOfSteps   = obstacle{StatusInsufficientResources, "the virtual ranges map more pages than the guest has"}
	outOfPieces  = obstacle{
		StatusInsufficientResources,
		fmt.Sprintf("the virtual ranges fall into more than %d pieces", MaxFragments),
	}
	overQuota = obstacle{StatusQuotaExceeded, fmt.Sprintf("more than %d requests of one driver, or %d of all", MaxRequestsBy, MaxRequests)}
)
