package ntlab

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"testing"

	"snap/internal/ntlab/kerneltables"
	"snap/phys"
)

// generation is a guest of a generation's profile and the row that it must be like.
type generation struct {
	guest
	row  map[string]string
	base uint64
}

// value returns a column of the row, and false where it is empty.
func (g generation) value(column string) (uint64, bool) {
	g.t.Helper()
	text := g.row[column]
	if text == "" {
		return 0, false
	}
	v, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		g.t.Fatalf("column %s: %v", column, err)
	}
	return v, true
}

// variable returns the address of a variable by the row's RVA.
func (g generation) variable(name string) (uint64, bool) {
	rva, ok := g.value("rva_" + name)
	return g.base + rva, ok
}

// field holds what is at a column's offset from a structure against a value, where
// the row has the column.
func (g generation) field(structure uint64, column string, size int, want uint64) {
	g.t.Helper()
	off, ok := g.value(column)
	if !ok {
		return
	}
	b := append(g.bytes(structure+off, size), make([]byte, 8-size)...)
	if got := le.Uint64(b); got != want {
		g.t.Errorf("%s, at %#x + %#x, is %#x; want %#x", column, structure, off, got, want)
	}
}

// pointer holds the value of a variable against a value, where the row has its RVA.
func (g generation) pointer(name string, size int, want uint64) {
	g.t.Helper()
	if at, ok := g.variable(name); ok {
		b := append(g.bytes(at, size), make([]byte, 8-size)...)
		if got := le.Uint64(b); got != want {
			g.t.Errorf("nt!%s at RVA %s is %#x; want %#x", name, g.row["rva_"+name], got, want)
		}
	}
}

// everyGeneration calls f with a guest of every generation.
func everyGeneration(t *testing.T, c Config, f func(g generation)) {
	rows := map[string]map[string]string{}
	for _, r := range kerneltables.Read(t, "testdata/windows/"+"kernels.csv") {
		if r["arch"] == "amd64" {
			rows[r["version"]] = r
		}
	}
	for i, k := range kernelRows {
		if k.x86 {
			continue // TestGenerations32
		}
		t.Run(k.profile, func(t *testing.T) {
			c := c
			c.Profile, c.Seed, c.Memory = k.profile, uint64(i)+30, MinMemory
			c.KPTI = c.KPTI && k.has("KPRCB_KernelDirectoryTableBase")
			g := build(t, c)
			row := rows[k.row]
			if row == nil {
				t.Fatalf("kernels.csv has no row %q", k.row)
			}
			f(generation{g, row, uint64(g.im.Truth.KernelBase)})
		})
	}
}

// TestGenerationVariables: a reader that has a kernel's public symbols finds in the
// guest what it looks for, by their RVAs alone.
func TestGenerationVariables(t *testing.T) {
	crash := [5]uint64{0xE2, 1, 2, 3, 0xFFFFF80012345678}
	for _, plain := range []bool{false, true} {
		everyGeneration(t, Config{CPUs: 3, BugCheck: crash, PlainKDBG: plain}, func(g generation) {
			truth := &g.im.Truth
			if head, ok := g.variable("PsActiveProcessHead"); ok {
				links, _ := g.value("EPROCESS_ActiveProcessLinks")
				if got := g.list(head); len(got) != len(truth.Processes) || got[0]-links != uint64(truth.SystemProcess) {
					g.t.Errorf("%d processes, the first at %#x; want %d, System at %#x", len(got), got[0]-links, len(truth.Processes), truth.SystemProcess)
				}
			}
			if head, ok := g.variable("PsLoadedModuleList"); ok {
				first := g.list(head)[0]
				g.field(first, "LDR_DllBase", 8, g.base)
				g.field(first, "LDR_SizeOfImage", 4, uint64(truth.KernelSize))
			}
			g.pointer("PsInitialSystemProcess", 8, uint64(truth.SystemProcess))
			g.pointer("MmPfnDatabase", 8, uint64(truth.PfnDatabase))
			g.pointer("NtBuildNumber", 4, 0xF0000000|uint64(truth.Build))
			g.pointer("KeNumberProcessors", 4, 3)
			if at, ok := g.variable("MmPhysicalMemoryBlock"); ok {
				g.field(g.u64(at), "PHYSMEM_NumberOfPages", 8, phys.Runs(truth.Runs).Pages())
				g.field(g.u64(at), "PHYSMEM_Run", 8, uint64(truth.Runs[0].Base))
			}
			if at, ok := g.variable("KiBugCheckData"); ok {
				for i, want := range crash {
					if got := g.u64(at + 8*uint64(i)); got != want {
						g.t.Errorf("KiBugCheckData[%d] = %#x; want %#x", i, got, want)
					}
				}
			}
			for i, p := range truth.Processors {
				if at, ok := g.variable("KiProcessorBlock"); ok && g.u64(at+8*uint64(i)) != uint64(p.KPRCB) {
					g.t.Errorf("KiProcessorBlock[%d] = %#x; want %#x", i, g.u64(at+8*uint64(i)), p.KPRCB)
				}
			}
			if at, ok := g.variable("KiInitialPCR"); ok && at != uint64(truth.Processors[0].KPCR) {
				g.t.Errorf("processor 0 has its KPCR at %#x; want KiInitialPCR, %#x", truth.Processors[0].KPCR, at)
			}
			g.checkKDBG(plain)
		})
	}
}

// checkKDBG decodes the block by the variables at their RVAs.
func (g generation) checkKDBG(plain bool) {
	g.t.Helper()
	at, ok := g.variable("KdDebuggerDataBlock")
	if !ok {
		return
	}
	if at != uint64(g.im.Truth.KDBG) {
		g.t.Errorf("KDBG at %#x; want %#x", g.im.Truth.KDBG, at)
	}
	room, _ := g.value("KDBG_room")
	if size := uint64(len(g.im.Truth.KDBGPlain)); size > room || room-size >= 16 {
		g.t.Errorf("a KDBG of %#x bytes in a room of %#x", size, room)
	}
	encoded := !plain && g.im.Truth.Build >= 9200
	if g.im.Truth.KDBGEncoded != encoded {
		g.t.Errorf("encoded = %v; want %v", !encoded, encoded)
	}
	for _, n := range []string{"KdpDataBlockEncoded", "KiWaitNever", "KiWaitAlways"} {
		if want, ok := g.variable(n); !ok || g.symbol(n) != want {
			g.t.Errorf("%s at %#x; want %#x", n, g.symbol(n), want)
		}
	}
	if !bytes.Equal(g.kdbg(), g.im.Truth.KDBGPlain) {
		g.t.Error("the block doesn't decode by the variables at their RVAs")
	}
}

// TestGenerationImages: the kernel images are known by what identifies the real ones.
func TestGenerationImages(t *testing.T) {
	sizes := map[string]map[string]string{}
	for _, r := range kerneltables.Read(t, "testdata/windows/"+"kernel_images.csv") {
		sizes[r["version"]] = r
	}
	var identified, sized int
	everyGeneration(t, Config{CPUs: 1}, func(g generation) {
		nt := g.base + uint64(g.u32(g.base+0x3C))
		rsds := g.base + uint64(g.u32(g.base+uint64(g.u32(nt+0x18+0x70+6*8))+0x14))
		if id := g.row["pdb_guid_age"]; id != "" {
			identified++
			b := g.bytes(rsds+4, 16)
			for _, part := range [][]byte{b[:4], b[4:6], b[6:8]} {
				slices.Reverse(part)
			}
			got := strings.ToUpper(hex.EncodeToString(b)) + strconv.FormatUint(uint64(g.u32(rsds+0x14)), 16)
			if got != id || string(g.bytes(rsds+0x18, 13)) != "ntkrnlmp.pdb\x00" {
				g.t.Errorf("CodeView record of %s; want ntkrnlmp.pdb %s", got, id)
			}
		}
		if r := sizes[g.row["version"]]; r != nil {
			sized++
			if got, want := g.u32(nt+0x18+0x38), r["SizeOfImage"]; strconv.FormatUint(uint64(got), 16) != strings.TrimLeft(want, "0x") {
				g.t.Errorf("SizeOfImage = %#x; want %s", got, want)
			}
			if got, want := g.u32(nt+8), r["TimeDateStamp"]; strconv.FormatUint(uint64(got), 16) != strings.TrimLeft(want, "0x") {
				g.t.Errorf("TimeDateStamp = %#x; want %s", got, want)
			}
		}
	})
	if identified < 8 || sized < 6 {
		t.Errorf("%d kernels with a PDB and %d with a SizeOfImage of their own were looked at", identified, sized)
	}
}

// TestGenerationSections: every symbol of a row is in a section of its kind, and
// sections neither overlap nor leave gaps.
func TestGenerationSections(t *testing.T) {
	for _, name := range Generations() {
		p, err := findProfile(name)
		if err != nil {
			t.Fatal(err)
		}
		next := uint32(phys.PageSize)
		for _, s := range p.sections {
			if s.rva != next || s.size == 0 || s.size%phys.PageSize != 0 {
				t.Errorf("%s: section %s at %#x of %#x bytes; want it at %#x", name, s.name, s.rva, s.size, next)
			}
			next = s.rva + s.size
		}
		if next != p.sizeOfImage {
			t.Errorf("%s: sections end at %#x; want %#x", name, next, p.sizeOfImage)
		}
		for n, rva := range p.row.rvas {
			i := slices.IndexFunc(p.sections, func(s section) bool { return rva >= s.rva && rva < s.rva+s.size })
			kind := p.sections[i].name
			want := []string{".data"}
			switch n {
			case "KiSystemCall64", "KiDivideErrorFault":
				want = []string{".text"}
			case "KiSystemCall64Shadow":
				want = []string{"KVASCODE"}
			case "NtBuildNumber":
				want = []string{".data", ".rdata", "PROTDATA"}
			}
			if !slices.Contains(want, kind) {
				t.Errorf("%s: %s at %#x is in %s; want %v", name, n, rva, kind, want)
			}
		}
	}
}

// TestHalfDecodedConfig: the prefix is plain, and the rest decodes.
func TestHalfDecodedConfig(t *testing.T) {
	g := build(t, Config{Profile: "nt-20348", Seed: 9, HalfDecodedKDBG: 0x98})
	b, plain := g.bytes(uint64(g.im.Truth.KDBG), 0x380), g.im.Truth.KDBGPlain
	if !bytes.Equal(b[:0x98], plain[:0x98]) {
		t.Error("the first 0x98 bytes are not plain")
	}
	if !bytes.Equal(g.kdbg()[0x98:], plain[0x98:]) {
		t.Error("the others don't decode")
	}
	for _, c := range []Config{ // what no guest can be
		{Profile: "nt-20348", HalfDecodedKDBG: 0x380},
		{Profile: "nt-20348", HalfDecodedKDBG: 0x12},
		{Profile: "nt-20348", HalfDecodedKDBG: 0x10, PlainKDBG: true},
		{Profile: "nt-7601", HalfDecodedKDBG: 0x10},
		{Profile: "nt-20348", StraddleKDBG: true},
		{Profile: "nt-15063", KPTI: true},
		{Profile: "nt-7601-kva", CPUs: 257},
	} {
		if _, err := Build(c); err == nil {
			t.Errorf("Build(%+v) succeeded; want an error", c)
		}
	}
}
