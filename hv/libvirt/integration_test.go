package libvirt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"snap/hv"
	"snap/hv/file"
	"snap/hv/hvtest"
	"snap/internal/lab"
)

// upTimeout bounds the start of a guest under TCG on a busy machine.
const upTimeout = 3 * time.Minute

// guestUp starts a lab guest and looks it up.
func guestUp(t *testing.T, s lab.Spec) (*lab.Guest, *Domain) {
	t.Helper()
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
	c, err := Connect(t.Context(), uriOf(g))
	if err != nil {
		t.Fatalf("Connect(%q) failed: %v", uriOf(g), err)
	}
	t.Cleanup(func() { _ = c.Close() })
	d, err := c.Lookup(t.Context(), g.Name)
	if err != nil {
		t.Fatalf("Lookup(%q) failed: %v", g.Name, err)
	}
	return g, d
}

// uriOf names the daemon by its socket where it is another user's.
func uriOf(g *lab.Guest) string {
	if g.User == nil {
		return g.URI
	}
	return fmt.Sprintf("qemu+unix:///%s?socket=%s", g.Kind, g.Socket)
}

// core takes an ELF core of the guest with libvirt's own means.
func core(t *testing.T, g *lab.Guest) hv.Source {
	t.Helper()
	path := filepath.Join(g.Dir(), "core")
	if _, err := g.Virsh(t.Context(), "dump", "--memory-only", g.Name, path); err != nil {
		t.Fatalf("virsh dump failed: %v", err)
	}
	src, err := file.OpenELFCore(path)
	if err != nil {
		t.Fatalf("OpenELFCore of virsh's dump failed: %v", err)
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

func TestMemoryOfAGuest(t *testing.T) {
	tests := []struct {
		name string
		spec lab.Spec
	}{
		{"anonymous", lab.Spec{MemoryMiB: 256, FillMiB: 32}},
		{"memfd", lab.Spec{MemoryMiB: 256, FillMiB: 32, Backing: lab.Memfd}},
		{"i440fx", lab.Spec{MemoryMiB: 4096, FillMiB: 32, Machine: "i440fx", CPUs: 2}},
		{"session", lab.Spec{MemoryMiB: 256, FillMiB: 32, Connect: lab.Session}},
		{"hugetlb", lab.Spec{MemoryMiB: 128, Backing: lab.HugeTLB, CPUs: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, d := guestUp(t, tt.spec)
			hold, err := d.Pause(t.Context())
			if err != nil {
				t.Fatalf("Pause() failed: %v", err)
			}
			dump := core(t, g)
			ref := openMemory(t, dump, hv.MechanismAuto)
			defer ref.Close()
			for _, how := range []hv.Mechanism{hv.MechanismDirect, hv.MechanismPeek} {
				t.Run(string(how), func(t *testing.T) {
					o := hvtest.Options{Want: ref}
					if how == hv.MechanismPeek {
						o.Budget = 32 << 20
					}
					hvtest.TestMemory(t, func(t *testing.T) hv.Memory { return openMemory(t, d, how) }, o)
				})
			}
			compareMaps(t, d, ref)
			compareRegisters(t, d, dump)
			if _, err := hold.Release(); err != nil {
				t.Errorf("Release() failed: %v", err)
			}
		})
	}
}

// compareMaps holds our RAM map against what QEMU itself dumps: nothing that
// QEMU doesn't take for RAM, and what is missing lies below 1 MiB or is firmware.
func compareMaps(t *testing.T, d *Domain, ref hv.Memory) {
	t.Helper()
	ram, err := d.RAM(t.Context())
	if err != nil {
		t.Fatalf("RAM() failed: %v", err)
	}
	if extra := ram.Minus(ref.RAM()); len(extra) != 0 {
		t.Errorf("RAM() has %v, which QEMU doesn't dump", extra)
	}
	t.Logf("QEMU dumps %v beyond RAM()", ref.RAM().Minus(ram))
}

func compareRegisters(t *testing.T, d *Domain, dump hv.Source) {
	t.Helper()
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
		if diff := registersDiff(got[i], want[i]); diff != "" {
			t.Errorf("processor %d (-monitor +core):\n%s", i, diff)
		}
	}
}
