package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/guest"
	"snap/header"
	"snap/hv"
	"snap/hv/file"
	"snap/internal/ntlab"
	"snap/phys"
)

// header32Fields are what DUMP_HEADER32 says of a guest, by the offsets of its public
// layout (QEMU, include/qemu/win_dump_defs.h).
type header32Fields struct {
	Mark                                                    string
	MajorVersion, MinorVersion                              uint32
	DirectoryTableBase, PfnDataBase                         uint32
	PsLoadedModuleList, PsActiveProcessHead                 uint32
	MachineImageType, NumberProcessors, BugCheckCode        uint32
	BugCheckParameter                                       [4]uint32
	PaeEnabled                                              byte
	KdDebuggerDataBlock                                     uint32
	Runs                                                    []phys.Run
	NumberOfPages                                           uint32
	ExceptionCode, DumpType, ProductType, SuiteMask, BootID uint32
	RequiredDumpSpace, SystemTime, SystemUpTime             uint64
}

func readHeader32(b []byte) header32Fields {
	u32, u64 := func(off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }, func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
	f := header32Fields{
		Mark: string(b[:8]), MajorVersion: u32(0x8), MinorVersion: u32(0xC),
		DirectoryTableBase: u32(0x10), PfnDataBase: u32(0x14), PsLoadedModuleList: u32(0x18), PsActiveProcessHead: u32(0x1C),
		MachineImageType: u32(0x20), NumberProcessors: u32(0x24), BugCheckCode: u32(0x28), PaeEnabled: b[0x5C],
		KdDebuggerDataBlock: u32(0x60), NumberOfPages: u32(0x68), ExceptionCode: u32(0x7D0), DumpType: u32(0xF88),
		ProductType: u32(0xF94), SuiteMask: u32(0xF98), BootID: u32(0x8A4),
		RequiredDumpSpace: u64(0xFA0), SystemUpTime: u64(0xFB8), SystemTime: u64(0xFC0),
	}
	for i := range f.BugCheckParameter {
		f.BugCheckParameter[i] = u32(0x2C + 4*i)
	}
	for i := range int(min(u32(0x64), 86)) {
		f.Runs = append(f.Runs, phys.Run{Base: phys.PFN(u32(0x6C + 8*i)), Pages: uint64(u32(0x70 + 8*i))})
	}
	return f
}

func wantHeader32(im *ntlab.Image) header32Fields {
	truth := &im.Truth
	pages := phys.Runs(truth.Runs).Pages()
	f := header32Fields{
		Mark: "PAGEDUMP", MajorVersion: 0xF, MinorVersion: truth.Build,
		DirectoryTableBase: uint32(truth.DirectoryTableBase), PfnDataBase: uint32(truth.PfnDatabase),
		PsLoadedModuleList: uint32(truth.PsLoadedModuleList), PsActiveProcessHead: uint32(truth.PsActiveProcessHead),
		MachineImageType: 0x14C, NumberProcessors: uint32(len(truth.Processors)), BugCheckCode: 0x161, PaeEnabled: 1,
		KdDebuggerDataBlock: uint32(truth.KDBG), Runs: truth.Runs, NumberOfPages: uint32(pages),
		ExceptionCode: 0x80000003, DumpType: 1, ProductType: truth.ProductType, SuiteMask: truth.SuiteMask, BootID: truth.BootID,
		RequiredDumpSpace: 0x1000 + pages<<12, SystemTime: truth.SystemTime, SystemUpTime: truth.InterruptTime,
	}
	if im.Config.NoPAE {
		f.PaeEnabled = 0
	}
	if crash := im.Config.BugCheck; crash[0] != 0 {
		f.BugCheckCode, f.BugCheckParameter = uint32(crash[0]), [4]uint32{uint32(crash[1]), uint32(crash[2]), uint32(crash[3]), uint32(crash[4])}
	}
	return f
}

// useless32 is useless of processors that run 32-bit code.
func useless32(n int) []phys.Registers {
	out := useless(n)
	for i := range out {
		r := &out[i]
		r.EFER, r.RIP, r.RSP, r.CS.Selector = 0, 0x8012_3456, 0x8012_8000, 8
	}
	return out
}

// TestEveryGeneration32 is TestEveryGeneration of 32-bit Windows: with PAE and without,
// with 2 GiB for programs and with 3, and where that can be in programs by their own page
// tables, of which some lead to the kernel's by the KPRCB alone.
func TestEveryGeneration32(t *testing.T) {
	shadows, crashes := 0, 0
	for _, profile := range ntlab.Generations32() {
		t.Run(profile, func(t *testing.T) {
			for seed := range *seeds {
				for i := range 16 {
					c := generationConfig(profile, i&1 != 0, seed)
					c.NoPAE, c.UserSpace3GB = i&2 != 0, i&4 != 0
					if i&8 != 0 {
						c.KPTI, c.UserMode = true, true
					}
					if c.BugCheck = [5]uint64{}; i == 6 {
						c.BugCheck = [5]uint64{0xD1, 0x8012_3456, 2, 1, 0xF7A0_1234}
					}
					if c.Possible() {
						checkForm32(t, c)
						shadows += map[bool]int{true: 1}[c.KPTI]
						crashes += map[bool]int{true: 1}[c.BugCheck[0] != 0]
					}
				}
			}
		})
	}
	if shadows == 0 || crashes == 0 {
		t.Errorf("%d guests with KVA shadow, %d that crashed", shadows, crashes)
	}
}

func checkForm32(t *testing.T, c ntlab.Config) {
	t.Helper()
	im, err := ntlab.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, cpus := range map[string][]phys.Registers{
		"useful": im.Registers(), "useless": useless32(c.CPUs), "none": nil,
	} {
		name = fmt.Sprintf("seed %d, plain %v, PAE %v, 3 GiB %v, KVA shadow %v, registers %s", c.Seed, c.PlainKDBG, !c.NoPAE, c.UserSpace3GB, c.KPTI, name)
		a, err := Analyze(t.Context(), im, im.RAM(), cpus, LookOptions{})
		if err != nil {
			t.Errorf("%s: Analyze failed: %v", name, err)
			continue
		}
		if c.KPTI && len(cpus) > 0 && cpus[0].CR3 == im.Registers()[0].CR3 && a.System.Attempts[len(a.System.Attempts)-1].Finder != "KPRCB of a processor in user mode" {
			t.Errorf("%s: found by %v", name, a.System.Attempts)
		}
		checkHeader32(t, name, im, a)
		checkProcessors32(t, name, im, a, len(cpus) > 0 && cpus[0].CR3 == im.Registers()[0].CR3)
	}
}

func checkHeader32(t *testing.T, name string, im *ntlab.Image, a *Analysis) {
	t.Helper()
	img, err := a.Header.Encode()
	if err != nil {
		t.Fatalf("%s: Encode failed: %v", name, err)
	}
	if diff := cmp.Diff(wantHeader32(im), readHeader32(img)); diff != "" {
		t.Errorf("%s: header (-want +got):\n%s", name, diff)
	}
	if sys := a.System; sys.SelfMapSlot != im.Truth.SelfMapSlot || sys.KDBG.Encoded != im.Truth.KDBGEncoded || len(sys.Lacks) > 0 ||
		sys.Arch != guest.X86() {
		t.Errorf("%s: %v, self-map %#x, encoded %v, lacks %v; want x86, %#x, %v and nothing", name, sys.Arch,
			sys.SelfMapSlot, sys.KDBG.Encoded, sys.Lacks, im.Truth.SelfMapSlot, im.Truth.KDBGEncoded)
	}
	modules, err := a.System.Modules(t.Context())
	if err != nil || len(modules) != len(im.Truth.Modules) {
		t.Errorf("%s: %d modules, %v; want %d", name, len(modules), err, len(im.Truth.Modules))
	}
	for i, m := range modules {
		if want := im.Truth.Modules[i]; m.Name != want.Name || m.Base != want.Base || m.Size != want.Size {
			t.Errorf("%s: module %d = %+v; want %+v", name, i, m, want)
		}
	}
	processes, err := a.System.Processes(t.Context())
	if err != nil || len(processes) != len(im.Truth.Processes) {
		t.Errorf("%s: %d processes, %v; want %d", name, len(processes), err, len(im.Truth.Processes))
	}
	for i, p := range processes {
		if want := im.Truth.Processes[i]; p.Name != want.Name || p.PID != want.PID || p.DirectoryTableBase != want.DirectoryTableBase {
			t.Errorf("%s: process %d = %+v; want %+v", name, i, p, want)
		}
	}
}

// checkProcessors32: where the processors are, and that the contexts that are laid over
// the dump are their registers.
func checkProcessors32(t *testing.T, name string, im *ntlab.Image, a *Analysis, useful bool) {
	t.Helper()
	if len(a.System.Processors) != len(im.Truth.Processors) {
		t.Fatalf("%s: %d processors; want %d", name, len(a.System.Processors), len(im.Truth.Processors))
	}
	const esp, eip, segCS, extended = 0xC4, 0xB8, 0xBC, 0xCC
	for i, p := range a.System.Processors {
		want := im.Truth.Processors[i]
		if !useful {
			want.VCPU = -1
		}
		if p.KPCR != want.KPCR || p.PRCB != want.KPRCB || p.ContextAt != want.Context || p.VCPU != want.VCPU {
			t.Errorf("%s: processor %d = %+v; want %+v", name, i, p, want)
		}
		if !useful || p.VCPU < 0 {
			continue
		}
		if crash := im.Truth.Crash; crash != nil {
			if !im.Config.UserMode && !bytes.Equal(a.contexts[i].data, crash.Contexts[i]) {
				t.Errorf("%s: the CONTEXT of processor %d is not what the guest saved", name, i)
			}
			continue
		}
		r, c := im.Registers()[p.VCPU], a.contexts[i].data
		if len(c) != header.ContextSizeI386 || uint64(binary.LittleEndian.Uint32(c[eip:])) != r.RIP ||
			uint64(binary.LittleEndian.Uint32(c[esp:])) != r.RSP || binary.LittleEndian.Uint16(c[segCS:]) != r.CS.Selector ||
			binary.LittleEndian.Uint16(c[extended:]) != r.FPU.FCW {
			t.Errorf("%s: the CONTEXT of processor %d is not vCPU %d's", name, i, p.VCPU)
		}
	}
	if useful && !im.Config.UserMode && len(a.Warnings) > 0 {
		t.Errorf("%s: warnings %q; want none", name, a.Warnings)
	}
	if crash := im.Truth.Crash; crash != nil && useful && !im.Config.UserMode &&
		!bytes.Equal(a.Header.ContextRecord[:header.ContextSizeI386], crash.Contexts[crash.Processor]) {
		t.Errorf("%s: the header's CONTEXT is not that of processor %d, which crashed", name, crash.Processor)
	}
}

// TestCoreOf32: a 32-bit core, as QEMU writes it of such a guest, is read with its
// processors, of which it doesn't say whether they are in long mode.
func TestCoreOf32(t *testing.T) {
	for _, c := range []ntlab.Config{{NoPAE: true}, {}, {UserMode: true}} {
		c.Profile, c.Seed, c.Memory, c.CPUs = "x86-7601", 12, 64<<20, 3
		im, err := ntlab.Build(c)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "core")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(im.WriteELFCore(f), f.Close()); err != nil {
			t.Fatal(err)
		}
		source, err := file.Open(t.Context(), path, file.Options{})
		if err != nil {
			t.Fatal(err)
		}
		cpus, err := source.Registers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		mem, err := source.OpenMemory(t.Context(), hv.MechanismAuto)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Analyze(t.Context(), mem, mem.RAM(), cpus, LookOptions{})
		if err != nil {
			t.Fatalf("%+v: Analyze failed: %v", c, err)
		}
		checkHeader32(t, "core", im, a)
		for i, p := range a.System.Processors {
			if want := im.Truth.Processors[i].VCPU; p.VCPU != want {
				t.Errorf("%+v: processor %d is vCPU %d; want %d", c, i, p.VCPU, want)
			}
		}
		if err := errors.Join(mem.Close(), source.Close()); err != nil {
			t.Error(err)
		}
	}
}
