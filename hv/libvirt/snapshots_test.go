package libvirt

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"snap/hv"
	"snap/hv/qemu"
	"snap/internal/lab"
	"snap/internal/ntlab/boot"
)

var snapshots = flag.Int("snapshots", 24, "how many snapshots TestSnapshotsInARow takes of one guest")

// hooked is a monitor with something to do once a command has been run.
type hooked struct {
	qemu.Monitor

	command string
	then    func()
}

// QMP implements qemu.Monitor.
func (h hooked) QMP(ctx context.Context, c qemu.Command) (string, error) {
	reply, err := h.Monitor.QMP(ctx, c)
	if c.Name == h.command {
		h.then()
	}
	return reply, err
}

// TestSnapshotsInARow takes many of one guest and leaves QEMU as it was: with a
// /dev/null at its descriptor 0, which QEMU closes when a snapshot fails before it
// has begun, and with no descriptor more than before. Each second one is cancelled,
// in turns as early as it can be and at any moment. (go test -snapshots 500 takes
// 500.)
func TestSnapshotsInARow(t *testing.T) {
	g, d := snapshotGuest(t, lab.Spec{Mode: boot.Paced, MemoryMiB: 1024, CPUs: 1, FillMiB: 16, Seed: 35})
	pid, err := g.PID()
	if err != nil {
		t.Fatal(err)
	}
	open := func() int {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	own := d.qemu
	take := func(ctx context.Context) error {
		s, err := d.Snapshot(ctx, hv.SnapshotOptions{Populated: 64 << 20 >> 12, Room: 1 << 30})
		if err != nil {
			return err
		}
		return s.Close()
	}
	began := time.Now()
	if err := take(t.Context()); err != nil {
		t.Fatal(err)
	}
	takes, before := time.Since(began), open()
	random := rand.New(rand.NewPCG(35, 1))
	ended := map[bool]int{} // by whether they were taken
	for i := range *snapshots {
		ctx, cancel := context.WithCancel(t.Context())
		d.qemu = own
		switch i % 4 {
		case 1:
			d.qemu = qemu.New(hooked{monitor{d}, "migrate", cancel}, qemu.Options{Name: g.Name, UUID: formatUUID(d.dom.UUID)})
		case 3:
			time.AfterFunc(time.Duration(random.Int64N(int64(takes))), cancel)
		}
		err := take(ctx)
		cancel()
		if err != nil && (i%2 == 0 || !errors.Is(err, context.Canceled)) {
			t.Fatalf("snapshot %d: %v", i, err)
		}
		ended[err == nil]++
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/0", pid)); err != nil || to != os.DevNull {
			t.Fatalf("after snapshot %d QEMU's descriptor 0 is %q (%v); want %s", i, to, err, os.DevNull)
		}
	}
	d.qemu = own
	if ended[true] < *snapshots/2 || ended[false] < *snapshots/4 {
		t.Errorf("%d snapshots were taken and %d cancelled; want a half and a quarter of %d at least", ended[true], ended[false], *snapshots)
	}
	if after := open(); after > before+2 {
		t.Errorf("QEMU has %d descriptors open, and had %d before", after, before)
	}
	t.Logf("%d snapshots were taken and %d cancelled", ended[true], ended[false])
	asBefore(t, g, d)
}
