package boot

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"snap/internal/ntlab"
	"snap/phys"
)

// TestAssembled holds the embedded code against its source.
func TestAssembled(t *testing.T) {
	for name, want := range map[string][]byte{"stub": stubCode, "run": runCode, "user": userCode, "order": orderCode} {
		out := filepath.Join(t.TempDir(), name)
		if b, err := exec.Command("nasm", "-f", "bin", "-o", out, name+".asm").CombinedOutput(); err != nil {
			t.Fatalf("nasm: %v: %s (scripts/deps.sh installs nasm)", err, b)
		}
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s.bin is not what nasm makes of %s.asm", name, name)
		}
	}
}

func build(tb testing.TB, c ntlab.Config, o Options) (*ntlab.Image, *Program) {
	tb.Helper()
	im, err := ntlab.Build(c)
	if err != nil {
		tb.Fatal(err)
	}
	o.DirectoryTableBase = im.Truth.DirectoryTableBase
	p, err := Prepare(im, o)
	if err != nil {
		tb.Fatal(err)
	}
	return im, p
}

// loaded reads an ELF file as QEMU loads it: pages by physical address.
func loaded(t *testing.T, p *Program) (map[phys.PFN][]byte, *elf.File) {
	t.Helper()
	var b bytes.Buffer
	if err := p.WriteELF(&b); err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	pages := map[phys.PFN][]byte{}
	for _, s := range f.Progs {
		if s.Type != elf.PT_LOAD {
			continue
		}
		data, err := io.ReadAll(s.Open())
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(data); i += phys.PageSize {
			pfn := phys.Addr(s.Paddr + uint64(i)).PFN()
			if pages[pfn] != nil {
				t.Fatalf("page %#x is loaded twice", pfn)
			}
			pages[pfn] = data[i : i+phys.PageSize]
		}
	}
	return pages, f
}

// TestELF plays the loader and the stub's copies, and finds the image.
func TestELF(t *testing.T) {
	for _, c := range []ntlab.Config{
		{Seed: 1, Memory: 128 << 20},
		{Seed: 2, Memory: 3 << 30, CPUs: 16},
		{Seed: 3, Memory: 128 << 20, Machine: "i440fx", Profile: "ws2003sp1-x64"},
	} {
		t.Run(fmt.Sprintf("%s %s %d MiB", c.Profile, c.Machine, c.Memory>>20), func(t *testing.T) {
			im, p := build(t, c, Options{FillPages: 5000, Seed: 9})
			pages, f := loaded(t, p)
			stub := checkNote(t, f, pages)
			low := im.RAM()[0]
			for _, r := range im.RAM() {
				if r.Base < 0x100000 {
					low = r
				}
			}
			for pfn := range pages {
				if pfn < 0x100 || !im.RAM().Has(pfn) || (pfn < low.End() && pfn >= low.End()-17<<8) {
					t.Fatalf("page %#x is loaded to where the firmware writes", pfn)
				}
			}
			playCopies(pages, stub)
			for pfn, want := range im.Pages() {
				if !bytes.Equal(pages[pfn], want[:]) {
					t.Fatalf("page %#x of the image is not in the guest", pfn)
				}
			}
			checkFills(t, im, p, pages, 5000)
		})
	}
}

// checkNote holds the PVH entry against the stub's place, and returns its page.
func checkNote(t *testing.T, f *elf.File, pages map[phys.PFN][]byte) []byte {
	t.Helper()
	if f.Progs[0].Type != elf.PT_NOTE {
		t.Fatalf("first program header is %v; want PT_NOTE", f.Progs[0].Type)
	}
	note, err := io.ReadAll(f.Progs[0].Open())
	if err != nil {
		t.Fatal(err)
	}
	want := "\x04\x00\x00\x00\x08\x00\x00\x00\x12\x00\x00\x00Xen\x00"
	if string(note[:16]) != want {
		t.Fatalf("note = %x; want %x", note[:16], want)
	}
	entry := phys.Addr(le.Uint64(note[16:]))
	stub := pages[entry.PFN()]
	if entry >= 1<<32 || stub[0] != 0xBD || le.Uint32(stub[1:]) != uint32(entry) {
		t.Errorf("entry %#x: code is %x; want mov ebp, entry", uint64(entry), stub[:5])
	}
	return stub
}

// playCopies does what the stub's copy does. Offsets are those of stub.asm.
func playCopies(pages map[phys.PFN][]byte, stub []byte) {
	for at := phys.Addr(le.Uint64(stub[32:])); at != 0; {
		table := pages[at.PFN()]
		for i := range le.Uint64(table[8:]) {
			e := table[32+i*32:]
			to, n, from := phys.Addr(le.Uint64(e)), le.Uint64(e[8:]), phys.Addr(le.Uint64(e[16:]))
			for k := range phys.PFN(n) {
				pages[to.PFN()+k] = pages[from.PFN()+k]
			}
		}
		at = phys.Addr(le.Uint64(table))
	}
}

// checkFills holds the fills against what is in use.
func checkFills(t *testing.T, im *ntlab.Image, p *Program, pages map[phys.PFN][]byte, want uint64) {
	t.Helper()
	windows, err := phys.NewRuns(im.Truth.Runs...)
	if err != nil {
		t.Fatal(err)
	}
	var got uint64
	for _, f := range p.Info.Fills {
		got += f.Run.Pages
		if len(windows.Intersect(phys.Runs{f.Run})) != 1 || len(p.Info.Residue.Intersect(phys.Runs{f.Run})) != 0 {
			t.Errorf("fill %v is outside of Windows' memory or in the boot code", f.Run)
		}
		for pfn := f.Run.Base; pfn < f.Run.End(); pfn++ {
			if b := pages[pfn]; b != nil && !bytes.Equal(b, make([]byte, phys.PageSize)) {
				t.Errorf("fill %v overwrites page %#x", f.Run, pfn)
			}
		}
	}
	if got != want {
		t.Errorf("fills have %d pages; want %d", got, want)
	}
}

func TestPrepareRefuses(t *testing.T) {
	im, err := ntlab.Build(ntlab.Config{Seed: 4, Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(im, Options{Timekeeper: 4}); err == nil {
		t.Error("Prepare(time kept by vCPU 4 of 4) = nil; want an error")
	}
	// No long run of unused pages is left below 4 GiB.
	if _, err := Prepare(full{im}, Options{}); !errors.Is(err, errNoRoom) {
		t.Errorf("Prepare(an image without unused memory) = %v; want errNoRoom", err)
	}
}

// full is an image that uses all of its memory.
type full struct{ *ntlab.Image }

func (full) Free() phys.Runs { return nil }

// TestFillPage checks the kinds by what they are for.
func TestFillPage(t *testing.T) {
	page := func(k Kind, pfn phys.PFN) []byte {
		b := bytes.Repeat([]byte{0xCC}, phys.PageSize)
		Fill{Kind: k, Seed: 7}.Page(b, pfn)
		return b
	}
	if !bytes.Equal(page(Zero, 5), make([]byte, phys.PageSize)) {
		t.Error("a page of kind Zero is not zero")
	}
	for _, k := range []Kind{Text, Structures, Random} {
		if bytes.Equal(page(k, 5), page(k, 6)) || !bytes.Equal(page(k, 5), page(k, 5)) {
			t.Errorf("pages of kind %d don't depend on the page number alone", k)
		}
	}
	if text := page(Text, 5); slices.ContainsFunc(text, func(c byte) bool { return c != ' ' && (c < 'a' || c > 'z') }) {
		t.Errorf("text = %q; want words", text[:64])
	}
}
