package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"snap/hv"
	"snap/hv/file"
	"snap/hv/hvtest"
	"snap/internal/lab"
	"snap/internal/lab/labtest"
	"snap/phys"
)

// upTimeout bounds the start of a guest under TCG on a busy machine.
const upTimeout = 3 * time.Minute

// guestUp starts a lab guest and looks it up.
func guestUp(t *testing.T, s lab.Spec) (*lab.Guest, *Domain) {
	t.Helper()
	labtest.NeedsDaemons(t)
	ctx, cancel := context.WithTimeout(t.Context(), upTimeout)
	defer cancel()
	s.Name = "hv-" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	s.Name = s.Name[:min(len(s.Name), 38)]
	g, err := lab.Up(ctx, s)
	if err != nil {
		t.Fatalf("start the guest: %v", err)
	}
	t.Cleanup(func() {
		if err := g.Down(); err != nil {
			t.Errorf("end the guest: %v", err)
		}
	})
	return g, lookedUp(t, g)
}

// lookedUp looks a guest up on a connection of its own.
func lookedUp(t *testing.T, g *lab.Guest) *Domain {
	t.Helper()
	c, err := Connect(t.Context(), uriOf(g))
	if err != nil {
		t.Fatalf("Connect(%q) failed: %v", uriOf(g), err)
	}
	t.Cleanup(func() { _ = c.Close() })
	d, err := c.LookupDomain(t.Context(), g.Name)
	if err != nil {
		t.Fatalf("Lookup(%q) failed: %v", g.Name, err)
	}
	return d
}

// uriOf names the daemon by its socket where it is another user's.
func uriOf(g *lab.Guest) string {
	if g.Kind != lab.Session || g.User == nil {
		return g.URI
	}
	return fmt.Sprintf("qemu+unix:///session?socket=%s", g.Socket)
}

// core takes an ELF core of the guest with libvirt's own means.
func core(t *testing.T, g *lab.Guest) hv.Source {
	t.Helper()
	path := filepath.Join(g.Dir(), "core")
	if _, err := g.Virsh(t.Context(), "dump", "--memory-only", g.Name, path); err != nil {
		t.Fatalf("virsh dump failed: %v", err)
	}
	src, err := file.Open(t.Context(), path, file.Options{})
	if err != nil {
		t.Fatalf("Open of virsh's dump failed: %v", err)
	}
	t.Cleanup(func() {
		_ = src.Close()
		_ = os.Remove(path)
	})
	return src
}

func openMemory(t *testing.T, s hv.Source, how hv.Mechanism) hv.Memory {
	t.Helper()
	m, err := s.OpenMemory(t.Context(), how)
	if err != nil {
		t.Fatalf("OpenMemory(%s) failed: %v", how, err)
	}
	return m
}

// TestGuest takes real guests through all that a domain can do, on every kind of
// memory and machine.
func TestGuest(t *testing.T) {
	tests := []struct {
		name string
		spec lab.Spec
	}{
		{"anonymous", lab.Spec{MemoryMiB: 256, FillMiB: 32}},
		{"memfd", lab.Spec{MemoryMiB: 256, FillMiB: 32, Backing: lab.Memfd, Connect: lab.Session, CPUs: 2}},
		{"hugetlb", lab.Spec{MemoryMiB: 128, Backing: lab.HugeTLB, CPUs: 1, Machine: "i440fx"}},
		{"split", lab.Spec{MemoryMiB: 2816, CPUs: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, d := guestUp(t, tt.spec)
			checkGuest(t, g, d)
		})
	}
}

// checkGuest takes a guest through all that a domain can do.
func checkGuest(t *testing.T, g *lab.Guest, d *Domain) {
	t.Run("list", func(t *testing.T) { checkList(t, g, d) })
	t.Run("pause", func(t *testing.T) { checkPause(t, g, d) })
	t.Run("contracts", func(t *testing.T) { checkContracts(t, g, d) })
	hold, err := d.Pause(t.Context())
	if err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	defer func() {
		if _, err := hold.Release(); err != nil {
			t.Errorf("Release() failed: %v", err)
		}
	}()
	t.Run("footprint", func(t *testing.T) { checkFootprint(t, d) })
	dump := core(t, g)
	t.Run("registers", func(t *testing.T) { checkRegisters(t, d, dump) })
	ref := openMemory(t, dump, hv.MechanismAuto)
	defer ref.Close()
	t.Run("map", func(t *testing.T) { checkMap(t, d, ref) })
	for _, how := range []hv.Mechanism{hv.MechanismDirect, hv.MechanismPeek} {
		t.Run(string(how), func(t *testing.T) {
			o := hvtest.Options{Want: ref, Budget: 64 << 20}
			if how == hv.MechanismPeek {
				o.Budget = 16 << 20
			}
			hvtest.TestMemory(t, func(t *testing.T) hv.Memory { return openMemory(t, d, how) }, o)
		})
	}
}

// checkList: the guest is in the list, and its configuration is what was asked for.
func checkList(t *testing.T, g *lab.Guest, d *Domain) {
	list, err := d.conn.Domains(t.Context())
	if err != nil {
		t.Fatalf("Domains() failed: %v", err)
	}
	id := d.Identity()
	want := hv.DomainInfo{
		Name: g.Name, UUID: id.UUID, ID: id.ID, State: hv.StateRunning,
		Memory: g.Spec.MemoryMiB << 20, CPUs: g.Spec.CPUs,
	}
	if !slices.Contains(list, want) {
		t.Errorf("Domains() = %+v; want %+v among them", list, want)
	}
	for _, ref := range []string{id.UUID, strconv.Itoa(id.ID)} {
		same, err := d.conn.LookupDomain(t.Context(), ref)
		if err != nil || same.Identity() != id {
			t.Errorf("Lookup(%q) = %v, %v; want %v", ref, same, err, id)
		}
	}
	c, err := d.Config(t.Context())
	if err != nil {
		t.Fatalf("Config() failed: %v", err)
	}
	backing := map[lab.Backing]string{lab.Anonymous: "anonymous", lab.Memfd: "memfd", lab.HugeTLB: "hugepages"}[g.Spec.Backing]
	if c.Memory != g.Spec.MemoryMiB<<20 || c.CPUs != g.Spec.CPUs || c.Backing != backing || c.Check() != nil || len(c.Warnings) != 0 {
		t.Errorf("Config() = %+v; want %d MiB, %d processors, %s, no warnings", c, g.Spec.MemoryMiB, g.Spec.CPUs, backing)
	}
}

// checkPause: the processors stand still between Pause and Release, and only then.
func checkPause(t *testing.T, g *lab.Guest, d *Domain) {
	beats := func() []uint64 {
		b, err := g.Heartbeats(t.Context())
		if err != nil {
			t.Fatalf("read heartbeats: %v", err)
		}
		return b
	}
	hold, err := d.Pause(t.Context())
	if err != nil {
		t.Fatalf("Pause() failed: %v", err)
	}
	if s, err := d.State(t.Context()); err != nil || s != hv.StatePaused {
		t.Errorf("State() after Pause() = %v, %v; want %v", s, err, hv.StatePaused)
	}
	before := beats()
	other, err := d.Pause(t.Context())
	if err != nil {
		t.Fatalf("Pause() of the paused guest failed: %v", err)
	}
	if stood, err := other.Release(); stood != 0 || err != nil {
		t.Errorf("Release() of the paused guest = %v, %v; want 0", stood, err)
	}
	if after := beats(); !slices.Equal(before, after) {
		t.Errorf("heartbeats of the paused guest went from %v to %v", before, after)
	}
	stood, err := hold.Release()
	if err != nil || stood <= 0 {
		t.Errorf("Release() = %v, %v; want the time that it stood", stood, err)
	}
	if s, err := d.State(t.Context()); err != nil || s != hv.StateRunning {
		t.Errorf("State() after Release() = %v, %v; want %v", s, err, hv.StateRunning)
	}
	for !moved(before, beats()) {
		if t.Context().Err() != nil {
			t.Fatal("the guest doesn't go on")
		}
	}
}

// checkContracts: the daemon's connections and pauses are as hv has them.
func checkContracts(t *testing.T, g *lab.Guest, d *Domain) {
	hvtest.TestConnection(t, uriOf(g), func(t *testing.T) hv.Connection {
		c, err := Connect(t.Context(), uriOf(g))
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
	hvtest.TestPause(t, func(*testing.T) hv.VM { return d }, hvtest.PauseOptions{})
	hvtest.TestGuard(t, func(t *testing.T) hv.Guardable {
		same, err := d.conn.LookupDomain(t.Context(), g.Name)
		if err != nil {
			t.Fatal(err)
		}
		return same
	})
}

// moved reports whether every processor went on.
func moved(before, after []uint64) bool {
	for i := range before {
		if after[i] == before[i] {
			return false
		}
	}
	return true
}

// checkFootprint: reading all of the guest directly leaves its memory as it was.
func checkFootprint(t *testing.T, d *Domain) {
	m := openMemory(t, d, hv.MechanismDirect)
	defer m.Close()
	before, known, err := m.Populated(t.Context())
	if err != nil || !known {
		t.Fatalf("Populated() = %v, %v; want it known", known, err)
	}
	buf := make([]byte, 4<<20)
	for _, r := range m.RAM() {
		for off := uint64(0); off < r.Size(); off += uint64(len(buf)) {
			b := buf[:min(uint64(len(buf)), r.Size()-off)]
			if err := m.ReadPhys(t.Context(), b, r.Base.Addr()+phys.Addr(off)); err != nil {
				t.Fatalf("ReadPhys failed: %v", err)
			}
		}
	}
	after, _, err := m.Populated(t.Context())
	if err != nil {
		t.Fatalf("Populated() failed: %v", err)
	}
	if grown := after.Minus(before); len(grown) != 0 {
		t.Errorf("reading populated %d pages, the first in %v", grown.Pages(), grown[0])
	}
	t.Logf("%d of %d pages are populated", after.Pages(), m.RAM().Pages())
}

// checkMap holds our RAM map against what QEMU itself dumps: we have nothing that
// QEMU doesn't take for RAM, and all of it but the VGA window and the firmware.
func checkMap(t *testing.T, d *Domain, ref hv.Memory) {
	ram, err := d.RAM(t.Context())
	if err != nil {
		t.Fatalf("RAM() failed: %v", err)
	}
	if extra := ram.Minus(ref.RAM()); len(extra) != 0 {
		t.Errorf("RAM() has %v, which QEMU doesn't dump", extra)
	}
	vga := phys.Runs{{Base: 0xa0, Pages: 0x20}}
	firmware := phys.Runs{{Base: 0xfff00, Pages: 0x100}}
	rest := ref.RAM().Minus(ram).Minus(vga).Minus(firmware)
	if len(rest) != 0 {
		t.Errorf("RAM() lacks %v, which QEMU dumps", rest)
	}
}

// checkRegisters holds the monitor's registers against the core's notes.
func checkRegisters(t *testing.T, d *Domain, dump hv.Source) {
	got, err := d.Registers(t.Context())
	if err != nil {
		t.Fatalf("Registers() failed: %v", err)
	}
	want, err := dump.Registers(t.Context())
	if err != nil {
		t.Fatalf("Registers() of the core failed: %v", err)
	}
	if len(got) != len(want) || len(got) == 0 {
		t.Fatalf("Registers() has %d processors; the core has %d", len(got), len(want))
	}
	for i := range got {
		if diff := hvtest.RegistersDiff(got[i], want[i]); diff != "" {
			t.Errorf("processor %d (-monitor +core):\n%s", i, diff)
		}
	}
}

// TestGuestOff: a domain that is off has a name and a state, and nothing to read.
func TestGuestOff(t *testing.T) {
	labtest.NeedsDaemons(t)
	g, err := lab.Off(t.Context(), lab.Spec{Name: "hv-off"})
	if err != nil {
		t.Fatalf("define the guest: %v", err)
	}
	t.Cleanup(func() {
		if err := g.Down(); err != nil {
			t.Errorf("end the guest: %v", err)
		}
	})
	c, err := Connect(t.Context(), uriOf(g))
	if err != nil {
		t.Fatalf("Connect failed: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	d, err := c.LookupDomain(t.Context(), g.Name)
	if err != nil {
		t.Fatalf("Lookup failed: %v", err)
	}
	if s, err := d.State(t.Context()); err != nil || s != hv.StateOff {
		t.Errorf("State() = %v, %v; want %v", s, err, hv.StateOff)
	}
	if _, err := d.OpenMemory(t.Context(), hv.MechanismAuto); !errors.Is(err, hv.ErrNotRunning) {
		t.Errorf("OpenMemory() = %v; want %v", err, hv.ErrNotRunning)
	}
	if _, err := d.Registers(t.Context()); !errors.Is(err, hv.ErrNotRunning) {
		t.Errorf("Registers() = %v; want %v", err, hv.ErrNotRunning)
	}
	if _, err := d.Pause(t.Context()); !errors.Is(err, hv.ErrNotRunning) {
		t.Errorf("Pause() = %v; want %v", err, hv.ErrNotRunning)
	}
	if _, err := c.LookupDomain(t.Context(), "no-such-guest"); !errors.Is(err, hv.ErrNoDomain) {
		t.Errorf("Lookup of no domain = %v; want %v", err, hv.ErrNoDomain)
	}
}
