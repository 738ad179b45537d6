package main

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"snap/internal/lab"
	"snap/internal/lab/labtest"
	"snap/internal/ntlab"
	"snap/phys"
)

// program is the snap binary that tests on real domains run: another user
// than the test's must be able to, so it lies in a folder that all may read.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "snap-test-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "snap")
	build := exec.Command("go", "build", "-o", bin, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

// snapRun is what a run of snap on a guest's connection gave.
type snapRun struct {
	code           int
	stdout, stderr string
}

// runSnap runs snap as the connection's user, connected to it.
func runSnap(t *testing.T, c *lab.Connection, command string, args ...string) snapRun {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := c.Command(t.Context(), bin, append([]string{command}, args...)...)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, "LIBVIRT_DEFAULT_URI="+c.URI, "SNAP_MAX_PAUSE="+os.Getenv("SNAP_MAX_PAUSE"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	r := snapRun{stdout: stdout.String(), stderr: stderr.String()}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.code = exit.ExitCode()
	} else if err != nil {
		t.Fatalf("snap %s: %v", command, err)
	}
	return r
}

// want fails the test unless the run ended with the exit code.
func (r snapRun) want(t *testing.T, code int) snapRun {
	t.Helper()
	if r.code != code {
		t.Fatalf("snap exited with %d; want %d\nstdout: %s\nstderr: %s", r.code, code, r.stdout, r.stderr)
	}
	return r
}

// upGuest starts a lab guest that ends with the test.
func upGuest(t *testing.T, s lab.Spec) *lab.Guest {
	t.Helper()
	labtest.NeedsDaemons(t)
	s.Name = unique(s.Name)
	g, err := lab.Up(t.Context(), s)
	return endsWithTest(t, g, err)
}

// unique makes a name that no other process's guest has, nor one that a killed
// test left behind.
func unique(name string) string { return fmt.Sprintf("%s-%d", name, os.Getpid()) }

func endsWithTest(t *testing.T, g *lab.Guest, err error) *lab.Guest {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// virsh runs virsh on the guest's connection.
func virsh(t *testing.T, c *lab.Connection, args ...string) string {
	t.Helper()
	out, err := c.Virsh(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// core is an ELF core that virsh dump wrote: the oracle that dumps are held
// against. It is read with debug/elf alone.
type core struct {
	file  *os.File
	loads []*elf.Prog
	notes [][]byte // descriptors of the QEMU CPU notes, by vCPU
}

// takeCore has libvirt dump the guest's memory.
func takeCore(t *testing.T, g *lab.Guest, name string) *core {
	t.Helper()
	path := filepath.Join(g.Dir(), name)
	virsh(t, g.Connection, "dump", "--memory-only", g.Name, path)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close(); os.Remove(path) })
	ef, err := elf.NewFile(f)
	if err != nil {
		t.Fatal(err)
	}
	c := &core{file: f}
	for _, p := range ef.Progs {
		switch p.Type {
		case elf.PT_LOAD:
			c.loads = append(c.loads, p)
		case elf.PT_NOTE:
			notes, err := io.ReadAll(p.Open())
			if err != nil {
				t.Fatal(err)
			}
			c.notes = append(c.notes, qemuNotes(notes)...)
		}
	}
	return c
}

// qemuNotes returns the descriptors of the notes named QEMU (QEMU
// target/i386/arch_dump.c).
func qemuNotes(b []byte) [][]byte {
	var out [][]byte
	for len(b) >= 12 {
		name, desc := int(binary.LittleEndian.Uint32(b)), int(binary.LittleEndian.Uint32(b[4:]))
		end := 12 + (name+3)&^3
		if string(b[12:12+name]) == "QEMU\x00" {
			out = append(out, b[end:end+desc])
		}
		b = b[end+(desc+3)&^3:]
	}
	return out
}

// register reads a register of a vCPU by its offset in the QEMU note.
func (c *core) register(vcpu, offset int) uint64 {
	return binary.LittleEndian.Uint64(c.notes[vcpu][offset:])
}

// Offsets in the QEMU note.
const (
	noteRSP = 0x38
	noteRIP = 0x88
)

// ReadPhys implements phys.Reader.
func (c *core) ReadPhys(_ context.Context, p []byte, at phys.Addr) error {
	for _, l := range c.loads {
		if uint64(at) >= l.Paddr && uint64(at)+uint64(len(p)) <= l.Paddr+l.Filesz {
			_, err := l.ReadAt(p, int64(uint64(at)-l.Paddr))
			return err
		}
	}
	return phys.ErrNotRAM
}

// sameMemory fails the test unless both cores hold the same memory.
func sameMemory(t *testing.T, before, after *core) {
	t.Helper()
	a, b := make([]byte, 1<<20), make([]byte, 1<<20)
	for _, l := range before.loads {
		for off := uint64(0); off < l.Filesz; off += uint64(len(a)) {
			n := min(uint64(len(a)), l.Filesz-off)
			at := phys.Addr(l.Paddr + off)
			if err := errors.Join(before.ReadPhys(t.Context(), a[:n], at), after.ReadPhys(t.Context(), b[:n], at)); err != nil {
				t.Fatalf("compare memory at %#x: %v", uint64(at), err)
			}
			if !bytes.Equal(a[:n], b[:n]) {
				t.Fatalf("guest memory in [%#x, +%#x) changed", uint64(at), n)
			}
		}
	}
}

// writeCore writes an ELF core of a lab guest and returns its path.
func writeCore(t *testing.T, path string, im *ntlab.Image) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(im.WriteELFCore(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}
