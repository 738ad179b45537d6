package capture

import (
	"strings"
	"testing"

	"snap/internal/ntlab"
)

// TestHalves: registers that a source knows but half of are told, and no others.
func TestHalves(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Profile: "win10-22h2", CPUs: 4})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		halves []int
		want   string
	}{
		{nil, ""},
		{[]int{2}, "vCPU 2 runs 32-bit code"},
		{[]int{1, 3}, " and 1 more run 32-bit code"},
	} {
		regs := im.Registers()
		for i := range regs {
			regs[i].Halves = false
		}
		for _, i := range tt.halves {
			regs[i].Halves = true
		}
		a, err := Analyze(t.Context(), im, im.RAM(), regs, LookOptions{})
		if err != nil {
			t.Fatal(err)
		}
		all := strings.Join(a.Warnings, "\n")
		if got := strings.Contains(all, "32-bit code"); got != (tt.want != "") || !strings.Contains(all, tt.want) {
			t.Errorf("with halves of vCPUs %v the warnings are %q; want %q", tt.halves, all, tt.want)
		}
	}
}
