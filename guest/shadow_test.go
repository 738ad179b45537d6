package guest

import (
	"encoding/csv"
	"os"
	"slices"
	"strconv"
	"testing"

	"snap/phys"
)

// KernelDirectoryTableBase begins a page of the KPCR in every kernel that has it.
func TestShadowOffsetsOfKernels(t *testing.T) {
	f, err := os.Open("../internal/ntlab/testdata/windows/kernels.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	prcb, dtb, arch := slices.Index(rows[0], "KPCR_Prcb"), slices.Index(rows[0], "KPRCB_KernelDirectoryTableBase"), slices.Index(rows[0], "arch")
	inRange := func(at phys.VirtAddr) bool { return at%phys.PageSize == 0 && at >= shadowFirst && at < shadowEnd }
	kernels := 0
	for _, r := range rows[1:] {
		if r[arch] != "amd64" || r[dtb] == "" {
			continue
		}
		at, err := uint64(kpcrPrcb), error(nil) // where a row doesn't say it: all that do have it there
		if r[prcb] != "" {
			at, err = strconv.ParseUint(r[prcb], 0, 32)
		}
		off, err2 := strconv.ParseUint(r[dtb], 0, 32)
		if err != nil || err2 != nil || !inRange(phys.VirtAddr(at+off)) {
			t.Errorf("%s: KernelDirectoryTableBase at %s of the KPRCB at %s is where it isn't looked for", r[0], r[dtb], r[prcb])
		}
		kernels++
	}
	if kernels < 200 {
		t.Errorf("%d kernels have KernelDirectoryTableBase; want more than 200", kernels)
	}
}
