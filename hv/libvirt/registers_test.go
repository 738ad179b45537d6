package libvirt

import (
	"github.com/google/go-cmp/cmp"

	"snap/guest/phys"
)

// flagsMask is what the monitor shows of a segment's flags.
const flagsMask = 0x00ffff00

// registersDiff compares what both the monitor and a core's note have.
func registersDiff(monitor, core phys.Registers) string {
	for _, r := range []*phys.Registers{&monitor, &core} {
		r.HasEFER, r.EFER = false, 0
		r.HasDebug, r.DR = false, [8]uint64{}
		r.HasFPU, r.FPU = false, phys.FPU{}
		r.HasKernelGSBase, r.KernelGSBase = false, 0
		for _, s := range []*phys.Segment{&r.CS, &r.DS, &r.ES, &r.FS, &r.GS, &r.SS, &r.LDT, &r.TR} {
			s.Flags &= flagsMask
		}
	}
	return cmp.Diff(monitor, core)
}
