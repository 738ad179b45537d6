package guest

import (
	"context"
	"fmt"

	"snap/phys"
)

// findShadow follows processors in user mode, under page table isolation, to
// the kernel's page tables.
var findShadow = finder{
	Finder: Finder{
		Name:  "KPRCB of a processor in user mode",
		Cost:  "reads some pages",
		Trust: "Windows itself goes into the kernel by it, if it is what the place in the KPRCB says",
	},
	byProcessor: true,
	find: func(ctx context.Context, d *discovery, try func(candidate) bool) (string, error) {
		found, left := 0, maxShadowReads
		for _, c := range registerCandidates(d.arch, d.cpus) {
			for _, p := range c.pagings {
				space := d.arch.AddressSpace(p, d.mem, d.ram, c.root)
				for _, s := range shadowCandidates(ctx, space, d.cpus, &left) {
					found++
					if !try(s) {
						return "", nil
					}
				}
			}
			if err := ctx.Err(); err != nil {
				return "", err
			}
		}
		switch {
		case left == 0:
			return fmt.Sprintf("ended after %d reads of processors' KPRCBs", maxShadowReads), nil
		case found == 0:
			return "no KPRCB that names a page table can be reached", nil
		}
		return "", nil
	},
}

// maxShadowReads bounds how many fields are read: each processor's KPCR is
// looked for in the page tables of each. A page table that is a process's in
// user mode maps those of all processors, so that the first leads on.
const maxShadowReads = 64 << 10

// KPRCB.KernelDirectoryTableBase is the first of what a processor in user mode needs to
// go into the kernel. All of that fills pages of its own, which alone are mapped for
// user mode, so that it begins a page of the KPCR: the 5th (x86) to the 11th (26100) in
// all kernels with page table isolation whose symbols are public (internal/ntlab,
// testdata/windows/kernels.csv). Which page isn't known before the kernel is found; what
// begins each is only a candidate.
const (
	shadowFirst phys.VirtAddr = 1 * phys.PageSize
	shadowEnd   phys.VirtAddr = 32 * phys.PageSize // twice what the largest KPRCB known has
)

// shadowCandidates returns the kernel's top-level tables that the processors'
// KPCRs name, as far as space, one of a process in user mode, maps them. left is
// how many fields may still be read.
func shadowCandidates(ctx context.Context, space *AddressSpace, cpus []phys.Registers, left *int) []candidate {
	var out []candidate
	for i := range cpus {
		c := &cpus[i]
		for _, kpcr := range space.arch.kpcrs(ctx, space, c) {
			for off := shadowFirst; off < shadowEnd; off += phys.PageSize {
				if *left == 0 {
					return out
				}
				*left--
				cr3, err := readVA(ctx, space, "KernelDirectoryTableBase", kpcr+off)
				root := space.paging.root(uint64(cr3))
				if err == nil && root != 0 && space.ram.Has(root.PFN()) {
					out = append(out, candidate{
						root: root, from: fmt.Sprintf("vCPU %d KPRCB", c.CPU), pagings: []*Paging{space.paging},
					})
				}
			}
		}
	}
	return out
}
