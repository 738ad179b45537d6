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
	find: func(_ context.Context, d *discovery, try func(candidate) bool) (string, error) {
		return offer(registerCandidates(d.arch, d.cpus), try, "no processor's registers name a page table"), nil
	},
}

// registerCandidates returns the top-level tables that the processors use, each
// once. A processor that pages otherwise, with 5 levels, is no witness.
func registerCandidates(arch *Arch, cpus []phys.Registers) []candidate {
	var out []candidate
	seen := map[phys.Addr]bool{}
	for i := range cpus {
		c := &cpus[i]
		root := c.PageTableRoot()
		if !arch.paged(c) || root == 0 || seen[root] {
			continue
		}
		seen[root] = true
		out = append(out, candidate{root: root, from: fmt.Sprintf("vCPU %d %s", c.CPU, arch.registers.PageTableRoot)})
	}
	return out
}
