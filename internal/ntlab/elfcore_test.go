package ntlab

import (
	"bytes"
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"testing"

	"snap/phys"
)

func writeFile(t *testing.T, write func(io.Writer) error) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := write(f); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestELFCore(t *testing.T) {
	g := build(t, Config{Memory: MinMemory, Seed: 12, UserMode: true})
	f := writeFile(t, g.im.WriteELFCore)
	core, err := elf.NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	if core.Type != elf.ET_CORE || core.Machine != elf.EM_X86_64 {
		t.Errorf("ELF of type %v for %v", core.Type, core.Machine)
	}
	var ram []phys.Run
	buf := make([]byte, mib)
	want := make([]byte, mib)
	for _, p := range core.Progs {
		if p.Type != elf.PT_LOAD {
			continue
		}
		r, ok := phys.RunOf(phys.Addr(p.Paddr), p.Filesz)
		if !ok || p.Memsz != p.Filesz {
			t.Fatalf("segment %+v", p.ProgHeader)
		}
		ram = append(ram, r)
		for off := uint64(0); off < p.Filesz; off += mib {
			n := min(mib, p.Filesz-off)
			if _, err := p.ReadAt(buf[:n], int64(off)); err != nil {
				t.Fatal(err)
			}
			if err := g.im.ReadPhys(t.Context(), want[:n], phys.Addr(p.Paddr+off)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(buf[:n], want[:n]) {
				t.Errorf("the core differs from memory at %#x", p.Paddr+off)
			}
		}
	}
	if got, err := phys.NewRuns(ram...); err != nil || got.Minus(g.im.RAM()) != nil || g.im.RAM().Minus(got) != nil {
		t.Errorf("segments %v; want %v", ram, g.im.RAM())
	}
	checkNotes(t, core.Progs[0], g.im.Registers())
}

// checkNotes reads the notes by the layout of QEMU's QEMUCPUState.
func checkNotes(t *testing.T, p *elf.Prog, regs []phys.Registers) {
	t.Helper()
	b := make([]byte, p.Filesz)
	if _, err := p.ReadAt(b, 0); err != nil || p.Type != elf.PT_NOTE {
		t.Fatalf("notes: %v, %v", p.Type, err)
	}
	var status, qemu int
	for len(b) > 0 {
		size := le.Uint32(b[4:])
		name, d := string(b[12:16]), b[20:20+size]
		b = b[20+size:]
		if name == "CORE" {
			r := regs[status]
			if size != 336 || le.Uint64(d[112+16*8:]) != r.RIP || le.Uint64(d[112+19*8:]) != r.RSP || le.Uint64(d[112+22*8:]) != r.GS.Base {
				t.Errorf("NT_PRSTATUS %d is not vCPU %d's", status, r.CPU)
			}
			status++
			continue
		}
		r := regs[qemu]
		got := []uint64{uint64(le.Uint32(d[4:])), le.Uint64(d[0x38:]), le.Uint64(d[0x88:]), le.Uint64(d[0xF8+16:]), le.Uint64(d[0x158+16:]), le.Uint64(d[0x1A0:]), le.Uint64(d[0x1B0:])}
		for i, want := range []uint64{0x1B8, r.RSP, r.RIP, r.GS.Base, r.GDT.Base, r.CR3, r.KernelGSBase} {
			if got[i] != want {
				t.Errorf("QEMU note %d, value %d = %#x; want %#x", qemu, i, got[i], want)
			}
		}
		qemu++
	}
	if status != len(regs) || qemu != len(regs) {
		t.Errorf("%d and %d notes; want %d each", status, qemu, len(regs))
	}
}

func TestRaw(t *testing.T) {
	g := build(t, Config{Memory: MinMemory, Seed: 13})
	var stream bytes.Buffer
	if err := g.im.WriteRaw(&stream); err != nil {
		t.Fatal(err)
	}
	f := writeFile(t, g.im.WriteRaw)
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, stream.Bytes()) || len(got) != MinMemory {
		t.Errorf("a file of %d bytes and a stream of %d differ; want %d", len(got), stream.Len(), MinMemory)
	}
	for _, r := range g.im.RAM() {
		want := make([]byte, r.Size())
		if err := g.im.ReadPhys(t.Context(), want, r.Base.Addr()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[r.Base.Addr():r.End().Addr()], want) {
			t.Errorf("%v differs from memory", r)
		}
	}
	if !bytes.Equal(got[0xA0000:0xC0000], make([]byte, 0x20000)) {
		t.Error("the VGA hole holds something")
	}
}
