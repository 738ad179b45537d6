package guest

import (
	"strconv"
	"testing"

	"snap/internal/ntlab/kerneltables"
	"snap/phys"
)

// KernelDirectoryTableBase begins a page of the KPCR in every kernel that has it.
func TestShadowOffsetsOfKernels(t *testing.T) {
	inRange := func(at phys.VirtAddr) bool { return at%phys.PageSize == 0 && at >= shadowFirst && at < shadowEnd }
	kernels := 0
	for _, r := range kerneltables.Read(t, realKernels+"kernels.csv") {
		prcb, dtb := r["KPCR_Prcb"], r["KPRCB_KernelDirectoryTableBase"]
		if r["arch"] != "amd64" || dtb == "" {
			continue
		}
		at, err := uint64(amd64.layout.kpcrPrcb), error(nil) // where a row doesn't say it: all that do have it there
		if prcb != "" {
			at, err = strconv.ParseUint(prcb, 0, 32)
		}
		off, err2 := strconv.ParseUint(dtb, 0, 32)
		if err != nil || err2 != nil || !inRange(phys.VirtAddr(at+off)) {
			t.Errorf("%s: KernelDirectoryTableBase at %s of the KPRCB at %s is where it isn't looked for", r["version"], dtb, prcb)
		}
		kernels++
	}
	if kernels < 200 {
		t.Errorf("%d kernels have KernelDirectoryTableBase; want more than 200", kernels)
	}
}
