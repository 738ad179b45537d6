package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/internal/lab"
	"snap/internal/lab/labtest"
	"snap/internal/ntlab/boot"
)

// stopped is a guest that was told to stop itself.
type stopped struct {
	*heldGuest
	domstate string // as virsh has it, with the reason
	wentOn   uint64 // what the guest had counted since its bug check when it stood still
}

// upStopped starts a guest and has it stop itself, which libvirt says in the given
// words.
func upStopped(t *testing.T, s lab.Spec, o boot.Order, domstate string) *stopped {
	t.Helper()
	s.MemoryMiB, s.CPUs, s.FillMiB = 128, 2, 16
	g := &stopped{heldGuest: upHeldWith(t, s), domstate: domstate}
	mustRun(t, g.Guest)
	if err := g.Order(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	for virsh(t, g.Connection, "domstate", "--reason", g.Name) != domstate {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatalf("the guest is %s; want %s", virsh(t, g.Connection, "domstate", "--reason", g.Name), domstate)
		}
	}
	var err error
	if g.wentOn, err = g.Qword(t.Context(), g.Boot.WentOn); err != nil {
		t.Fatal(err)
	}
	return g
}

// same demands that the guest is as it was: in its state, with its reason, and QEMU's
// own word for it.
func (g *stopped) same(t *testing.T, when string) {
	t.Helper()
	if got := virsh(t, g.Connection, "domstate", "--reason", g.Name); got != g.domstate {
		t.Errorf("%s the guest is %q; want %q", when, got, g.domstate)
	}
	if got := virsh(t, g.Connection, "qemu-monitor-command", g.Name, `{"execute":"query-status"}`); !strings.Contains(got, `"running":false`) {
		t.Errorf("%s QEMU says %s; want a guest that doesn't run", when, got)
	}
	if n, err := g.Qword(t.Context(), g.Boot.WentOn); n != g.wentOn || err != nil {
		t.Errorf("%s the guest has gone on: it counted %d (%v); want %d", when, n, err, g.wentOn)
	}
	if left := g.left(t, hv.State("")); len(left) > 1 { // the state itself differs
		t.Errorf("%s there is left %q; want nothing", when, left[1:])
	}
}

// dumpSummary is what snap dump --json says.
type dumpSummary struct {
	State      string
	Mode       string
	Consistent bool
	PauseMS    float64 `json:"pause_ms"`
	Pages      struct {
		Unreadable uint64
		Changed    uint64 `json:"changed_while_reading"`
	}
	Verify   struct{ OK bool }
	Warnings []string
}

// take takes a dump, and returns what is said of it and its path.
func (g *stopped) take(t *testing.T, flags ...string) (dumpSummary, string) {
	t.Helper()
	path := filepath.Join(g.Dir(), "stopped.dmp")
	args := append([]string{g.Name, "--json", "--force", "--compress", "none", "-o", path}, flags...)
	r := runSnap(t, g.Connection, "dump", args...).want(t, exitOK)
	var sum dumpSummary
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
		t.Fatalf("summary: %v\n%s", err, r.stdout)
	}
	if !sum.Verify.OK || sum.Pages.Unreadable != 0 || len(sum.Warnings) != 0 {
		t.Errorf("dump with %q: verified %t, %d pages unreadable, warnings %q", flags, sum.Verify.OK, sum.Pages.Unreadable, sum.Warnings)
	}
	return sum, path
}

// TestCrashedGuest has a guest panic that is preserved, takes dumps of it in every
// mode, by both sources, and by a snap that is killed, and demands that it stays what
// it is and that the dumps tell its bug check.
func TestCrashedGuest(t *testing.T) {
	t.Parallel()
	g := upStopped(t, lab.Spec{Name: "crashed", Preserve: true, Seed: 41}, boot.OrderPanic, "crashed (panicked)")
	g.same(t, "before")
	before := takeCore(t, g.Guest, "before.elf")
	for _, flags := range [][]string{
		{"--mode", "pause"}, {"--mode", "live"}, {"--mode", "auto", "--source", "peek"}, {"--mode", "snapshot", "--spool", "off"},
	} {
		sum, path := g.take(t, flags...)
		if sum.State != "crashed" || !sum.Consistent || sum.PauseMS != 0 || sum.Pages.Changed != 0 {
			t.Errorf("dump with %q is %+v; want one of one point in time, of a crashed guest", flags, sum)
		}
		comparePages(t, g.Guest, before, path)
		g.keepsBugCheck(t, path)
		g.same(t, fmt.Sprintf("after a dump with %q", flags))
		if err := errors.Join(os.Remove(path), os.Remove(path+".json")); err != nil {
			t.Fatal(err)
		}
	}
	sameMemory(t, before, takeCore(t, g.Guest, "after.elf"))
	g.survivesKill(t)
	if r := runSnap(t, g.Connection, "list").want(t, exitOK); !strings.Contains(r.stdout, "crashed") || !strings.Contains(r.stdout, "pause, live") {
		t.Errorf("snap list says\n%s; want a crashed guest that modes pause and live work on", r.stdout)
	}
	r := runSnap(t, g.Connection, "check", g.Name).want(t, exitOK)
	if !strings.Contains(r.stdout, "stands still already") || !strings.Contains(r.stdout, "has crashed") || strings.Contains(r.stdout, "start") {
		t.Errorf("snap check says\n%s; want that it has crashed and stands still", r.stdout)
	}
	g.same(t, "in the end")
	g.isNeverResumed(t)
}

// isNeverResumed undoes dumps that are made out to have died before they had the guest
// suspended, which then crashed and was suspended: it must not go on.
func (g *stopped) isNeverResumed(t *testing.T) {
	t.Helper()
	virsh(t, g.Connection, "suspend", g.Name)
	mark := `<hold run="0123456789abcdef" host="h" boot="b" pid="1" start="1" since="2026-11-25T00:00:00Z" was="running" why="%s"/>`
	for _, why := range []hv.Reason{hv.ForPause, hv.ForJob, hv.ForSnapshot} {
		virsh(t, g.Connection, "metadata", g.Name, "--live", "--uri", "urn:snap:hold:1", "--key", "snap", "--set", fmt.Sprintf(mark, why))
		m, err := g.vm.Marker(t.Context())
		if err != nil || m == nil || m.Why != why {
			t.Fatalf("Marker() = %+v, %v; want one of %s", m, err, why)
		}
		if did, err := g.vm.Undo(t.Context(), hv.Left{Run: m.Run, Why: why}); err != nil && !errors.Is(err, hv.ErrDisturbed) {
			t.Errorf("Undo() of a %s = %q, %v; want the guest to be left", why, did, err)
		}
		if err := g.vm.ClearMarker(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.same(t, fmt.Sprintf("after the undoing of a %s", why))
	}
	if sum, path := g.take(t); sum.State != "crashed" || !sum.Consistent {
		t.Errorf("dump of a crashed guest that was suspended is %+v; want one of one point in time", sum)
	} else {
		g.keepsBugCheck(t, path)
	}
	g.same(t, "after its dump")
}

// keepsBugCheck demands what the guest left in KiBugCheckData, and of its processors,
// of a plain dump, and of what snap info says.
func (g *stopped) keepsBugCheck(t *testing.T, path string) {
	t.Helper()
	keepsCrash(t, openDump(t, path), g.Image, g.Image.Crash(lab.BugCheck))
	r := runSnap(t, g.Connection, "info", path, "--json").want(t, exitOK)
	if !bytes.Contains([]byte(r.stdout), []byte(`"0xd1"`)) {
		t.Errorf("snap info says\n%s; want bug check 0xd1", r.stdout)
	}
}

// survivesKill kills snap while it reads the guest slowly: its guardian has a file to
// remove, and a guest to leave alone.
func (g *stopped) survivesKill(t *testing.T) {
	t.Helper()
	for _, mode := range []string{"pause", "live"} {
		r := g.start(t, "--mode", mode, "--spool", "off")
		g.untilWriting(t, r)
		r.kill()
		killed := time.Now()
		g.undone(t, hv.StateCrashed, killed)
		g.same(t, "after a dump that was killed")
	}
	r := runSnap(t, g.Connection, "recover", g.Name).want(t, exitOK)
	if !strings.Contains(r.stdout, "nothing to undo") {
		t.Errorf("snap recover says %q; want that there is nothing", r.stdout)
	}
	g.same(t, "after snap recover")
}

// TestStoppedByItself has guests stop in other ways: each is dumped as it stands and
// stays so. libvirt doesn't know of a panic that came while it was away.
func TestStoppedByItself(t *testing.T) {
	t.Parallel()
	labtest.NeedsDaemons(t)
	tests := []struct {
		spec     lab.Spec
		order    boot.Order
		domstate string
		state    hv.State
	}{
		{lab.Spec{Name: "watchdog", Watchdog: true, Seed: 42}, boot.OrderHang, "paused (watchdog)", hv.StateWatchdog},
		{lab.Spec{Name: "ioerror", Machine: "i440fx", Seed: 43}, boot.OrderWrite, "paused (I/O error)", hv.StateIOError},
	}
	for _, tt := range tests {
		t.Run(tt.spec.Name, func(t *testing.T) {
			t.Parallel()
			if tt.order == boot.OrderWrite {
				tt.spec.Disk = fullDisk(t)
			}
			g := upStopped(t, tt.spec, tt.order, tt.domstate)
			for _, mode := range []string{"auto", "live"} {
				sum, _ := g.take(t, "--mode", mode)
				if sum.State != string(tt.state) || !sum.Consistent || sum.PauseMS != 0 {
					t.Errorf("dump in mode %s is %+v; want one of one point in time, of a guest %s", mode, sum, tt.state)
				}
				g.same(t, "after a dump in mode "+mode)
			}
			r := runSnap(t, g.Connection, "check", g.Name).want(t, exitOK)
			if want := string(tt.state); !strings.Contains(r.stdout, want) || !strings.Contains(r.stdout, g.Name) {
				t.Errorf("snap check says\n%s; want %s", r.stdout, want)
			}
			g.same(t, "in the end")
		})
	}
}

// fullDisk makes a disk that has no room for what is written to it, as on a file
// system that is full.
func fullDisk(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib/snap-lab", "full-")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=755"), os.Chmod(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	disk := filepath.Join(dir, "disk.raw")
	if err := errors.Join(os.WriteFile(disk, nil, 0o666), os.Chmod(disk, 0o666), os.Truncate(disk, 1<<20)); err != nil {
		t.Fatal(err)
	}
	err = os.WriteFile(filepath.Join(dir, "all-else"), make([]byte, 1<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill a file system: %v; want %v", err, unix.ENOSPC)
	}
	return disk
}

// TestAsleep: a guest that sleeps (S3) is only dumped in mode live, and others are
// told how to wake it. It isn't woken.
func TestAsleep(t *testing.T) {
	t.Parallel()
	g := upStopped(t, lab.Spec{Name: "asleep", Seed: 44}, boot.OrderSleep, "pmsuspended (unknown)")
	for _, mode := range []string{"auto", "pause", "snapshot"} {
		path := filepath.Join(g.Dir(), "none.dmp")
		r := runSnap(t, g.Connection, "dump", g.Name, "--mode", mode, "-o", path).want(t, exitUnsupported)
		if !strings.Contains(r.stderr, "--mode live") || !strings.Contains(r.stderr, "dompmwakeup "+g.Name) || strings.Contains(r.stderr, " start ") {
			t.Errorf("stderr of mode %s is %q; want how to wake it, and mode live", mode, r.stderr)
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("mode %s wrote %s", mode, path)
		}
		g.same(t, "after mode "+mode)
	}
	sum, _ := g.take(t, "--mode", "live")
	if sum.State != string(hv.StateAsleep) || sum.Consistent || sum.Mode != "live" {
		t.Errorf("dump in mode live is %+v; want one that promises nothing", sum)
	}
	g.same(t, "in the end")
}
