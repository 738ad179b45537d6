package guest

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/phys"
)

var update = flag.Bool("update", false, "write testdata anew")

const dllSource = `
__declspec(dllexport) int alpha = 7;
__declspec(dllexport) int beta(int x) { return x * alpha; }
__declspec(dllexport) int gamma_(int x) { return x + alpha; }
__attribute__((section("PAGE"))) int pageable(int x) { return x - alpha; }
int __stdcall DllMain(void *a, int b, void *c) { return pageable(b) != 99; }
`

// compileDLL makes a DLL by a real compiler and linker.
func compileDLL(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	src, dll := filepath.Join(dir, "x.c"), filepath.Join(dir, "snaptest.dll")
	if err := os.WriteFile(src, []byte(dllSource), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("x86_64-w64-mingw32-gcc", "-shared", "-nostdlib", "-O1", "-s",
		"-Wl,-e,DllMain", "-Wl,--build-id", "-o", dll, src)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return dll
}

// mapImage lays a PE file out as a loader does.
func mapImage(t *testing.T, file string) (mapped []byte, f *pe.File) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	f, err = pe.NewFile(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	h := f.OptionalHeader.(*pe.OptionalHeader64)
	mapped = make([]byte, h.SizeOfImage)
	copy(mapped, raw[:h.SizeOfHeaders])
	for _, s := range f.Sections {
		if s.Offset == 0 {
			continue
		}
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		copy(mapped[s.VirtualAddress:], data[:min(len(data), int(s.VirtualSize))])
	}
	return mapped, f
}

const imageBase phys.VirtAddr = 0xFFFF_F801_2345_6000

// What a compiler made is read as Go's own reader of PE files reads the file.
func TestImageOfCompiler(t *testing.T) {
	dll := compileDLL(t)
	mapped, f := mapImage(t, dll)
	if *update {
		if err := os.WriteFile("testdata/mapped.bin", mapped, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	im, err := ReadImage(t.Context(), flatMemory{imageBase, mapped}, imageBase)
	if err != nil {
		t.Fatal(err)
	}
	h := f.OptionalHeader.(*pe.OptionalHeader64)
	if im.Machine != f.Machine || im.Size != h.SizeOfImage || im.TimeDateStamp != f.TimeDateStamp ||
		im.EntryPoint != imageBase+phys.VirtAddr(h.AddressOfEntryPoint) {
		t.Errorf("ReadImage = %+v; want what debug/pe says: %+v", im, h)
	}
	var sections []Section
	for _, s := range f.Sections {
		sections = append(sections, Section{s.Name, s.VirtualAddress, s.VirtualSize, s.Characteristics})
	}
	if diff := cmp.Diff(sections, im.Sections); diff != "" {
		t.Errorf("sections (-want +got):\n%s", diff)
	}
	if name, err := im.ExportName(t.Context()); err != nil || name != "snaptest.dll" {
		t.Errorf("ExportName = %q, %v; want snaptest.dll", name, err)
	}

	// The exported variable holds 7; an exported function starts with the code
	// that the section has there.
	at, err := im.Export(t.Context(), "alpha")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := readU32(t.Context(), flatMemory{imageBase, mapped}, "alpha", at); err != nil || v != 7 {
		t.Errorf("alpha = %d, %v; want 7", v, err)
	}
	for _, name := range []string{"beta", "gamma_"} {
		at, err := im.Export(t.Context(), name)
		text := f.Section(".text")
		rva := uint32(at - imageBase)
		if err != nil || rva < text.VirtualAddress || rva >= text.VirtualAddress+text.VirtualSize {
			t.Errorf("Export(%s) = %#x, %v; want in .text", name, uint64(at), err)
		}
	}
	beta, _ := im.Export(t.Context(), "beta")
	gamma, _ := im.Export(t.Context(), "gamma_")
	if beta == gamma {
		t.Errorf("beta and gamma_ are both at %#x", uint64(beta))
	}
	for _, name := range []string{"", "aaaa", "alph", "alphaa", "pageable", "zzzz"} {
		if at, err := im.Export(t.Context(), name); !errors.Is(err, ErrNotFound) {
			t.Errorf("Export(%q) = %#x, %v; want ErrNotFound", name, uint64(at), err)
		}
	}
	checkBuildID(t, im, f, mapped)
}

// checkBuildID compares the CodeView record with the file's .buildid section,
// which holds the debug directory and then the record.
func checkBuildID(t *testing.T, im *Image, f *pe.File, mapped []byte) {
	t.Helper()
	s := f.Section(".buildid")
	if s == nil {
		t.Fatal("the linker made no .buildid section")
	}
	rsds := bytes.Index(mapped[s.VirtualAddress:], []byte("RSDS"))
	if rsds < 0 {
		t.Fatal("no RSDS record in .buildid")
	}
	record := mapped[int(s.VirtualAddress)+rsds:]
	want := CodeView{Age: binary.LittleEndian.Uint32(record[20:]), PDB: cString(record[24 : 24+64])}
	copy(want.GUID[:], record[4:])
	got, err := im.CodeView(t.Context())
	if diff := cmp.Diff(want, got); err != nil || diff != "" || want.GUID == [16]byte{} {
		t.Errorf("CodeView: %v (-want +got):\n%s", err, diff)
	}
}

func TestCodeViewID(t *testing.T) {
	// GUID 1B2C3D4E-5F60-7182-93A4-B5C6D7E8F901, age 0x2A.
	c := CodeView{GUID: [16]byte{
		0x4E, 0x3D, 0x2C, 0x1B, 0x60, 0x5F, 0x82, 0x71, 0x93, 0xA4, 0xB5, 0xC6, 0xD7, 0xE8, 0xF9, 0x01,
	}, Age: 0x2A}
	if got, want := c.ID(), "1B2C3D4E5F60718293A4B5C6D7E8F9012A"; got != want {
		t.Errorf("ID() = %s; want %s", got, want)
	}
}

// committedImage is testdata/mapped.bin and where in it things are.
func committedImage(t testing.TB) (image []byte, pe, opt int) {
	t.Helper()
	b, err := os.ReadFile("testdata/mapped.bin")
	if err != nil {
		t.Fatal(err)
	}
	pe = int(binary.LittleEndian.Uint32(b[dosLfanew:]))
	return b, pe, pe + optAt
}

func TestHostileImage(t *testing.T) {
	good, pe, opt := committedImage(t)
	exports := int(binary.LittleEndian.Uint32(good[opt+imagePE32Plus.optional:]))
	debug := int(binary.LittleEndian.Uint32(good[opt+imagePE32Plus.optional+8*dirDebug:]))
	tests := []struct {
		name  string
		off   int
		value []byte
	}{
		{"no MZ", 0, []byte("ZM")},
		{"PE header at the end of the page", dosLfanew, []byte{0xFC, 0x0F, 0, 0}},
		{"PE header far away", dosLfanew, []byte{0xF0, 0xFF, 0xFF, 0xFF}},
		{"no PE", pe, []byte("NE")},
		{"PE32", opt, []byte{0x0B, 0x01}},
		{"no sections", pe + 6, []byte{0, 0}},
		{"65535 sections", pe + 6, []byte{0xFF, 0xFF}},
		{"no optional header", pe + 20, []byte{0, 0}},
		{"size 0", opt + 56, []byte{0, 0, 0, 0}},
		{"size 4 GiB", opt + 56, []byte{0, 0xF0, 0xFF, 0xFF}},
		{"entry point outside", opt + 16, []byte{0, 0, 0, 0x7F}},
		{"section outside", opt + 240 + 12, []byte{0, 0, 0, 0x10}},
		{"section of 4 GiB", opt + 240 + 8, []byte{0xFF, 0xFF, 0xFF, 0xFF}},
		{"export directory outside", opt + imagePE32Plus.optional, []byte{0, 0, 0, 0x7F}},
		{"export directory of 4 GiB", opt + imagePE32Plus.optional + 4, []byte{0xFF, 0xFF, 0xFF, 0xFF}},
		{"export directory of 8 bytes", opt + imagePE32Plus.optional + 4, []byte{8, 0, 0, 0}},
		{"no data directories", opt + 108, []byte{0, 0, 0, 0}},
		{"export names beyond the cap", exports + exportNames, []byte{0xFF, 0xFF, 0xFF, 0x7F}},
		{"export name table outside", exports + exportNameTab, []byte{0xF0, 0xFF, 0xFF, 0xFF}},
		{"export ordinals outside", exports + exportOrdTab, []byte{0xFE, 0xFF, 0xFF, 0xFF}},
		{"export addresses outside", exports + exportAddrs, []byte{0xFE, 0xFF, 0xFF, 0xFF}},
		{"no functions", exports + exportFuncs, []byte{0, 0, 0, 0}},
		{"debug entry elsewhere", debug + debugAddress, []byte{0, 0, 0, 0x7F}},
		{"debug record of 4 bytes", debug + debugSizeOfData, []byte{4, 0, 0, 0}},
		{"debug record of another type", debug + debugType, []byte{13, 0, 0, 0}},
		{"debug directory of 4 GiB", opt + imagePE32Plus.optional + 8*dirDebug + 4, []byte{0xFF, 0xFF, 0xFF, 0xFF}},
	}
	for _, tt := range tests {
		b := bytes.Clone(good)
		copy(b[tt.off:], tt.value)
		mem := flatMemory{imageBase, b}
		im, err := ReadImage(t.Context(), mem, imageBase)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: ReadImage error = %v; want ErrMalformed", tt.name, err)
			}
			continue
		}
		_, exportErr := im.Export(t.Context(), "beta")
		_, debugErr := im.CodeView(t.Context())
		if exportErr == nil && debugErr == nil {
			t.Errorf("%s: nothing is wrong with it; want an error", tt.name)
		}
		for _, err := range []error{exportErr, debugErr} {
			if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: error = %v; want ErrMalformed or ErrNotFound", tt.name, err)
			}
		}
	}
}

// Pages of an image that aren't in memory are an error, not zeros.
func TestImageCutShort(t *testing.T) {
	good, _, _ := committedImage(t)
	for n := 0; n < len(good); n += 0x333 {
		im, err := ReadImage(t.Context(), flatMemory{imageBase, good[:n]}, imageBase)
		if n < phys.PageSize && !errors.Is(err, ErrNotPresent) {
			t.Errorf("first %#x bytes: ReadImage error = %v; want ErrNotPresent", n, err)
		}
		if err != nil {
			continue
		}
		if at, err := im.Export(t.Context(), "beta"); err != nil && !errors.Is(err, ErrNotPresent) {
			t.Errorf("first %#x bytes: Export = %#x, %v; want ErrNotPresent", n, uint64(at), err)
		}
	}
}

func TestImageAtBadAddress(t *testing.T) {
	good, _, _ := committedImage(t)
	for _, base := range []phys.VirtAddr{imageBase + 0x10, ^phys.VirtAddr(0) &^ 0xFFF} {
		if _, err := ReadImage(t.Context(), flatMemory{base, good}, base); !errors.Is(err, ErrMalformed) {
			t.Errorf("ReadImage at %#x error = %v; want ErrMalformed", uint64(base), err)
		}
	}
}

// onePage is an AMD64 kernel image of one page: two exports, alpha at 0x500
// and beta at 0x510, and a CodeView record.
func onePage() []byte {
	b := make([]byte, phys.PageSize)
	le := binary.LittleEndian
	words := func(at int, v ...uint32) {
		for i, w := range v {
			le.PutUint32(b[at+4*i:], w)
		}
	}
	const pe, opt = 0x80, 0x98
	copy(b, "MZ")
	words(dosLfanew, pe)
	copy(b[pe:], "PE\x00\x00\x64\x86\x01\x00")
	le.PutUint16(b[pe+20:], 240)
	le.PutUint16(b[opt:], 0x20B)
	words(opt+56, 0x1000, 0x400)
	words(opt+108, 16, 0x600, 0x200)
	words(opt+112+8*6, 0x900, 28)
	copy(b[opt+240:], ".text")
	words(opt+240+8, 0xC00, 0x400)
	words(0x600+12, 0x700, 1, 2, 2, 0x640, 0x650, 0x660)
	words(0x640, 0x500, 0x510)
	words(0x650, 0x720, 0x730)
	words(0x660, 1<<16)
	copy(b[0x700:], "ntoskrnl.exe")
	copy(b[0x720:], "alpha")
	copy(b[0x730:], "beta")
	words(0x900+12, 2, 24+13, 0x940)
	copy(b[0x940:], "RSDS")
	copy(b[0x958:], "ntkrnlmp.pdb")
	return b
}

func TestIsKernel(t *testing.T) {
	tests := []struct {
		name string
		edit func(b []byte)
		want bool
	}{
		{"as it is", func([]byte) {}, true},
		{"32-bit machine", func(b []byte) { copy(b[0x84:], "\x4C\x01") }, false},
		{"ARM64", func(b []byte) { copy(b[0x84:], "\x64\xAA") }, false},
		{"only the PDB tells", func(b []byte) { copy(b[0x700:], "other") }, true},
		{"only the export name tells", func(b []byte) { copy(b[0x958:], "other") }, true},
		{"nothing tells", func(b []byte) { copy(b[0x700:], "other"); copy(b[0x958:], "other") }, false},
	}
	for _, tt := range tests {
		b := onePage()
		tt.edit(b)
		im, err := ReadImage(t.Context(), flatMemory{imageBase, b}, imageBase)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got := isKernel(t.Context(), AMD64(), im); got != tt.want {
			t.Errorf("%s: isKernel = %v; want %v", tt.name, got, tt.want)
		}
	}
}

func TestForwardedExport(t *testing.T) {
	b := onePage()
	binary.LittleEndian.PutUint32(b[0x644:], 0x7F0) // in the export directory: "HAL.Function"
	im, err := ReadImage(t.Context(), flatMemory{imageBase, b}, imageBase)
	if err != nil {
		t.Fatal(err)
	}
	if at, err := im.Export(t.Context(), "alpha"); err != nil || at != imageBase+0x500 {
		t.Errorf("Export(alpha) = %#x, %v; want %#x", uint64(at), err, uint64(imageBase+0x500))
	}
	if at, err := im.Export(t.Context(), "beta"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Export(beta), which is forwarded, = %#x, %v; want ErrNotFound", uint64(at), err)
	}
}

// Kernels have several names, and each of them does, whoever says it.
func TestKernelNames(t *testing.T) {
	for name, want := range map[string]bool{
		"ntoskrnl": true, "ntkrnlmp": true, "ntkrnlpa": true, "ntkrpamp": true, "ntkrla57": true, "NtKrnlMp": true,
		"notntkrnlmp": false, "ntkrnlmp2": false, "ntkrnl": false, "hal": false, "": false,
	} {
		for _, tt := range []struct {
			export, pdb string
			want        bool
		}{
			{name + ".exe", "other.pdb", want},
			{"other.exe", name + ".pdb", want},
			{"other.exe", `d:\build\obj\` + name + ".PDB", want},
			{"other.exe", "build/obj/" + name + ".pdb", want},
			{name + ".dll", name + ".exe", false},
			{name, name, false},
		} {
			b := onePage()
			clear(b[0x700:0x720])
			clear(b[0x958:0x998])
			copy(b[0x700:0x720], tt.export)
			copy(b[0x958:], tt.pdb+"\x00")
			binary.LittleEndian.PutUint32(b[0x900+16:], uint32(24+len(tt.pdb)+1))
			im, err := ReadImage(t.Context(), flatMemory{imageBase, b}, imageBase)
			if err != nil {
				t.Fatal(err)
			}
			if got := isKernel(t.Context(), AMD64(), im); got != tt.want {
				t.Errorf("export name %q, PDB %q: isKernel = %v; want %v", tt.export, tt.pdb, got, tt.want)
			}
		}
	}
}

func FuzzPE(f *testing.F) {
	good, _, _ := committedImage(f)
	f.Add(good)
	f.Add(good[:0x1000])
	f.Add(onePage())
	f.Fuzz(func(t *testing.T, b []byte) {
		mem := flatMemory{imageBase, b}
		im, err := ReadImage(t.Context(), mem, imageBase)
		if (im == nil) != (err != nil) {
			t.Fatalf("ReadImage = %v, %v", im, err)
		}
		if err != nil {
			return
		}
		if len(im.Sections) == 0 || len(im.Sections) > maxSections {
			t.Errorf("%d sections", len(im.Sections))
		}
		if at, err := im.Export(t.Context(), "beta"); err == nil && !im.Holds(at, 1) {
			t.Errorf("Export = %#x, outside of the image", uint64(at))
		}
		if cv, err := im.CodeView(t.Context()); err == nil && len(cv.PDB) > maxPDBName {
			t.Errorf("PDB name of %d bytes", len(cv.PDB))
		}
		isKernel(t.Context(), AMD64(), im)
	})
}
