package lab

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"testing"

	"snap/phys"
)

var le = binary.LittleEndian

// core is an ELF core of a guest as virsh dump --memory-only writes it, read
// with the standard library alone.
type core struct {
	file  *elf.File
	notes []cpuNote
}

// cpuNote is what QEMU says of a processor (QEMU target/i386/arch_dump.c
// QEMUCPUState).
type cpuNote struct {
	rsp, rip, cr3, gsBase, kernelGSBase uint64
	cs                                  uint32
	gdt, idt                            uint64
}

// dumpCore takes a core of g, which must stand still for as long as that
// takes; libvirt pauses it if it runs.
func dumpCore(ctx context.Context, t *testing.T, g *Guest) *core {
	t.Helper()
	path := filepath.Join(g.Dir(), "core")
	if _, err := g.Virsh(ctx, "dump", "--memory-only", "--live", g.Name, path); err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if err := os.Remove(path); err != nil { // the open file stays readable
		t.Fatal(err)
	}
	c := &core{file: f}
	for _, p := range f.Progs {
		if p.Type == elf.PT_NOTE {
			c.readNotes(t, p)
		}
	}
	return c
}

func (c *core) readNotes(t *testing.T, p *elf.Prog) {
	t.Helper()
	b, err := io.ReadAll(p.Open())
	if err != nil {
		t.Fatal(err)
	}
	for len(b) >= 12 {
		nameLen, size := int(le.Uint32(b)+3)&^3, int(le.Uint32(b[4:])+3)&^3
		name, d := string(b[12:12+nameLen]), b[12+nameLen:12+nameLen+size]
		b = b[12+nameLen+size:]
		if name != "QEMU\x00\x00\x00\x00" {
			continue
		}
		const registers, segments, control = 8, 8 + 18*8, 8 + 18*8 + 10*24
		qword := func(at int) uint64 { return le.Uint64(d[at:]) }
		base := func(segment int) uint64 { return qword(segments + segment*24 + 16) }
		c.notes = append(c.notes, cpuNote{
			rsp: qword(registers + 6*8), rip: qword(registers + 16*8), cs: le.Uint32(d[segments:]),
			gsBase: base(4), gdt: base(8), idt: base(9),
			cr3: qword(control + 3*8), kernelGSBase: qword(control + 5*8),
		})
	}
}

// ReadPhys implements phys.Reader.
func (c *core) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	for _, s := range c.file.Progs {
		if s.Type == elf.PT_LOAD && uint64(at) >= s.Paddr && uint64(at)-s.Paddr+uint64(len(p)) <= s.Filesz {
			_, err := s.ReadAt(p, int64(uint64(at)-s.Paddr))
			return err
		}
	}
	return &phys.AccessError{At: at, Len: len(p), Err: phys.ErrNotRAM}
}
