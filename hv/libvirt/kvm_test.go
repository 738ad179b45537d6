package libvirt

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"snap/hv"
	"snap/internal/lab"
	"snap/internal/lab/labtest"
	"snap/internal/ntlab/boot"
	"snap/phys"
)

// TestUnderKVM takes a guest under KVM, where that works, through all that a domain
// can do. Its QEMU takes snapshots, too. It starts beside other tests: slowly.
func TestUnderKVM(t *testing.T) {
	labtest.NeedsDaemons(t)
	wait := lab.UpBeside(t.Context(), lab.Spec{
		Name: "hv-kvm", Accel: lab.WhereKVM, NewerQEMU: true, Mode: boot.Busy, MemoryMiB: 64, CPUs: 2, FillMiB: 2, Seed: 53,
	})
	t.Cleanup(func() {
		if g, err := wait(); err == nil {
			if err := g.Down(); err != nil {
				t.Errorf("end the guest: %v", err)
			}
		}
	})
	t.Parallel()
	g, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("accelerator: %s", g.Spec.Accel)
	d := lookedUp(t, g)
	var kvm struct{ Return struct{ Enabled bool } }
	if decode(t, tell(t, d, `{"execute":"query-kvm"}`), &kvm); kvm.Return.Enabled != (g.Spec.Accel == lab.KVM) {
		t.Errorf("QEMU says that KVM runs the guest: %v; want the accelerator %s", kvm.Return.Enabled, g.Spec.Accel)
	}
	checkGuest(t, g, d)
	t.Run("all registers", func(t *testing.T) { checkAgainstImage(t, g, d) })
	t.Run("snapshot", func(t *testing.T) { checkSnapshot(t, g, d) })
}

// lasting is what a processor of the lab keeps from its start on. Of CR4 it has what
// its model allows.
type lasting struct {
	EFER, CR0, CR3      uint64
	KernelGSBase, LSTAR uint64
	GS, TR              uint64 // their bases
	DR                  [8]uint64
	FPU                 phys.FPU
}

func lastingOf(r phys.Registers) lasting {
	return lasting{r.EFER, r.CR0, uint64(r.PageTableRoot()), r.KernelGSBase, r.LSTAR, r.GS.Base, r.TR.Base, r.DR, r.FPU}
}

// checkAgainstImage holds the registers against those that the guest was started
// with: x87, SSE and debug registers and EFER, which no core of QEMU's has, are among
// them.
func checkAgainstImage(t *testing.T, g *lab.Guest, d *Domain) {
	got, err := d.Registers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := g.Image.Registers()
	if len(got) != len(want) {
		t.Fatalf("Registers() has %d processors; want %d", len(got), len(want))
	}
	for i, r := range got {
		if !r.HasEFER || !r.HasFPU || !r.HasDebug {
			t.Errorf("processor %d: EFER %v, FPU %v, debug registers %v; want all of them", i, r.HasEFER, r.HasFPU, r.HasDebug)
		}
		if top := want[i].FPU.FSW >> 11 & 7; top == 0 {
			t.Fatalf("processor %d was started with ST0 in register 0; the test needs another seed", i)
		}
		w := lastingOf(want[i])
		w.KernelGSBase, w.LSTAR = 0, 0 // the monitor shows neither
		if diff := cmp.Diff(w, lastingOf(r)); diff != "" {
			t.Errorf("processor %d (-image +monitor):\n%s", i, diff)
		}
	}
}

// checkSnapshot takes a snapshot of the guest while it writes: it is of one moment,
// its registers are the guest's, MSRs among them, and QEMU is as before.
func checkSnapshot(t *testing.T, g *lab.Guest, d *Domain) {
	release, err := lab.Userfaultfd(true)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := release(); err != nil {
			t.Error(err)
		}
	}()
	for range 3 {
		s, err := d.Snapshot(t.Context(), hv.SnapshotOptions{Populated: g.Spec.MemoryMiB << 20 / phys.PageSize, Room: 1 << 30})
		if err != nil {
			t.Fatal(err)
		}
		onePoint(t, g, s)
		for i, r := range s.Registers() {
			if diff := cmp.Diff(lastingOf(g.Image.Registers()[i]), lastingOf(r)); diff != "" {
				t.Errorf("processor %d (-image +snapshot):\n%s", i, diff)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		asBefore(t, g, d)
	}
}
