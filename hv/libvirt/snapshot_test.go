package libvirt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"snap/hv"
	"snap/hv/hvtest"
	"snap/hv/qemu"
	"snap/internal/lab"
	"snap/internal/lab/labtest"
	"snap/internal/ntlab/boot"
	"snap/phys"
)

// snapshotGuest starts a guest that snapshots can be taken of.
func snapshotGuest(t *testing.T, s lab.Spec) (*lab.Guest, *Domain) {
	t.Helper()
	labtest.NeedsDaemons(t)
	release, err := lab.Userfaultfd(true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	})
	s.NewerQEMU = true
	return guestUp(t, s)
}

// asBefore demands that nothing of a snapshot is left and that the guest runs.
func asBefore(t *testing.T, g *lab.Guest, d *Domain) {
	t.Helper()
	var caps struct {
		Return []struct {
			Capability string
			State      bool
		}
	}
	decode(t, tell(t, d, `{"execute":"query-migrate-capabilities"}`), &caps)
	known, on := false, false
	for _, c := range caps.Return {
		if c.Capability == "background-snapshot" {
			known, on = true, c.State
		}
	}
	if !known || on {
		t.Errorf("the capability: known=%v, on=%v; want it off", known, on)
	}
	var m struct{ Return struct{ Status string } }
	decode(t, tell(t, d, `{"execute":"query-migrate"}`), &m)
	if !slices.Contains([]string{"", "none", "completed", "failed", "cancelled"}, m.Return.Status) {
		t.Errorf("the migration is %q; want it over", m.Return.Status)
	}
	if closed := tell(t, d, `{"execute":"closefd","arguments":{"fdname":"snap-snapshot"}}`); !strings.Contains(closed, "not found") {
		t.Errorf("closing the descriptor gives %s; want that it is closed", closed)
	}
	if s, err := d.State(t.Context()); err != nil || s != hv.StateRunning {
		t.Errorf("the guest is %s (%v); want running", s, err)
	}
	before, err := g.Heartbeats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for {
		now, err := g.Heartbeats(t.Context())
		if err != nil {
			t.Fatalf("wait for all processors: %v", err)
		}
		if moved(before, now) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// tell runs a QMP command and returns QEMU's reply.
func tell(t *testing.T, d *Domain, command string) string {
	t.Helper()
	reply, err := monitor{d}.QMP(t.Context(), qemu.Command{Name: "a test's", JSON: command})
	if err != nil {
		t.Fatalf("%s failed: %v", command, err)
	}
	return reply
}

func decode(t *testing.T, reply string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(reply), v); err != nil {
		t.Fatalf("decode %q: %v", reply, err)
	}
}

// TestSnapshot holds a snapshot of a guest that writes nothing against the same
// guest's memory and registers as they are read otherwise.
func TestSnapshot(t *testing.T) {
	for _, spec := range []lab.Spec{
		{Mode: boot.Idle, MemoryMiB: 256, CPUs: 2, FillMiB: 64, Seed: 31},
		{Mode: boot.Idle, MemoryMiB: 128, CPUs: 1, FillMiB: 16, Seed: 32, Machine: "i440fx", Profile: "ws2003sp1-x64"},
		{Mode: boot.Idle, MemoryMiB: 3072, CPUs: 1, FillMiB: 16, Seed: 33}, // some of it lies above 4 GiB
	} {
		t.Run(fmt.Sprint(spec.Seed), func(t *testing.T) {
			_, d := snapshotGuest(t, spec)
			direct := openMemory(t, d, hv.MechanismDirect)
			before, err := d.Registers(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			set, _, err := direct.Populated(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var saved, of uint64
			s, err := d.Snapshot(t.Context(), hv.SnapshotOptions{
				Populated: set.Pages(), Room: 8 << 30, Progress: func(done, total uint64) { saved, of = done, total },
			})
			if err != nil {
				t.Fatal(err)
			}
			if saved > of || of != 0 && of < spec.MemoryMiB<<20 {
				t.Errorf("progress went to %d of %d bytes; want of %d at least", saved, of, spec.MemoryMiB<<20)
			}
			if spec.MemoryMiB < 1024 { // the suite takes many
				suite(t, d, set.Pages(), direct)
			}
			sameAsRead(t, s, direct)
			if diff := cmp.Diff(before, withoutHidden(s.Registers())); diff != "" {
				t.Errorf("registers of the monitor (-) and of the snapshot (+):\n%s", diff)
			}
			if s.Downtime() <= 0 || s.Mechanism() != "background-snapshot" {
				t.Errorf("downtime is %v, mechanism %q", s.Downtime(), s.Mechanism())
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if err := s.ReadPhys(t.Context(), make([]byte, 8), 0x1000); err == nil {
				t.Error("a snapshot that is closed can be read")
			}
		})
	}
}

// suite runs what every source of memory must do.
func suite(t *testing.T, d *Domain, populated uint64, want hv.Memory) {
	t.Helper()
	hvtest.TestMemory(t, func(t *testing.T) hv.Memory {
		t.Helper()
		s, err := d.Snapshot(t.Context(), hv.SnapshotOptions{Populated: populated, Room: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}, hvtest.Options{Want: want})
}

// withoutHidden leaves out what the monitor doesn't show.
func withoutHidden(cpus []phys.Registers) []phys.Registers {
	for i := range cpus {
		r := &cpus[i]
		r.HasKernelGSBase, r.KernelGSBase, r.HasLSTAR, r.LSTAR = false, 0, false, 0
	}
	return cpus
}

// sameAsRead compares all pages.
func sameAsRead(t *testing.T, got, want hv.Memory) {
	t.Helper()
	const chunk = 1 << 20
	a, b := make([]byte, chunk), make([]byte, chunk)
	differ := 0
	for _, r := range want.RAM() {
		for at, end := r.Base.Addr(), r.End().Addr(); at < end; at += chunk {
			n := min(chunk, uint64(end-at))
			if err := errors.Join(got.ReadPhys(t.Context(), a[:n], at), want.ReadPhys(t.Context(), b[:n], at)); err != nil {
				t.Fatal(err)
			}
			for o := uint64(0); o < n; o += phys.PageSize {
				if !bytes.Equal(a[o:o+phys.PageSize], b[o:o+phys.PageSize]) {
					if differ++; differ == 1 {
						t.Errorf("page at %#x differs", uint64(at)+o)
					}
				}
			}
		}
	}
	if differ > 0 {
		t.Errorf("%d pages differ", differ)
	}
}

// TestSnapshotFails: QEMU that can't go on saving lets the guest go on, and so
// does one that is told to stop; a snapshot can be taken afterwards.
func TestSnapshotFails(t *testing.T) {
	g, d := snapshotGuest(t, lab.Spec{Mode: boot.Busy, MemoryMiB: 256, CPUs: 2, FillMiB: 64, Seed: 34})
	direct := openMemory(t, d, hv.MechanismDirect)
	set, _, err := direct.Populated(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	populated := set.Pages()

	t.Run("no room", func(t *testing.T) {
		// So much as it takes if all of the guest were empty.
		room, err := d.SnapshotSize(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := d.Snapshot(t.Context(), hv.SnapshotOptions{Room: room}); err == nil {
			s.Close()
			t.Errorf("a snapshot of %d pages went into %d bytes", populated, room)
		} else if !strings.Contains(err.Error(), "QEMU gave up") {
			t.Errorf("Snapshot(too little room) = %v; want that QEMU gave up", err)
		}
		asBefore(t, g, d)
	})
	t.Run("too large", func(t *testing.T) {
		_, err := d.Snapshot(t.Context(), hv.SnapshotOptions{Populated: populated, Room: 64 << 20})
		if !errors.Is(err, hv.ErrUnsupported) {
			t.Errorf("Snapshot(64 MiB of room) = %v; want hv.ErrUnsupported", err)
		}
		asBefore(t, g, d)
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := d.Snapshot(ctx, hv.SnapshotOptions{Populated: populated, Room: 1 << 30, Progress: func(uint64, uint64) { cancel() }})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Snapshot(cancelled) = %v; want context.Canceled", err)
		}
		asBefore(t, g, d)
	})
	t.Run("cancelled by somebody else", func(t *testing.T) {
		_, err := d.Snapshot(t.Context(), hv.SnapshotOptions{Populated: populated, Room: 1 << 30, Progress: func(uint64, uint64) {
			tell(t, d, `{"execute":"migrate_cancel"}`)
		}})
		if !errors.Is(err, hv.ErrDisturbed) {
			t.Errorf("Snapshot(cancelled by somebody else) = %v; want hv.ErrDisturbed", err)
		}
		asBefore(t, g, d)
	})
	t.Run("operator pauses", func(t *testing.T) {
		paused := false
		s, err := d.Snapshot(t.Context(), hv.SnapshotOptions{Populated: populated, Room: 1 << 30, Progress: func(uint64, uint64) {
			if !paused {
				_, err := g.Virsh(t.Context(), "suspend", g.Name)
				paused = err == nil
			}
		}})
		if err != nil || !paused {
			t.Fatalf("Snapshot(while somebody pauses the guest) = %v, paused=%v", err, paused)
		}
		defer s.Close()
		if now, err := d.State(t.Context()); err != nil || now != hv.StatePaused {
			t.Errorf("the guest is %s (%v); want paused, as the operator left it", now, err)
		}
		onePoint(t, g, s)
		if _, err := g.Virsh(t.Context(), "resume", g.Name); err != nil {
			t.Fatal(err)
		}
		asBefore(t, g, d)
	})
	t.Run("again", func(t *testing.T) {
		s, err := d.Snapshot(t.Context(), hv.SnapshotOptions{Populated: populated, Room: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		onePoint(t, g, s)
		asBefore(t, g, d)
	})
}

// onePoint demands that the guest's chains are of one moment.
func onePoint(t *testing.T, g *lab.Guest, mem phys.Reader) {
	t.Helper()
	c, err := boot.CheckChains(t.Context(), mem, g.Boot.Chains)
	if err != nil {
		t.Fatal(err)
	}
	if !c.OnePoint {
		t.Errorf("pages are from different times, up to %d rounds apart", c.Smear)
	}
}
