package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"snap/internal/lab/labtest"
	"snap/internal/ntlab/boot"
	"snap/phys"
)

// monitor reads a running guest's memory through QEMU's monitor, 32 bytes at
// a time.
type monitor struct{ g *Guest }

func (m monitor) ReadPhys(ctx context.Context, p []byte, at phys.Addr) error {
	text, err := m.g.Virsh(ctx, "qemu-monitor-command", m.g.Name, "--hmp", fmt.Sprintf("xp /%dgx %#x", len(p)/8, uint64(at)))
	if err != nil {
		return err
	}
	p = p[:0]
	for _, f := range strings.Fields(text) {
		if strings.HasSuffix(f, ":") {
			continue
		}
		v, err := strconv.ParseUint(f, 0, 64)
		if err != nil {
			return err
		}
		p = le.AppendUint64(p, v)
	}
	return nil
}

// TestSmear reads the chains while the guest writes to them: that must show.
func TestSmear(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	g := up(ctx, t, Spec{CPUs: 2, MemoryMiB: 128})
	got, err := boot.CheckChains(ctx, monitor{g}, g.Boot.Chains[:1])
	if err != nil || got.OnePoint || got.Smear < leastSmear {
		t.Errorf("CheckChains(a running guest, page by page) = %+v, %v; want smear over many rounds", got, err)
	}
	if _, err := g.Virsh(ctx, "suspend", g.Name); err != nil {
		t.Fatal(err)
	}
	got, err = boot.CheckChains(ctx, monitor{g}, g.Boot.Chains)
	if err != nil || !got.OnePoint || got.Smear != 0 {
		t.Errorf("CheckChains(the paused guest, page by page) = %+v, %v; want one point in time", got, err)
	}
}

// TestAbove4GiB holds a sample of the pages above 4 GiB against the image.
func TestAbove4GiB(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	g := up(ctx, t, Spec{CPUs: 2, MemoryMiB: 2816, Seed: 12})
	if _, err := g.Virsh(ctx, "suspend", g.Name); err != nil {
		t.Fatal(err)
	}
	got, err := boot.CheckChains(ctx, monitor{g}, g.Boot.Chains[:1])
	if err != nil || !got.OnePoint || slices.Min(got.Rounds) == 0 {
		t.Errorf("CheckChains(the paused guest) = %+v, %v; want one point in time after the start", got, err)
	}
	changing := changingPages(t, g)
	var high, checked int
	for p, want := range g.Image.Pages() {
		if p.Addr() < 1<<32 || changing.Has(p) {
			continue
		}
		if high++; high%16 != 1 {
			continue
		}
		checked++
		b := make([]byte, phys.PageSize)
		if err := (monitor{g}).ReadPhys(ctx, b, p.Addr()); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, want[:]) && !sameButAccessed(b, want[:]) {
			t.Errorf("page %#x differs from byte %#x on", uint64(p.Addr()), mismatch(b, want[:]))
		}
	}
	if checked < 5 {
		t.Errorf("image has %d pages above 4 GiB; want enough for a sample", high)
	}
}

// leastSmear is the least smear that reading a chain with one process per
// page must show: a round for each of its pages.
const leastSmear = boot.ChainPages

// TestIdle holds two cores of a guest that runs, but does nothing, together.
func TestIdle(t *testing.T) {
	ctx := within(t, 2*time.Minute)
	g := up(ctx, t, Spec{Mode: boot.Idle, MemoryMiB: 64})
	read := func() []byte {
		c := dumpCore(ctx, t, g)
		b := make([]byte, 32<<20)
		if err := c.ReadPhys(ctx, b, 1<<20); err != nil {
			t.Fatal(err)
		}
		return b
	}
	if a, b := read(), read(); !bytes.Equal(a, b) {
		t.Errorf("an idle guest's memory changed at %#x", 1<<20+mismatch(a, b))
	}
}

// TestEnded starts a guest that resets itself at once: Up must not wait on.
func TestEnded(t *testing.T) {
	labtest.NeedsDaemons(t)
	ctx := within(t, 2*time.Minute)
	s := Spec{Name: "lab-ended", MemoryMiB: 64, CPUs: 1}
	if err := s.complete(); err != nil {
		t.Fatal(err)
	}
	_, p, err := program(s)
	if err != nil {
		t.Fatal(err)
	}
	g, err := prepare(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	kernel := filepath.Join(g.Dir(), "guest.elf")
	var b bytes.Buffer
	if err := p.WriteELF(&b); err != nil {
		t.Fatal(err)
	}
	// Without page tables to go to, the first instruction after them faults.
	broken := bytes.ReplaceAll(b.Bytes(), []byte{0x0F, 0x22, 0xD8}, []byte{0x0F, 0x0B, 0x90})
	err = errors.Join(writeReadable(kernel, broken), g.start(ctx, files{kernel: kernel}, boot.ReadyLine))
	if !errors.Is(err, errEnded) {
		t.Errorf("start(a guest that resets) = %v; want errEnded", err)
	}
	if err := g.Down(); err != nil {
		t.Error(err)
	}
}

// TestLeftFolder: what a killed run left of a guest that is gone stands in nobody's way;
// a guest that is there, or is being started, keeps its name.
func TestLeftFolder(t *testing.T) {
	labtest.NeedsDaemons(t)
	ctx := within(t, 2*time.Minute)
	s := Spec{Name: fmt.Sprintf("lab-left-%d", os.Getpid()), MemoryMiB: 64, CPUs: 1}
	c := &Connection{Kind: System}
	dir, err := c.dir(s.Name)
	if err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "left")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(left, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Up(ctx, s); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("Up() of a guest that is being started = %v; want that it exists", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	g, err := Up(ctx, s)
	if err != nil {
		t.Fatalf("Up() where a guest that is gone left its folder: %v", err)
	}
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", left, err)
	}
	if err := g.starting.Close(); err != nil { // as if the process had ended
		t.Error(err)
	}
	if _, err := Up(ctx, s); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("Up() of a guest that runs = %v; want that it exists", err)
	}
	if g.starting, err = lockDir(dir); err != nil {
		t.Fatal(err)
	}
	if err := g.Down(); err != nil {
		t.Error(err)
	}
}

func TestLinux(t *testing.T) {
	labtest.NeedsDaemons(t)
	ctx := within(t, 2*time.Minute)
	g, err := UpLinux(ctx, Spec{Name: "lab-linux", MemoryMiB: 128, CPUs: 1})
	if err != nil {
		t.Fatal(err)
	}
	state, err := g.Virsh(ctx, "domstate", g.Name)
	if err != nil || strings.TrimSpace(state) != "running" {
		t.Errorf("state of %s = %q, %v; want running", g.Name, state, err)
	}
	if err := g.Down(); err != nil {
		t.Fatal(err)
	}
	checkGone(t, g)
}

func TestOff(t *testing.T) {
	labtest.NeedsDaemons(t)
	ctx := within(t, 2*time.Minute)
	g, err := Off(ctx, Spec{Name: "lab-off"})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Off(ctx, Spec{Name: "lab-off"}); err == nil {
		t.Errorf("Off(a name in use) = %s; want an error", again.Name)
	}
	states, err := List(ctx, System)
	if err != nil || states["lab-off"] != "shut off" {
		t.Errorf("List() = %v, %v; want lab-off to be shut off", states, err)
	}
	if err := Down(ctx, System, "lab-off"); err != nil {
		t.Fatal(err)
	}
	if err := Down(ctx, System, "lab-off"); err == nil {
		t.Error("Down(a guest that is gone) = nil; want an error")
	}
	checkGone(t, g)
	if err := g.Connection.Close(); err != nil {
		t.Error(err)
	}
}

// checkGone makes sure that nothing of g is left.
func checkGone(t *testing.T, g *Guest) {
	t.Helper()
	if _, err := os.Stat(g.Dir()); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", g.Dir(), err)
	}
	states, err := List(t.Context(), System)
	if err != nil || states[strings.TrimPrefix(g.Name, Prefix)] != "" {
		t.Errorf("List() = %v, %v; want no %s", states, err, g.Name)
	}
}

func TestSpecRefuses(t *testing.T) {
	for _, s := range []Spec{
		{},
		{Name: "../x"},
		{Name: "x", Machine: "microvm"},
		{Name: "x", Backing: "tape"},
		{Name: "x", MemoryMiB: 32},
		{Name: "x", Connect: "remote"},
		{Name: "x", Profile: "win95"},
	} {
		if g, err := Up(t.Context(), s); err == nil {
			t.Errorf("Up(%+v) = %s; want an error; Down() = %v", s, g.Name, g.Down())
		}
	}
}

// TestInitAssembled holds the embedded init against its source.
func TestInitAssembled(t *testing.T) {
	out := filepath.Join(t.TempDir(), "init")
	if b, err := exec.Command("nasm", "-f", "bin", "-o", out, "init.asm").CombinedOutput(); err != nil {
		t.Fatalf("nasm: %v: %s (scripts/deps.sh installs nasm)", err, b)
	}
	got, err := os.ReadFile(out)
	if err != nil || !bytes.Equal(got, linuxInit) {
		t.Errorf("init.bin is not what nasm makes of init.asm (%v)", err)
	}
}
