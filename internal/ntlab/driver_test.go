package ntlab

import (
	"bytes"
	"debug/pe"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"snap/phys"
)

// sampleDriver builds guest/driver/snapadv.
func sampleDriver(t *testing.T) []byte {
	t.Helper()
	return compiled(t, "snapadv.sys", func(out string) *exec.Cmd {
		return exec.CommandContext(t.Context(), "make", "-s", "-C", "../../guest/driver/snapadv", "OUT="+filepath.Dir(out))
	})
}

// pointerDriver builds a driver that has pointers to relocate.
func pointerDriver(t *testing.T) []byte {
	t.Helper()
	const text = `int DriverEntry(void);
static int numbers[600];
__declspec(dllexport) void *Pointers[600] = { &numbers[1], (void *)DriverEntry, 0, Pointers, [599] = &numbers[599] };
const void *const Constant[2] = { Pointers, &Constant[1] };
int DriverEntry(void) { return numbers[0] + (Constant[0] == 0); }
`
	return compiled(t, "pointers.sys", func(out string) *exec.Cmd {
		source := out + ".c"
		if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.CommandContext(t.Context(), "x86_64-w64-mingw32-gcc", "-O1", "-ffreestanding", "-nostdlib",
			"-Wl,--subsystem,native", "-Wl,-e,DriverEntry", "-o", out, source)
	})
}

func compiled(t *testing.T, name string, command func(out string) *exec.Cmd) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	if text, err := command(out).CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s(scripts/deps.sh installs mingw-w64)", name, err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// loadedAs computes from the file alone what has to be in memory: for each
// section its bytes, relocated for base.
func loadedAs(t *testing.T, g guest, file []byte, base uint64) (*pe.File, map[string][]byte) {
	t.Helper()
	f, err := pe.NewFile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	h := f.OptionalHeader.(*pe.OptionalHeader64)
	delta := base - h.ImageBase
	all := map[string][]byte{}
	at := func(rva uint32) []byte {
		for _, s := range f.Sections {
			if rva >= s.VirtualAddress && rva < s.VirtualAddress+s.VirtualSize {
				return all[s.Name][rva-s.VirtualAddress:]
			}
		}
		t.Fatalf("no section has RVA %#x", rva)
		return nil
	}
	for _, s := range f.Sections {
		b := make([]byte, s.VirtualSize)
		if s.Size > 0 {
			raw, err := s.Data()
			if err != nil {
				t.Fatal(err)
			}
			copy(b, raw)
		}
		all[s.Name] = b
	}
	for b := bytes.Clone(all[".reloc"]); len(b) >= 8; b = b[le.Uint32(b[4:]):] {
		for i := uint32(8); i < le.Uint32(b[4:]); i += 2 {
			if e := le.Uint16(b[i:]); e>>12 == 10 {
				p := at(le.Uint32(b) + uint32(e&0xfff))
				le.PutUint64(p, le.Uint64(p)+delta)
			}
		}
	}
	if dir := h.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_IMPORT]; dir.Size > 0 {
		d := bytes.Clone(at(dir.VirtualAddress)[:20])
		for i := uint32(0); le.Uint32(d) != 0 && le.Uint64(at(le.Uint32(d)+i)) != 0; i += 8 {
			name, _, _ := bytes.Cut(at(uint32(le.Uint64(at(le.Uint32(d)+i)))+2), []byte{0})
			if slices.Contains(exportedRoutines, string(name)) {
				le.PutUint64(at(le.Uint32(d[16:])+i), g.symbol(string(name)))
			}
		}
	}
	return f, all
}

// pteOf returns the last entry that maps va, by an own walk.
func (g guest) pteOf(va uint64) uint64 {
	g.t.Helper()
	table := g.root
	for shift := topShift(g.im); ; shift -= 9 {
		var e [8]byte
		if err := g.im.ReadPhys(g.t.Context(), e[:], phys.Addr(table+(va>>shift&0x1ff)*8)); err != nil {
			g.t.Fatal(err)
		}
		v := le.Uint64(e[:])
		if v&1 == 0 || shift == 12 || v&0x80 != 0 {
			return v
		}
		table = v & 0x000ffffffffff000
	}
}

func TestLoadDriver(t *testing.T) {
	sample, pointers := sampleDriver(t), pointerDriver(t)
	everyKind(t, func(t *testing.T, g guest) {
		for name, file := range map[string][]byte{"snapadv.sys": sample, "pointers.sys": pointers} {
			before := g.list(uint64(g.im.Truth.PsLoadedModuleList))
			m, err := g.im.LoadDriver(name, file)
			if err != nil {
				t.Fatal(err)
			}
			base := uint64(m.Base)
			f, want := loadedAs(t, g, file, base)
			relocated := false
			for _, s := range f.Sections {
				got := g.bytes(base+uint64(s.VirtualAddress), int(s.VirtualSize))
				if !bytes.Equal(got, want[s.Name]) {
					t.Errorf("%s: section %s isn't what the file says", name, s.Name)
				}
				raw, _ := s.Data()
				relocated = relocated || (s.Name == ".data" && s.Size > 0 && !bytes.Equal(raw[:min(len(got), len(raw))], got[:min(len(got), len(raw))]))
				pte := g.pteOf(base + uint64(s.VirtualAddress))
				w, nx := s.Characteristics&pe.IMAGE_SCN_MEM_WRITE != 0, s.Characteristics&pe.IMAGE_SCN_MEM_EXECUTE == 0
				if pte&2 != 0 != w || pte>>63 != 0 != nx || pte&4 != 0 {
					t.Errorf("%s: section %s has page-table entry %#x; want writable %v, no-execute %v", name, s.Name, pte, w, nx)
				}
			}
			if relocated != (name == "pointers.sys") {
				t.Errorf("%s: .data is relocated: %v", name, relocated)
			}
			g.checkEntry(m, f, before)
		}
	})
}

// checkEntry checks the last entry of PsLoadedModuleList and the headers.
func (g guest) checkEntry(m Module, f *pe.File, before []uint64) {
	g.t.Helper()
	h := f.OptionalHeader.(*pe.OptionalHeader64)
	all := g.list(uint64(g.im.Truth.PsLoadedModuleList))
	if len(all) != len(before)+1 || !slices.Equal(all[:len(before)], before) {
		g.t.Fatalf("%s: %d modules are listed, %d before", m.Name, len(all), len(before))
	}
	e := all[len(before)]
	name := g.bytes(g.u64(e+0x60), int(g.u16(e+0x58)))
	for i, c := range []byte(m.Name) {
		if name[2*i] != c {
			g.t.Errorf("BaseDllName = %q; want %s", name, m.Name)
		}
	}
	got := []uint64{g.u64(e + 0x30), g.u64(e+0x38) - g.u64(e+0x30), uint64(g.u32(e + 0x40)), uint64(g.u32(e + 0x78))}
	want := []uint64{uint64(m.Base), uint64(h.AddressOfEntryPoint), uint64(h.SizeOfImage), uint64(h.CheckSum)}
	if !slices.Equal(got, want) {
		g.t.Errorf("%s: DllBase, entry point, SizeOfImage, CheckSum = %#x; want %#x", m.Name, got, want)
	}
	if last := g.im.Truth.Modules[len(g.im.Truth.Modules)-1]; last != m || len(g.im.Truth.Modules) != len(all) {
		g.t.Errorf("Truth.Modules ends with %+v; want %+v", last, m)
	}
	lfanew := uint64(g.u32(uint64(m.Base) + 0x3c))
	if got := g.u64(uint64(m.Base) + lfanew + 0x30); got != uint64(m.Base) {
		g.t.Errorf("%s: ImageBase in memory = %#x; want %#x", m.Name, got, m.Base)
	}
	p := g.im.Truth.Processes[1]
	other := guest{g.t, g.im, uint64(p.DirectoryTableBase)}
	if !bytes.Equal(other.bytes(uint64(m.Base), 64), g.bytes(uint64(m.Base), 64)) {
		g.t.Errorf("%s doesn't see %s", p.Name, m.Name)
	}
}

// TestSampleDriversTable finds the table as a host does.
func TestSampleDriversTable(t *testing.T) {
	g := build(t, Config{Seed: 20})
	m, err := g.im.LoadDriver("snapadv.sys", sampleDriver(t))
	if err != nil {
		t.Fatal(err)
	}
	table := g.exported(m, "SnapRemovePages")
	if got, want := string(g.bytes(table, 16)), "SNAPRMPG\x01\x00\x20\x00\x00\x00\x00\x00"; got != want {
		t.Errorf("SnapRemovePages begins with %q; want %q", got, want)
	}
	if rva := table - uint64(m.Base); rva%8 != 0 || rva >= uint64(m.Size) {
		t.Errorf("SnapRemovePages is at RVA %#x of an image of %#x", rva, m.Size)
	}
}

// exported reads an export directory from memory (PE format, ".edata").
func (g guest) exported(m Module, name string) uint64 {
	g.t.Helper()
	base := uint64(m.Base)
	dir := base + uint64(g.u32(base+uint64(g.u32(base+0x3c))+0x88))
	if dir == base {
		return 0
	}
	for i := range uint64(g.u32(dir + 24)) {
		text := g.bytes(base+uint64(g.u32(base+uint64(g.u32(dir+32))+4*i)), len(name)+1)
		if string(text) == name+"\x00" {
			ordinal := uint64(g.u16(base + uint64(g.u32(dir+36)) + 2*i))
			return base + uint64(g.u32(base+uint64(g.u32(dir+28))+4*ordinal))
		}
	}
	return 0
}

func TestLoadDriverRefuses(t *testing.T) {
	good := pointerDriver(t)
	nt := int(le.Uint32(good[0x3c:]))
	edit := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	reloc := nt + 0x18 + 0x70 + 5*8
	tests := map[string][]byte{
		"empty":             nil,
		"half":              good[:len(good)/2],
		"headers only":      good[:nt+0x60],
		"no signature":      edit(func(b []byte) { b[nt] = 'N' }),
		"x86":               edit(func(b []byte) { le.PutUint16(b[nt+4:], 0x14c) }),
		"headers far away":  edit(func(b []byte) { le.PutUint32(b[0x3c:], 0xFFFF_FFF0) }),
		"65535 sections":    edit(func(b []byte) { le.PutUint16(b[nt+6:], 0xFFFF) }),
		"4 GiB image":       edit(func(b []byte) { le.PutUint32(b[nt+0x50:], 0xFFFF_FFFF) }),
		"section outside":   edit(func(b []byte) { le.PutUint32(b[nt+0x108+12:], 0x7FFF_F000) }),
		"section wraps":     edit(func(b []byte) { le.PutUint32(b[nt+0x108+8:], 0xFFFF_FFFF) }),
		"data outside":      edit(func(b []byte) { le.PutUint32(b[nt+0x108+20:], 0xFFFF_FE00) }),
		"relocs outside":    edit(func(b []byte) { le.PutUint32(b[reloc:], 0xFFFF_F000) }),
		"relocs too long":   edit(func(b []byte) { le.PutUint32(b[reloc+4:], 0x7FFF_FFFF) }),
		"relocs of headers": edit(func(b []byte) { le.PutUint32(b[reloc:], 0) }),
		"imports outside":   edit(func(b []byte) { le.PutUint32(b[nt+0x18+0x78:], 0xFFF0_0000); le.PutUint32(b[nt+0x18+0x7c:], 20) }),
		"relocs stripped":   edit(func(b []byte) { b[nt+0x16] |= 1 }),
	}
	g := build(t, Config{Seed: 21})
	before := digest(g.im)
	for name, file := range tests {
		if _, err := g.im.LoadDriver("bad.sys", file); !errors.Is(err, errPE) {
			t.Errorf("LoadDriver(%s) = %v; want errPE", name, err)
		}
	}
	for _, name := range []string{"", `a\b.sys`, "CI.DLL"} {
		if _, err := g.im.LoadDriver(name, good); err == nil {
			t.Errorf("LoadDriver as %q = nil; want an error", name)
		}
	}
	if digest(g.im) != before {
		t.Error("a driver that was refused changed the guest")
	}
	other, err := BuildOther(Config{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.LoadDriver("a.sys", good); err == nil {
		t.Error("LoadDriver into a guest that isn't Windows = nil; want an error")
	}
}

// TestRelocations holds the types against the PE format's definition.
func TestRelocations(t *testing.T) {
	driver := func(entries ...uint16) *driverFile {
		d := &driverFile{machine: &machine64, image: make([]byte, 0x3000)}
		le.PutUint64(d.image[0x18:], 0x1_4000_0000)
		le.PutUint64(d.image[0x1010:], 0x1_4000_2000)
		le.PutUint64(d.image[0x1FFC:], 0x1_4000_2000)
		le.PutUint32(d.image[0x2000:], 0x1000)
		le.PutUint32(d.image[0x2004:], uint32(8+2*len(entries)))
		for i, e := range entries {
			le.PutUint16(d.image[0x2008+2*i:], e)
		}
		d.directory[dirRelocs] = span32{0x2000, uint32(8 + 2*len(entries))}
		return d
	}
	const base, delta = 0xFFFF_F801_2345_0000, 0xFFFF_F801_2345_0000 - 0x1_4000_0000 // low half: 0xE345_0000
	for _, tt := range []struct {
		entry uint16
		want  uint64
	}{
		{0x0010, 0x1_4000_2000},
		{0xA010, 0x1_4000_2000 + delta},
		{0x3010, 0x1_2345_2000}, // 0x4000_2000 + 0xE345_0000, without the carry
	} {
		d := driver(tt.entry, 0)
		if err := d.relocate(base); err != nil || le.Uint64(d.image[0x1010:]) != tt.want {
			t.Errorf("relocation %#x gives %#x, %v; want %#x", tt.entry, le.Uint64(d.image[0x1010:]), err, tt.want)
		}
	}
	for _, e := range []uint16{0x1010, 0x4010, 0xF000} {
		if err := driver(e, 0).relocate(base); !errors.Is(err, errPE) {
			t.Errorf("relocation %#x = %v; want errPE", e, err)
		}
	}
}

func FuzzParseDriver(f *testing.F) {
	for _, m := range []*machine{&machine64, &machine32} {
		pe := syntheticDriver(m, "seed.sys", &Advert{Entries: []RemovePages{{}}}, stream(1, 2))
		f.Add(pe.image)
		f.Add(pe.image[:0x1000])
	}
	f.Add([]byte("MZ"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseDriver(b)
		if err != nil {
			if !errors.Is(err, errPE) {
				t.Errorf("parseDriver = %v; want errPE", err)
			}
			return
		}
		if d.size() > maxDriverSize {
			t.Errorf("an image of %#x bytes", d.size())
		}
		if _, err := d.export("SnapRemovePages"); err != nil && !errors.Is(err, errPE) {
			t.Error(err)
		}
		if err := d.bind(&Image{Config: Config{Profile: "win10-22h2"}}); err != nil && !errors.Is(err, errPE) {
			t.Error(err)
		}
		if err := d.relocate(0xFFFF_F801_0000_0000); err != nil && !errors.Is(err, errPE) {
			t.Error(err)
		}
	})
}
