package guest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// unmapPage takes the 4 KiB page at va out of the System process's page tables.
func unmapPage(t *testing.T, im *ntlab.Image, va phys.VirtAddr) {
	t.Helper()
	pte, ok := im.EntryAddr(va, 1)
	if !ok {
		t.Fatalf("%#x is not mapped by a 4 KiB page", uint64(va))
	}
	if err := im.WritePhys(pte, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
}

// unexport unmaps the kernel's export directory, as where it was paged out.
func unexport(t *testing.T, im *ntlab.Image) {
	t.Helper()
	k, err := guest.ReadImage(t.Context(), guest.NewAddressSpace(im, im.RAM(), im.Truth.DirectoryTableBase), im.Truth.KernelBase)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(k.Sections, func(s guest.Section) bool { return s.Name == ".edata" })
	unmapPage(t, im, k.Base+phys.VirtAddr(k.Sections[i].VirtualAddress))
}

// noKDBG overwrites the KDBG.
func noKDBG(t *testing.T, im *ntlab.Image) {
	t.Helper()
	if err := im.WriteVirt(im.Truth.KDBG, make([]byte, len(im.Truth.KDBGPlain))); err != nil {
		t.Fatal(err)
	}
}

// What lacks something of what debuggers need is found all the same, by what is left
// of it. Each value says where it is from, and what is lacking is told.
func TestLackingGuests(t *testing.T) {
	const (
		noBlock     = "no debugger data block (KDBG) that can be used"
		noList      = "KiProcessorBlock can't be read"
		cutModules  = "list of modules is cut"
		noPRCB      = "no processor's KPRCB"
		byExport    = "export PsLoadedModuleList"
		byLinks     = "links of the System process"
		byHeld      = "kernel image, by what it holds"
		byKPCR      = "KPCRs of the vCPUs"
		byHeldBlock = "kernel image, KiProcessorBlock by what it holds"
		byKDBG      = "KDBG "
	)
	newest := ntlab.Profiles()[0]
	tests := []struct {
		name     string
		edit     func(*testing.T, *ntlab.Image)
		lacks    []string
		modules  string // origins
		links    string
		cpus     string // with registers
		noCPUs   string // without
		profiles []string
		sound    bool // the processors are found
	}{
		{"KDBG overwritten", noKDBG, []string{noBlock}, byExport, byLinks, byKPCR, byHeldBlock, nil, true},
		{"KDBG not in memory", func(t *testing.T, im *ntlab.Image) {
			unmapPage(t, im, im.Truth.KDBG)
		}, []string{noBlock}, byExport, byLinks, byKPCR, byHeldBlock, nil, true},
		{"KDBG that disagrees with the exports", func(t *testing.T, im *ntlab.Image) {
			b := slices.Clone(im.Truth.KDBGPlain)
			copy(b[0x48:], b[0x50:0x58])
			if err := im.WriteVirt(im.Truth.KDBG, b); err != nil {
				t.Fatal(err)
			}
		}, []string{noBlock}, byExport, byLinks, byKPCR, byHeldBlock, nil, true},
		{"KDBG overwritten, System's Blink cut", func(t *testing.T, im *ntlab.Image) {
			noKDBG(t, im)
			write(t, im, phys.VirtAddr(read(t, im, im.Truth.PsActiveProcessHead))+8, 0xFFFF_8000_0000_0000)
		}, []string{noBlock}, byExport, byLinks, byKPCR, byHeldBlock, nil, true},
		{"KDBG overwritten, the list of processes broken in the middle", func(t *testing.T, im *ntlab.Image) {
			noKDBG(t, im)
			second := phys.VirtAddr(read(t, im, phys.VirtAddr(read(t, im, im.Truth.PsActiveProcessHead))))
			write(t, im, second, 0x7FFE_0000)
		}, []string{noBlock}, byExport, byLinks, byKPCR, byHeldBlock, nil, true},
		{"KDBG overwritten, exports paged out", func(t *testing.T, im *ntlab.Image) {
			noKDBG(t, im)
			unexport(t, im)
		}, []string{noBlock}, byHeld, byLinks, byKPCR, byHeldBlock, []string{newest}, true},
		{"KDBG overwritten, no processor", func(t *testing.T, im *ntlab.Image) {
			noKDBG(t, im)
			for _, p := range im.Truth.Processors {
				write(t, im, p.KPCR+0x18, 0)
			}
		}, []string{noPRCB, noBlock}, byExport, byLinks, "the guest's count of its processors", "the guest's count of its processors", nil, false},
		{"KDBG overwritten, the head of the modules too", func(t *testing.T, im *ntlab.Image) {
			noKDBG(t, im)
			write(t, im, im.Truth.PsLoadedModuleList, 0, 0)
		}, []string{noBlock, cutModules}, byExport, byLinks, byKPCR, byHeldBlock, nil, true},
		{"the head of the modules overwritten", func(t *testing.T, im *ntlab.Image) {
			write(t, im, im.Truth.PsLoadedModuleList, 0, 0)
		}, []string{cutModules}, byKDBG + "PsLoadedModuleList", byKDBG + "PsActiveProcessHead", byKDBG + "KiProcessorBlock", byKDBG + "KiProcessorBlock", nil, true},
		{"KiProcessorBlock overwritten", func(t *testing.T, im *ntlab.Image) {
			write(t, im, symbol(t, im, "KiProcessorBlock"), 0, 0, 0)
		}, []string{noList}, byKDBG + "PsLoadedModuleList", byKDBG + "PsActiveProcessHead", byKPCR, "the guest's count of its processors", nil, true},
	}
	for _, tt := range tests {
		profiles := tt.profiles
		if profiles == nil {
			profiles = ntlab.Profiles()
		}
		for _, p := range profiles {
			for _, registers := range []bool{true, false} {
				t.Run(strings.Join([]string{tt.name, p, map[bool]string{true: "registers", false: "none"}[registers]}, "/"), func(t *testing.T) {
					im := build(t, ntlab.Config{Profile: p, Seed: 301, Memory: 128 << 20, SmallPages: true})
					tt.edit(t, im)
					cpus, wantCPUs := im.Registers(), tt.cpus
					if !registers {
						cpus, wantCPUs = nil, tt.noCPUs
					}
					s, err := guest.Discover(t.Context(), im, im.RAM(), cpus)
					if err != nil {
						t.Fatalf("Discover failed: %v", err)
					}
					type facts struct {
						Root               phys.Addr
						Modules, Processes phys.VirtAddr
						CPUs               uint32
						From               [3]string
					}
					want := facts{
						im.Truth.DirectoryTableBase, im.Truth.PsLoadedModuleList, im.Truth.PsActiveProcessHead, uint32(len(im.Truth.Processors)),
						[3]string{tt.modules, tt.links, wantCPUs},
					}
					got := facts{
						s.DirectoryTableBase.Value, s.PsLoadedModuleList.Value, s.PsActiveProcessHead.Value, s.NumberProcessors.Value,
						[3]string{s.PsLoadedModuleList.From, s.PsActiveProcessHead.From, s.NumberProcessors.From},
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("system (-want +got):\n%s", diff)
					}
					checkLacks(t, s, tt.lacks)
					if tt.sound && !strings.HasPrefix(wantCPUs, "the guest's count") {
						for i, p := range s.Processors {
							if want := im.Truth.Processors[i]; p.KPCR != want.KPCR || p.PRCB != want.KPRCB || registers && p.VCPU != want.VCPU {
								t.Errorf("processor %d is %+v; want %+v", i, p, want)
							}
						}
					}
				})
			}
		}
	}
}

// TestSomeProcessors: where KPCRs are overwritten, the processors that are left are found,
// and it isn't said that there are none.
func TestSomeProcessors(t *testing.T) {
	for _, registers := range []bool{true, false} {
		im := build(t, ntlab.Config{Seed: 302, CPUs: 4, Memory: 128 << 20})
		noKDBG(t, im)
		const gone = 2
		write(t, im, im.Truth.Processors[gone].KPCR+0x18, 0)
		var cpus []phys.Registers
		if registers {
			cpus = im.Registers()
		}
		s, err := guest.Discover(t.Context(), im, im.RAM(), cpus)
		if err != nil {
			t.Fatalf("Discover failed: %v", err)
		}
		var got, want []phys.VirtAddr
		for _, p := range s.Processors {
			got = append(got, p.KPCR)
		}
		for i, p := range im.Truth.Processors {
			if i != gone {
				want = append(want, p.KPCR)
			}
		}
		if !slices.Equal(got, want) || s.NumberProcessors.Value != uint32(len(want)) {
			t.Errorf("registers %v: %d processors with KPCRs at %#x; want those at %#x", registers, s.NumberProcessors.Value, got, want)
		}
		if hasWarning(s, "no processor's KPRCB") || !hasWarning(s, "3 processors are sound, but the guest says it has 4") {
			t.Errorf("registers %v: warnings %q; want that 3 of 4 processors are sound", registers, s.Warnings)
		}
	}
}

// checkLacks demands that the guest lacks what is named and that warnings say what
// that means.
func checkLacks(t *testing.T, s *guest.System, want []string) {
	t.Helper()
	var lacks string
	for _, l := range s.Lacks {
		lacks += l.What + "\n"
		if !slices.Contains(s.Warnings, l.Means) {
			t.Errorf("Warnings %q lack %q", s.Warnings, l.Means)
		}
	}
	for _, w := range want {
		if !strings.Contains(lacks, w) || !hasWarning(s, w) {
			t.Errorf("Lacks %q, Warnings %q; want both to tell of %q", s.Lacks, s.Warnings, w)
		}
	}
	if !hasWarning(s, "debuggers") && !hasWarning(s, "WinDbg") {
		t.Errorf("Warnings %q; want one that says what debuggers can't do", s.Warnings)
	}
	if slices.Contains(want, "no debugger data block (KDBG) that can be used") {
		if s.KdDebuggerDataBlock != (phys.Known[phys.VirtAddr]{}) || len(s.KDBG.Block) != 0 {
			t.Errorf("KdDebuggerDataBlock = %v; want none", s.KdDebuggerDataBlock)
		}
	}
	if n := len(s.Attempts); n == 0 || s.Attempts[n-1].Err != nil || s.Attempts[n-1].What != s.Witness {
		t.Errorf("Attempts %v; want the last to be what led to the guest, %s", s.Attempts, s.Witness)
	}
}
