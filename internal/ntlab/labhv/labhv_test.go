package labhv_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"snap/hv"
	"snap/hv/file"
	"snap/hv/hvtest"
	"snap/internal/ntlab/labhv"
	"snap/phys"
)

func TestEveryGuestOpens(t *testing.T) {
	all := labhv.List()
	names := map[string]bool{}
	for _, g := range all {
		names[g.Name] = true
		vm, err := labhv.Open(g.Name)
		if err != nil {
			t.Errorf("Open(%q): %v", g.Name, err)
			continue
		}
		if got := vm.Identity().Name; got != g.Name {
			t.Errorf("Identity().Name = %q; want %q", got, g.Name)
		}
		regs, err := vm.Registers(t.Context())
		if err != nil || len(regs) != g.CPUs {
			t.Errorf("%s: Registers() = %d, %v; want %d", g.Name, len(regs), err, g.CPUs)
		}
		if got := vm.Image().RAM().Pages() << phys.PageShift; got > g.Memory || got < g.Memory-1<<20 {
			t.Errorf("%s: %d bytes of RAM; want %d less the VGA hole", g.Name, got, g.Memory)
		}
	}
	for _, want := range []string{"win10-22h2", "win10-22h2-plain", "win10-22h2-kpti", "ws2003sp1-x64", "not-windows"} {
		if !names[want] {
			t.Errorf("List() has no %q", want)
		}
	}
	if names["ws2003sp1-x64-kpti"] {
		t.Error("List() has a Server 2003 with KVA shadow")
	}
}

func TestOpenUnknown(t *testing.T) {
	if _, err := labhv.Open("nobody"); !errors.Is(err, hv.ErrNoDomain) {
		t.Errorf("Open(nobody) = %v; want hv.ErrNoDomain", err)
	}
}

func open(t *testing.T) *labhv.VM {
	t.Helper()
	vm, err := labhv.Open("win10-22h2")
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func state(t *testing.T, vm hv.VM) hv.State {
	t.Helper()
	s, err := vm.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPauseIsUndoneOnce(t *testing.T) {
	vm := open(t)
	pause := func() hv.Hold {
		h, err := vm.Pause(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	outer := pause()
	inner := pause()
	if d, err := inner.Release(); d != 0 || err != nil {
		t.Errorf("Release of a guest that was paused already = %v, %v; want 0", d, err)
	}
	if got := state(t, vm); got != hv.StatePaused {
		t.Errorf("after the inner Release it is %s; want it paused still", got)
	}
	first, err := outer.Release()
	if err != nil || first <= 0 {
		t.Errorf("Release = %v, %v; want how long it stood", first, err)
	}
	again := pause()
	if second, _ := outer.Release(); second != first {
		t.Errorf("second Release = %v; want the first one's %v", second, first)
	}
	if got := state(t, vm); got != hv.StatePaused {
		t.Errorf("a late Release of another hold resumed the guest: %s", got)
	}
	if _, err := again.Release(); err != nil {
		t.Error(err)
	}
	if got := state(t, vm); got != hv.StateRunning {
		t.Errorf("after Release it is %s; want it running", got)
	}
}

// TestContracts: a built-in guest does what every guest does.
func TestContracts(t *testing.T) {
	vm := open(t)
	core := filepath.Join(t.TempDir(), "core")
	f, err := os.Create(core)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(vm.Image().WriteELFCore(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	src, err := file.Open(t.Context(), core, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	want, err := src.OpenMemory(t.Context(), hv.MechanismAuto)
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	for _, m := range []hv.Mechanism{hv.MechanismDirect, hv.MechanismPeek} { // auto is one of them
		t.Run("memory by "+string(m), func(t *testing.T) {
			hvtest.TestMemory(t, func(t *testing.T) hv.Memory {
				mem, err := vm.OpenMemory(t.Context(), m)
				if err != nil {
					t.Fatal(err)
				}
				return mem
			}, hvtest.Options{Want: want})
		})
	}
	t.Run("pause", func(t *testing.T) {
		hvtest.TestPause(t, func(t *testing.T) hv.VM { return open(t) }, hvtest.PauseOptions{})
	})
	t.Run("connection", func(t *testing.T) {
		hvtest.TestConnection(t, labhv.URI, func(t *testing.T) hv.Connection {
			c, err := labhv.Driver().Connect(t.Context(), labhv.URI)
			if err != nil {
				t.Fatal(err)
			}
			return c
		})
	})
}

func TestMemory(t *testing.T) {
	vm := open(t)
	for _, m := range []hv.Mechanism{hv.MechanismAuto, hv.MechanismDirect, hv.MechanismPeek} {
		mem, err := vm.OpenMemory(t.Context(), m)
		if err != nil {
			t.Fatalf("OpenMemory(%s): %v", m, err)
		}
		set, known, err := mem.Populated(t.Context())
		if err != nil || known != (m != hv.MechanismPeek) {
			t.Errorf("%s: Populated() known = %v, %v", m, known, err)
		}
		zero := make([]byte, phys.PageSize)
		page := make([]byte, phys.PageSize)
		for _, r := range mem.RAM().Minus(set) {
			for _, p := range []phys.PFN{r.Base, r.End() - 1} {
				if err := mem.ReadPhys(t.Context(), page, p.Addr()); err != nil || !bytes.Equal(page, zero) {
					t.Fatalf("%s: page %#x outside of Populated isn't zero (%v)", m, p, err)
				}
			}
		}
		if err := mem.ReadPhys(t.Context(), page, 0xA0000); !errors.Is(err, phys.ErrNotRAM) {
			t.Errorf("%s: read in the VGA hole = %v; want ErrNotRAM", m, err)
		}
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
		if err := mem.ReadPhys(t.Context(), page, 0x1000); err == nil {
			t.Errorf("%s: a read after Close succeeded", m)
		}
	}
	if _, err := vm.OpenMemory(t.Context(), "telepathy"); !errors.Is(err, hv.ErrUnsupported) {
		t.Errorf("OpenMemory(telepathy) = %v; want hv.ErrUnsupported", err)
	}
}
