package capture

import (
	"encoding/binary"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/header"
	"snap/internal/ntlab"
	"snap/internal/ntlab/kerneltables"
	"snap/phys"
)

var seeds = flag.Int("seeds", 2, "how many guests TestEveryGeneration makes of each generation and form of the KDBG")

// headerFields are what DUMP_HEADER64 says of a guest, by the offsets of its public
// layout (QEMU, include/qemu/win_dump_defs.h, and Microsoft's debugger headers).
type headerFields struct {
	Signature, ValidDump                                     string
	MajorVersion, MinorVersion                               uint32
	DirectoryTableBase, PfnDataBase                          uint64
	PsLoadedModuleList, PsActiveProcessHead                  uint64
	MachineImageType, NumberProcessors                       uint32
	BugCheckCode                                             uint32
	BugCheckParameter                                        [4]uint64
	KdDebuggerDataBlock                                      uint64
	Runs                                                     []phys.Run
	NumberOfPages                                            uint64
	ExceptionCode                                            uint32
	DumpType                                                 uint32
	RequiredDumpSpace, SystemTime, SystemUpTime              uint64
	ProductType, SuiteMask, WriterStatus, Attributes, BootID uint32
	KdSecondaryVersion                                       byte
}

func readHeader(b []byte) headerFields {
	u32, u64 := func(off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }, func(off int) uint64 { return binary.LittleEndian.Uint64(b[off:]) }
	f := headerFields{
		Signature: string(b[:4]), ValidDump: string(b[4:8]),
		MajorVersion: u32(0x8), MinorVersion: u32(0xC), DirectoryTableBase: u64(0x10), PfnDataBase: u64(0x18),
		PsLoadedModuleList: u64(0x20), PsActiveProcessHead: u64(0x28), MachineImageType: u32(0x30), NumberProcessors: u32(0x34),
		BugCheckCode: u32(0x38), BugCheckParameter: [4]uint64{u64(0x40), u64(0x48), u64(0x50), u64(0x58)},
		KdDebuggerDataBlock: u64(0x80), NumberOfPages: u64(0x90), ExceptionCode: u32(0xF00),
		DumpType: u32(0xF98), RequiredDumpSpace: u64(0xFA0), SystemTime: u64(0xFA8), SystemUpTime: u64(0x1030),
		ProductType: u32(0x1040), SuiteMask: u32(0x1044), WriterStatus: u32(0x1048), KdSecondaryVersion: b[0x104D],
		Attributes: u32(0x1050), BootID: u32(0x1054),
	}
	for i := range int(min(u32(0x88), 42)) {
		f.Runs = append(f.Runs, phys.Run{Base: phys.PFN(u64(0x98 + 16*i)), Pages: u64(0xA0 + 16*i)})
	}
	return f
}

// wantHeader is what the header of a full dump of a lab guest must say, by what the
// builder put into the guest.
func wantHeader(im *ntlab.Image) headerFields {
	truth := &im.Truth
	pages := phys.Runs(truth.Runs).Pages()
	f := headerFields{
		Signature: "PAGE", ValidDump: "DU64", MajorVersion: 0xF, MinorVersion: truth.Build,
		DirectoryTableBase: uint64(truth.DirectoryTableBase), PfnDataBase: uint64(truth.PfnDatabase),
		PsLoadedModuleList: uint64(truth.PsLoadedModuleList), PsActiveProcessHead: uint64(truth.PsActiveProcessHead),
		MachineImageType: 0x8664, NumberProcessors: uint32(len(truth.Processors)),
		BugCheckCode: 0x161, KdDebuggerDataBlock: uint64(truth.KDBG), Runs: truth.Runs, NumberOfPages: pages,
		ExceptionCode: 0x80000003, DumpType: 1, RequiredDumpSpace: 0x2000 + pages<<12,
		SystemTime: truth.SystemTime, SystemUpTime: truth.InterruptTime,
		ProductType: truth.ProductType, SuiteMask: truth.SuiteMask, BootID: truth.BootID, KdSecondaryVersion: 2,
	}
	if crash := im.Config.BugCheck; crash[0] != 0 {
		f.BugCheckCode, f.BugCheckParameter = uint32(crash[0]), [4]uint64(crash[1:])
	}
	return f
}

// useless returns registers of processors that run, and lead to nothing of the guest:
// their page table is an empty page.
func useless(n int) []phys.Registers {
	const longMode, emptyPage = 0xD01, 0x5000
	out := make([]phys.Registers, n)
	for i := range out {
		r := &out[i]
		r.CPU, r.CR0, r.CR3, r.CR4, r.HasEFER, r.EFER = i, 0x80050033, emptyPage, 0x6F0, true, longMode
		r.CS.Selector, r.RIP, r.RSP = 0x10, 0xFFFF_8000_1234_5678, 0xFFFF_8000_1234_8000
	}
	return out
}

// generationConfig varies what may differ between guests of a generation.
func generationConfig(profile string, plain bool, seed int) ntlab.Config {
	c := ntlab.Config{
		Profile: profile, Seed: uint64(seed), Memory: uint64(64+32*(seed%3)) << 20, CPUs: 1 + seed%4,
		PlainKDBG: plain, EncodeKDBG: !plain,
		NoLowStub: seed%2 == 1, UserMode: seed%3 == 1, Machine: []string{"q35", "i440fx"}[seed/2%2],
	}
	if seed%5 == 4 {
		c.BugCheck = [5]uint64{0xE2, uint64(seed), 2, 3, 0xFFFF_F800_1234_5678}
	}
	return c
}

// TestEveryGeneration: a guest of any generation of 64-bit Windows is found, and the
// header of its dump says what is true of it, field for field, whatever form its KDBG
// has and whatever the source tells of its processors. CI looks at two guests of each,
// make soak at 50.
func TestEveryGeneration(t *testing.T) {
	for _, profile := range ntlab.Generations() {
		t.Run(profile, func(t *testing.T) {
			for seed := range *seeds {
				for _, plain := range []bool{false, true} {
					for _, la57 := range []bool{false, true} {
						if c := generationConfig(profile, plain, seed); !la57 || fiveLevels(profile) {
							c.LA57 = la57
							checkForm(t, c)
						}
					}
				}
			}
		})
	}
}

// fiveLevels reports whether a generation has a kernel for 5-level paging: those after
// build 20231.
func fiveLevels(profile string) bool {
	for _, p := range []string{"nt-20348", "nt-22000", "nt-22621", "nt-26100"} {
		if strings.HasPrefix(profile, p) {
			return true
		}
	}
	return false
}

func checkForm(t *testing.T, c ntlab.Config) {
	t.Helper()
	im, err := ntlab.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	for name, cpus := range map[string][]phys.Registers{
		"useful": im.Registers(), "useless": useless(c.CPUs), "none": nil,
	} {
		checkGeneration(t, fmt.Sprintf("seed %d, plain %v, LA57 %v, registers %s", c.Seed, c.PlainKDBG, c.LA57, name), im, cpus, name == "useful")
	}
}

// TestHalfDecodedGenerations: a KDBG that the kernel is just decoding can't be used,
// and the dump says so; all that the header has else is true.
func TestHalfDecodedGenerations(t *testing.T) {
	for _, profile := range ntlab.Generations() {
		c := generationConfig(profile, false, 3)
		c.HalfDecodedKDBG = 0x98
		im, err := ntlab.Build(c)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Analyze(t.Context(), im, im.RAM(), im.Registers(), LookOptions{})
		if err != nil {
			t.Errorf("%s: Analyze failed: %v", profile, err)
			continue
		}
		if len(a.System.Lacks) == 0 || !strings.Contains(a.System.Lacks[0].What, "KDBG") {
			t.Errorf("%s: lacks %v; want the KDBG", profile, a.System.Lacks)
		}
		img, err := a.Header.Encode()
		if err != nil {
			t.Fatal(err)
		}
		want, got := wantHeader(im), readHeader(img)
		want.KdDebuggerDataBlock = 0
		want.PfnDataBase = 0x4547_4150_4547_4150 // not set: only the KDBG says it, as it says the memory's runs
		want.Runs = im.RAM().Minus(phys.Runs{{Base: 0, Pages: 1}})
		want.NumberOfPages = phys.Runs(want.Runs).Pages()
		want.RequiredDumpSpace = 0x2000 + want.NumberOfPages<<12
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: header (-want +got):\n%s", profile, diff)
		}
	}
}

func checkGeneration(t *testing.T, name string, im *ntlab.Image, cpus []phys.Registers, useful bool) {
	t.Helper()
	a, err := Analyze(t.Context(), im, im.RAM(), cpus, LookOptions{})
	if err != nil {
		t.Errorf("%s: Analyze failed: %v", name, err)
		return
	}
	img, err := a.Header.Encode()
	if err != nil {
		t.Fatalf("%s: Encode failed: %v", name, err)
	}
	if diff := cmp.Diff(wantHeader(im), readHeader(img)); diff != "" {
		t.Errorf("%s: header (-want +got):\n%s", name, diff)
	}
	if sys := a.System; sys.SelfMapSlot != im.Truth.SelfMapSlot || sys.KDBG.Encoded != im.Truth.KDBGEncoded || len(sys.Lacks) > 0 {
		t.Errorf("%s: self-map %#x, encoded %v, lacks %v; want %#x, %v and nothing", name,
			sys.SelfMapSlot, sys.KDBG.Encoded, sys.Lacks, im.Truth.SelfMapSlot, im.Truth.KDBGEncoded)
	}
	for i, p := range a.System.Processors {
		want := im.Truth.Processors[i]
		if !useful {
			want.VCPU = -1
		}
		if p.KPCR != want.KPCR || p.PRCB != want.KPRCB || p.ContextAt != want.Context || p.VCPU != want.VCPU {
			t.Errorf("%s: processor %d = %+v; want %+v", name, i, p, want)
		}
	}
	// That all processors run programs is worth a warning.
	if useful && !im.Config.UserMode && len(a.Warnings) > 0 {
		t.Errorf("%s: warnings %q; want none", name, a.Warnings)
	}
	if useful && im.Config.BugCheck[0] == 0 {
		checkHeaderContext(t, name, im, img)
	}
}

// checkHeaderContext: the header's CONTEXT is one processor's registers.
func checkHeaderContext(t *testing.T, name string, im *ntlab.Image, img []byte) {
	t.Helper()
	const contextRecord, segCS, rsp, rip = 0x348, 0x38, 0x98, 0xF8
	for _, r := range im.Registers() {
		c := img[contextRecord:]
		if binary.LittleEndian.Uint64(c[rip:]) == r.RIP && binary.LittleEndian.Uint64(c[rsp:]) == r.RSP &&
			binary.LittleEndian.Uint16(c[segCS:]) == r.CS.Selector {
			return
		}
	}
	t.Errorf("%s: the header's CONTEXT is no processor's", name)
}

// TestContextOfKernels: the CONTEXT of every x64 kernel whose structures are known has
// the size that dumps are made with.
func TestContextOfKernels(t *testing.T) {
	kernels := 0
	for _, r := range kerneltables.Read(t, "../internal/ntlab/testdata/windows/kernels.csv") {
		size := r["CONTEXT_size"]
		if r["arch"] != "amd64" || size == "" {
			continue
		}
		kernels++
		if n, err := strconv.ParseInt(size, 0, 32); err != nil || n != header.ContextSizeAMD64 {
			t.Errorf("kernel %s: a CONTEXT of %s bytes", r["version"], size)
		}
	}
	if kernels < 230 {
		t.Errorf("%d kernels say the size of a CONTEXT", kernels)
	}
}

// TestFullProcessorBlock: where KiProcessorBlock is full, what follows it in the kernel
// is no entry of it.
func TestFullProcessorBlock(t *testing.T) {
	for profile, n := range map[string]int{"nt-3790": 64, "nt-7601-kva": 256} {
		for _, plain := range []bool{false, true} {
			im, err := ntlab.Build(ntlab.Config{
				Profile: profile, Seed: 5, Memory: 256 << 20, CPUs: n, PlainKDBG: plain, EncodeKDBG: !plain,
			})
			if err != nil {
				t.Fatal(err)
			}
			checkGeneration(t, fmt.Sprintf("%s, %d processors, plain %v", profile, n, plain), im, im.Registers(), true)
		}
	}
}
