package guest_test

import (
	"slices"
	"testing"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// A Windows that is newer than any known is found by what its memory says of itself:
// neither its build, nor the size of its KDBG, nor where its structures have things is
// known to anybody.
func TestUnknownWindows(t *testing.T) {
	for name, c := range map[string]ntlab.Config{
		"encoded":                  {},
		"plain":                    {PlainKDBG: true},
		"user mode, KPTI":          {KPTI: true, UserMode: true},
		"user mode, KPTI, no stub": {KPTI: true, UserMode: true, NoLowStub: true},
		"4 KiB pages":              {SmallPages: true},
	} {
		for _, registers := range []bool{true, false} {
			c.Profile, c.Seed, c.Memory = ntlab.Unknown, 400, 128<<20
			im := build(t, c)
			cpus := im.Registers()
			if !registers {
				cpus = nil
			}
			s, err := guest.Discover(t.Context(), im, im.RAM(), cpus)
			if err != nil {
				t.Errorf("%s, registers %v: Discover failed: %v", name, registers, err)
				continue
			}
			if c.KPTI && registers && s.Witness != "vCPU 0 KPRCB" {
				t.Errorf("%s: Witness = %q; want the KPRCB", name, s.Witness)
			}
			checkSystem(t, im, s, registers)
		}
	}
}

// The same where its KDBG is of a kind that nobody can read.
func TestUnknownWindowsWithoutKDBG(t *testing.T) {
	im := build(t, ntlab.Config{Profile: ntlab.Unknown, Seed: 401, Memory: 128 << 20})
	noKDBG(t, im)
	s, err := guest.Discover(t.Context(), im, im.RAM(), im.Registers())
	if err != nil {
		t.Fatal(err)
	}
	if s.Build() != im.Truth.Build || len(s.Processors) != len(im.Truth.Processors) {
		t.Errorf("build %d with %d processors; want %d, %d", s.Build(), len(s.Processors), im.Truth.Build, len(im.Truth.Processors))
	}
	checkLacks(t, s, []string{"no debugger data block (KDBG) that can be used"})
	checkLists(t, im, s)
}

// Each generation is found without its KDBG, by its exports and lists alone.
func TestGenerationsWithoutKDBG(t *testing.T) {
	for _, p := range ntlab.Generations() {
		t.Run(p, func(t *testing.T) {
			t.Parallel()
			im := build(t, ntlab.Config{Profile: p, Seed: 402, Memory: 128 << 20})
			noKDBG(t, im)
			for _, cpus := range [][]phys.Registers{im.Registers(), nil} {
				s, err := guest.Discover(t.Context(), im, im.RAM(), cpus)
				if err != nil {
					t.Fatalf("Discover with %d processors failed: %v", len(cpus), err)
				}
				var got []phys.VirtAddr
				for _, p := range s.Processors {
					got = append(got, p.PRCB)
				}
				var want []phys.VirtAddr
				for _, p := range im.Truth.Processors {
					want = append(want, p.KPRCB)
				}
				if s.Build() != im.Truth.Build || s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase || !slices.Equal(got, want) {
					t.Errorf("build %d at %#x with processors %x; want %d, %#x, %x", s.Build(), s.DirectoryTableBase.Value, got,
						im.Truth.Build, im.Truth.DirectoryTableBase, want)
				}
				checkLists(t, im, s)
			}
		})
	}
}
