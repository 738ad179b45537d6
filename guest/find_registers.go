package guest

import (
	"context"
	"fmt"

	"snap/phys"
)

// findRegisters takes the page tables that the virtual processors use.
var findRegisters = finder{
	Finder: Finder{
		Name:  "processor registers",
		Cost:  "reads nothing",
		Trust: "a processor of the guest runs by it, if only a program's",
	},
	byProcessor: true,
	find: func(_ context.Context, d *discovery, try func(candidate) bool) (string, error) {
		return offer(registerCandidates(d.arch, d.cpus), try, "no processor's registers name a page table"), nil
	},
}

// registerCandidates returns the top-level tables that the processors use, each
// once. A processor that doesn't page is no witness.
func registerCandidates(arch *Arch, cpus []phys.Registers) []candidate {
	var out []candidate
	seen := map[builtAs]bool{}
	for i := range cpus {
		c := &cpus[i]
		pagings := arch.pagingsOf(c)
		if len(pagings) == 0 {
			continue
		}
		root := pagings[0].root(c.CR3)
		if root == 0 || seen[builtAs{root, pagings[0]}] {
			continue
		}
		seen[builtAs{root, pagings[0]}] = true
		out = append(out, candidate{root: root, from: fmt.Sprintf("vCPU %d %s", c.CPU, arch.registers.PageTableRoot), pagings: pagings})
	}
	return out
}
