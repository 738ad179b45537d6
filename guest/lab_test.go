package guest_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/guest"
	"snap/internal/ntlab"
	"snap/phys"
)

// build makes a lab guest.
func build(t testing.TB, c ntlab.Config) *ntlab.Image {
	t.Helper()
	if c.Memory == 0 {
		c.Memory = 512 << 20
	}
	if c.CPUs == 0 {
		c.CPUs = 3
	}
	im, err := ntlab.Build(c)
	if err != nil {
		t.Fatalf("build the guest %+v: %v", c, err)
	}
	return im
}

// beforeKPTI are profiles of kernels that know no page table isolation, nor 5-level
// paging.
var beforeKPTI = map[string]bool{"ws2003sp1-x64": true}

// labConfigs are all kinds of guests that the lab builds.
func labConfigs() map[string]ntlab.Config {
	options := map[string]func(*ntlab.Config){
		"":                        func(*ntlab.Config) {},
		"plain":                   func(c *ntlab.Config) { c.PlainKDBG = true },
		"user mode":               func(c *ntlab.Config) { c.UserMode = true },
		"KPTI":                    func(c *ntlab.Config) { c.KPTI = true },
		"KPTI, user mode":         func(c *ntlab.Config) { c.KPTI, c.UserMode = true, true },
		"no stub":                 func(c *ntlab.Config) { c.NoLowStub = true },
		"no stub, user":           func(c *ntlab.Config) { c.NoLowStub, c.KPTI, c.UserMode = true, true, true },
		"4 KiB pages":             func(c *ntlab.Config) { c.SmallPages = true },
		"straddling":              func(c *ntlab.Config) { c.StraddleKDBG = true },
		"monitor":                 func(c *ntlab.Config) { c.MonitorRegisters = true },
		"monitor, user":           func(c *ntlab.Config) { c.MonitorRegisters, c.KPTI, c.UserMode = true, true, true },
		"monitor, no stub":        func(c *ntlab.Config) { c.MonitorRegisters, c.NoLowStub, c.UserMode = true, true, true },
		"one CPU":                 func(c *ntlab.Config) { c.CPUs = 1 },
		"eight CPUs, i440fx":      func(c *ntlab.Config) { c.CPUs, c.Machine, c.Memory = 8, "i440fx", 5<<30 },
		"5 levels":                func(c *ntlab.Config) { c.LA57 = true },
		"5 levels, no stub, user": func(c *ntlab.Config) { c.LA57, c.NoLowStub, c.KPTI, c.UserMode = true, true, true, true },
		"blue screen": func(c *ntlab.Config) {
			c.BugCheck = [5]uint64{0xE2, 1, 2, 3, 0xFFFF_F800_1234_5678}
		},
	}
	out := map[string]ntlab.Config{}
	for _, p := range ntlab.Profiles() {
		for name, set := range options {
			c := ntlab.Config{Profile: p, Seed: uint64(len(out)) + 1}
			set(&c)
			if (c.KPTI || c.LA57) && beforeKPTI[p] {
				continue
			}
			out[p+"/"+name] = c
		}
	}
	return out
}

// checkSystem holds what was found against what the builder put there. vcpus
// says whether the processors' vCPUs are to be told.
func checkSystem(t *testing.T, im *ntlab.Image, s *guest.System, vcpus bool) {
	t.Helper()
	truth := &im.Truth
	type facts struct {
		Build                        uint32
		Root                         phys.Addr
		Slot                         int
		KernelBase                   phys.VirtAddr
		KernelSize                   uint32
		Modules, Processes, EPROCESS phys.VirtAddr
		KDBG                         phys.VirtAddr
		Block                        []byte
		Encoded                      bool
		PFN                          phys.VirtAddr
		Runs                         []phys.Run
		BugCheck                     [5]uint64
		Product, Suite, BootID       uint32
		SystemTime, InterruptTime    uint64
	}
	want := facts{
		truth.Build, truth.DirectoryTableBase, truth.SelfMapSlot, truth.KernelBase, truth.KernelSize,
		truth.PsLoadedModuleList, truth.PsActiveProcessHead, truth.SystemProcess,
		truth.KDBG, truth.KDBGPlain, truth.KDBGEncoded, truth.PfnDatabase, truth.Runs, im.Config.BugCheck,
		truth.ProductType, truth.SuiteMask, truth.BootID, truth.SystemTime, truth.InterruptTime,
	}
	got := facts{
		s.Build(), s.DirectoryTableBase.Value, s.SelfMapSlot, s.Kernel.Base, s.Kernel.Size,
		s.PsLoadedModuleList.Value, s.PsActiveProcessHead.Value, s.PsInitialSystemProcess,
		s.KDBG.At, s.KDBG.Block, s.KDBG.Encoded, s.MmPfnDatabase.Value, s.PhysicalMemory.Value, s.BugCheck.Values(),
		s.ProductType.Value, s.SuiteMask.Value, s.BootID.Value, s.SystemTime.Value, s.SystemUpTime.Value,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("system (-want +got):\n%s", diff)
	}
	if s.Arch != guest.AMD64() || s.Machine.Value != guest.MachineAMD64 || s.NtBuildNumber.Value>>28 != 0xF ||
		s.Space.Root() != truth.DirectoryTableBase {
		t.Errorf("Arch %v, Machine %#x, NtBuildNumber %#x, Space.Root %#x", s.Arch, s.Machine.Value, s.NtBuildNumber.Value, s.Space.Root())
	}
	if s.KUSER.NtProductType != truth.ProductType || s.KUSER.SuiteMask != truth.SuiteMask || s.KUSER.BootID != truth.BootID ||
		s.KUSER.SystemTime != truth.SystemTime || s.KUSER.InterruptTime != truth.InterruptTime {
		t.Errorf("KUSER = %+v; want what the builder put there", s.KUSER)
	}
	if s.KernBase.Value != truth.KernelBase || s.KdDebuggerDataBlock.Value != truth.KDBG ||
		int(s.NumberProcessors.Value) != len(truth.Processors) {
		t.Errorf("KernBase %#x, KdDebuggerDataBlock %#x, NumberProcessors %d; want %#x, %#x, %d", s.KernBase.Value,
			s.KdDebuggerDataBlock.Value, s.NumberProcessors.Value, truth.KernelBase, truth.KDBG, len(truth.Processors))
	}
	checkOrigins(t, s)
	if got := s.DirectoryTableBase.From; vcpus && got != "PsInitialSystemProcess" {
		t.Errorf("origin of DirectoryTableBase = %q", got)
	}
	if len(s.Warnings) != 0 {
		t.Errorf("Warnings = %q; want none", s.Warnings)
	}
	var procs []guest.Processor
	for i, p := range truth.Processors {
		vcpu := p.VCPU
		if !vcpus {
			vcpu = -1
		}
		procs = append(procs, guest.Processor{Number: i, PRCB: p.KPRCB, KPCR: p.KPCR, ContextAt: p.Context, VCPU: vcpu})
	}
	if diff := cmp.Diff(procs, s.Processors); diff != "" {
		t.Errorf("processors (-want +got):\n%s", diff)
	}
	checkLists(t, im, s)
}

// origins are where a guest's values come from, by name.
func origins(s *guest.System) map[string]string {
	from := map[string]string{
		"Machine": s.Machine.From, "NtBuildNumber": s.NtBuildNumber.From, "DirectoryTableBase": s.DirectoryTableBase.From,
		"KernBase": s.KernBase.From, "KdDebuggerDataBlock": s.KdDebuggerDataBlock.From,
		"SystemTime": s.SystemTime.From, "SystemUpTime": s.SystemUpTime.From, "ProductType": s.ProductType.From,
		"SuiteMask": s.SuiteMask.From, "BootID": s.BootID.From,
		"PsLoadedModuleList": s.PsLoadedModuleList.From, "PsActiveProcessHead": s.PsActiveProcessHead.From,
		"MmPfnDatabase": s.MmPfnDatabase.From, "PhysicalMemory": s.PhysicalMemory.From,
		"NumberProcessors": s.NumberProcessors.From, "BugCheck": s.BugCheck.Code.From,
	}
	for i, p := range s.BugCheck.Parameter {
		from[fmt.Sprintf("BugCheck parameter %d", i)] = p.From
	}
	return from
}

// checkOrigins demands that each value of a sound guest says where it is from.
func checkOrigins(t *testing.T, s *guest.System) {
	t.Helper()
	for name, origin := range origins(s) {
		if origin == "" {
			t.Errorf("%s has no origin", name)
		}
	}
}

func checkLists(t *testing.T, im *ntlab.Image, s *guest.System) {
	t.Helper()
	mods, err := s.Modules(t.Context())
	if err != nil {
		t.Errorf("Modules failed: %v", err)
	}
	var gotMods []ntlab.Module
	for _, m := range mods {
		gotMods = append(gotMods, ntlab.Module{Name: m.Name, Base: m.Base, Size: m.Size})
	}
	if diff := cmp.Diff(im.Truth.Modules, gotMods); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
	procs, err := s.Processes(t.Context())
	if err != nil {
		t.Errorf("Processes failed: %v", err)
	}
	var gotProcs []ntlab.Process
	for _, p := range procs {
		gotProcs = append(gotProcs, ntlab.Process{
			Name: p.Name, PID: p.PID, EPROCESS: p.EPROCESS, DirectoryTableBase: p.DirectoryTableBase,
		})
	}
	if diff := cmp.Diff(im.Truth.Processes, gotProcs); diff != "" {
		t.Errorf("processes (-want +got):\n%s", diff)
	}
}

func TestDiscover(t *testing.T) {
	for name, c := range labConfigs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			im := build(t, c)
			s, err := guest.Discover(t.Context(), im, im.RAM(), im.Registers())
			if err != nil {
				t.Fatalf("Discover failed: %v", err)
			}
			checkSystem(t, im, s, true)
		})
	}
}

// A raw memory image has no registers: the memory itself must do.
func TestDiscoverWithoutRegisters(t *testing.T) {
	for _, p := range ntlab.Profiles() {
		for _, noStub := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/no stub %v", p, noStub), func(t *testing.T) {
				t.Parallel()
				im := build(t, ntlab.Config{Profile: p, Seed: 77, NoLowStub: noStub, SmallPages: noStub})
				s, err := guest.Discover(t.Context(), im, im.RAM(), nil)
				if err != nil {
					t.Fatalf("Discover failed: %v", err)
				}
				checkSystem(t, im, s, false)
			})
		}
	}
}

// Whichever process a processor is in, the answer is the System process's
// page table.
func TestDiscoverFromAnyProcess(t *testing.T) {
	for _, p := range ntlab.Profiles() {
		im := build(t, ntlab.Config{Profile: p, Seed: 5, CPUs: 1})
		for _, proc := range im.Truth.Processes {
			cpu := im.Registers()[0]
			cpu.CR3 = uint64(proc.DirectoryTableBase) | 2
			s, err := guest.Discover(t.Context(), im, im.RAM(), []phys.Registers{cpu})
			if err != nil {
				t.Errorf("%s in %s: Discover failed: %v", p, proc.Name, err)
				continue
			}
			if s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase {
				t.Errorf("%s in %s: DirectoryTableBase = %#x; want %#x", p, proc.Name,
					s.DirectoryTableBase.Value, im.Truth.DirectoryTableBase)
			}
		}
	}
}

func TestOpen(t *testing.T) {
	for _, la57 := range []bool{false, true} {
		for _, p := range ntlab.Profiles() {
			if !la57 || !beforeKPTI[p] {
				testOpen(t, p, la57)
			}
		}
	}
}

func testOpen(t *testing.T, p string, la57 bool) {
	t.Helper()
	im := build(t, ntlab.Config{Profile: p, Seed: 8, PlainKDBG: true, LA57: la57})
	s, err := guest.Open(t.Context(), im, im.RAM(), im.Truth.DirectoryTableBase, im.Truth.KDBG)
	if err != nil {
		t.Errorf("%s, 5 levels %v: Open failed: %v", p, la57, err)
		return
	}
	checkSystem(t, im, s, false)
}

// What is tried first is what costs least.
func TestWitness(t *testing.T) {
	for _, tt := range []struct {
		config ntlab.Config
		regs   bool
		want   string
	}{
		{ntlab.Config{}, true, "vCPU 0 CR3"},
		{ntlab.Config{UserMode: true}, true, "vCPU 0 CR3"},
		{ntlab.Config{UserMode: true, KPTI: true}, true, "vCPU 0 KPRCB"},
		{ntlab.Config{UserMode: true, KPTI: true, MonitorRegisters: true}, true, "low stub at 0x"},
		{ntlab.Config{UserMode: true, KPTI: true, MonitorRegisters: true, NoLowStub: true}, true, "self-map scan at 0x"},
		{ntlab.Config{}, false, "low stub at 0x"},
		{ntlab.Config{NoLowStub: true}, false, "self-map scan at 0x"},
	} {
		im := build(t, tt.config)
		cpus := im.Registers()
		if !tt.regs {
			cpus = nil
		}
		s, err := guest.Discover(t.Context(), im, im.RAM(), cpus)
		if err != nil {
			t.Errorf("%+v: Discover failed: %v", tt.config, err)
			continue
		}
		if !strings.HasPrefix(s.Witness, tt.want) || s.DirectoryTableBase.Value != im.Truth.DirectoryTableBase {
			t.Errorf("%+v: Witness = %q, DirectoryTableBase = %#x; want %q, %#x", tt.config,
				s.Witness, s.DirectoryTableBase.Value, tt.want, im.Truth.DirectoryTableBase)
		}
	}
}

// Kernels mapped by 4 KiB pages may have their export directory paged out;
// then the KDBG alone has to do.
func TestKernelWithoutExports(t *testing.T) {
	for _, p := range ntlab.Profiles() {
		im := build(t, ntlab.Config{Profile: p, Seed: 9, SmallPages: true})
		k, err := guest.ReadImage(t.Context(), guest.NewAddressSpace(im, im.RAM(), im.Truth.DirectoryTableBase), im.Truth.KernelBase)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(k.Sections, func(s guest.Section) bool { return s.Name == ".edata" })
		if i < 0 {
			t.Fatalf("%s has no .edata", p)
		}
		pte, ok := im.EntryAddr(k.Base+phys.VirtAddr(k.Sections[i].VirtualAddress), 1)
		if !ok {
			t.Fatalf("%s: .edata is not mapped by 4 KiB pages", p)
		}
		if err := im.WritePhys(pte, make([]byte, 8)); err != nil {
			t.Fatal(err)
		}
		s, err := guest.Discover(t.Context(), im, im.RAM(), im.Registers())
		if err != nil {
			t.Errorf("%s: Discover failed: %v", p, err)
			continue
		}
		if got := s.DirectoryTableBase.From; got != "PsActiveProcessHead" {
			t.Errorf("%s: origin of DirectoryTableBase = %q; want PsActiveProcessHead", p, got)
		}
		s.DirectoryTableBase.From = "PsInitialSystemProcess" // all else is as ever
		checkSystem(t, im, s, true)
	}
}

// Pages that Windows has trimmed but not reused are read like any other.
func TestOddMappings(t *testing.T) {
	var configs []ntlab.Config
	for seed := range uint64(3) { // there are three masks
		for _, p := range ntlab.Profiles() {
			configs = append(configs, ntlab.Config{Profile: p, Seed: 10 + seed, Memory: 5 << 30})
			if !beforeKPTI[p] {
				configs = append(configs, ntlab.Config{Profile: p, Seed: 10 + seed, Memory: 5 << 30, LA57: true})
			}
		}
	}
	for _, c := range configs {
		im, p := build(t, c), c.Profile
		space, err := guest.FindAddressSpace(t.Context(), im, im.RAM(), im.Truth.DirectoryTableBase)
		if err != nil {
			t.Fatal(err)
		}
		kinds := map[ntlab.MappingKind]int{}
		for _, m := range im.Truth.Mappings {
			kinds[m.Kind]++
			got, err := space.Translate(t.Context(), m.VA+0x123)
			var want guest.Mapping
			e, extentErr := space.Extent(t.Context(), m.VA)
			residence := phys.Resident
			switch m.Kind {
			case ntlab.MappingLost:
				residence = phys.Unresolved
			case ntlab.MappingPagefile, ntlab.MappingDemandZero, ntlab.MappingProtoGone:
				residence = phys.Absent
			}
			if extentErr != nil || e.Residence != residence || residence == phys.Resident && e.At != m.PFN.Addr() {
				t.Errorf("%s: %s at %#x: Extent = %+v, %v; want it %v", p, m.Kind, uint64(m.VA), e, extentErr, residence)
			}
			switch m.Kind {
			case ntlab.MappingTransition, ntlab.MappingHidden, ntlab.MappingPrototype,
				ntlab.MappingProtoTransition, ntlab.MappingProtoHidden:
				want = guest.Mapping{Size: 1 << 12, Transition: true}
			case ntlab.MappingLarge:
				want = guest.Mapping{Size: 1 << 21}
			case ntlab.MappingHuge:
				want = guest.Mapping{Size: 1 << 30}
			default:
				if !errors.Is(err, guest.ErrNotPresent) {
					t.Errorf("%s: %s at %#x: %+v, %v; want ErrNotPresent", p, m.Kind, uint64(m.VA), got, err)
				}
				continue
			}
			if err != nil || got.Addr != m.PFN.Addr()+0x123 || got.Size != want.Size || got.Transition != want.Transition {
				t.Errorf("%s: %s at %#x: %+v, %v; want PFN %#x", p, m.Kind, uint64(m.VA), got, err, uint64(m.PFN))
			}
		}
		for _, k := range []ntlab.MappingKind{
			ntlab.MappingTransition, ntlab.MappingHidden, ntlab.MappingPrototype, ntlab.MappingProtoTransition,
			ntlab.MappingProtoHidden, ntlab.MappingProtoGone, ntlab.MappingLost, ntlab.MappingPagefile, ntlab.MappingLarge,
		} {
			if kinds[k] == 0 {
				t.Errorf("%s: no %s mapping was tried", p, k)
			}
		}
	}
}

func TestOpenWithAnotherProcess(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 11, PlainKDBG: true})
	i := slices.IndexFunc(im.Truth.Processes, func(p ntlab.Process) bool {
		return p.PID != 4 && p.DirectoryTableBase != im.Truth.DirectoryTableBase
	})
	other := im.Truth.Processes[i].DirectoryTableBase
	s, err := guest.Open(t.Context(), im, im.RAM(), other, im.Truth.KDBG)
	if err != nil {
		t.Fatal(err)
	}
	if s.DirectoryTableBase.Value != other || !hasWarning(s, "System process") {
		t.Errorf("DirectoryTableBase = %#x, warnings %q; want %#x and a warning", s.DirectoryTableBase.Value, s.Warnings, other)
	}
}

// A dump holds the guest's own memory, or where that is not known all RAM but
// the first page.
func TestDumpMemory(t *testing.T) {
	im := build(t, ntlab.Config{Seed: 12})
	s, err := discover(t, im)
	if err != nil {
		t.Fatal(err)
	}
	got, warning := s.DumpMemory()
	if diff := cmp.Diff(phys.Know(im.Truth.Runs, "KDBG MmPhysicalMemoryBlock"), got); diff != "" || warning != "" {
		t.Errorf("DumpMemory of a sound guest warns %q, and has (-want +got):\n%s", warning, diff)
	}
	s.PhysicalMemory = phys.Known[[]phys.Run]{}
	got, warning = s.DumpMemory()
	want := []phys.Run(im.RAM().Minus(phys.Runs{{Base: 0, Pages: 1}}))
	if diff := cmp.Diff(phys.Know(want, "RAM map without the first page"), got); diff != "" ||
		warning != "the guest's own memory ranges can't be used: the dump holds all RAM instead" {
		t.Errorf("DumpMemory without MmPhysicalMemoryBlock warns %q, and has (-want +got):\n%s", warning, diff)
	}
}

func TestName(t *testing.T) {
	for _, tt := range []struct {
		product, major, minor, build uint32
		want                         string
	}{
		{1, 10, 0, 19045, "Windows 10.0.19045"},
		{2, 6, 3, 9600, "Windows Server 6.3.9600"},
		{3, 5, 2, 3790, "Windows Server 5.2.3790"},
	} {
		s := &guest.System{
			ProductType:   phys.Know(tt.product, "a test"),
			NtBuildNumber: phys.Know(0xF000_0000|tt.build, "a test"),
			KUSER:         guest.KUSER{NtMajorVersion: tt.major, NtMinorVersion: tt.minor},
		}
		if got := s.Name(); got != tt.want {
			t.Errorf("Name() = %q; want %q", got, tt.want)
		}
	}
}
