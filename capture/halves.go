package capture

import "fmt"

// warnOfHalves says which processors' contexts have zeros for what the source didn't
// know, while the rest of them is true.
func (a *Analysis) warnOfHalves() {
	var of []int
	for _, p := range a.System.Processors {
		if p.VCPU >= 0 && a.CPUs[p.VCPU].Halves {
			of = append(of, a.CPUs[p.VCPU].CPU)
		}
	}
	who := ""
	switch len(of) {
	case 0:
		return
	case 1:
		who = fmt.Sprintf("vCPU %d runs", of[0])
	default:
		who = fmt.Sprintf("vCPU %d and %d more run", of[0], len(of)-1)
	}
	a.warn("%s 32-bit code, of which only 32-bit registers are known: R8 to R15 and all upper halves are zero in its context; --mode snapshot has all registers", who)
}
