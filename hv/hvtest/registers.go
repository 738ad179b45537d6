package hvtest

import (
	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

// flagsMask is what QEMU's monitor shows of a segment's flags.
const flagsMask = 0x00ffff00

// RegistersDiff compares what both QEMU's monitor and an ELF core that QEMU wrote
// have of a processor, which is not all of it. It is empty if that is the same.
func RegistersDiff(monitor, core phys.Registers) string {
	for _, r := range []*phys.Registers{&monitor, &core} {
		r.HasEFER, r.EFER = false, 0
		r.HasDebug, r.DR = false, [8]uint64{}
		r.HasFPU, r.FPU = false, phys.FPU{}
		r.HasKernelGSBase, r.KernelGSBase = false, 0
		r.Halves = false
		for _, s := range []*phys.Segment{&r.CS, &r.DS, &r.ES, &r.FS, &r.GS, &r.SS, &r.LDT, &r.TR} {
			s.Flags &= flagsMask
		}
	}
	return cmp.Diff(monitor, core)
}
