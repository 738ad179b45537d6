package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/internal/lab"
)

// stopLimit is --max-pause of dumps that are stopped in the middle, unless an estimate
// needs more.
const stopLimit = 15 * time.Second

// goesOnIn is the promise: so long after the time that was allowed, a guest whose snap
// was stopped runs.
const goesOnIn = 5 * time.Second

// TestStopped: a snap that is stopped while it holds the guest, by whatever means and
// with whatever else of it can be, keeps it for no longer than was allowed. When it
// goes on it says so, and there is no dump.
func TestStopped(t *testing.T) {
	byJob := []string{"--source", "peek"}
	suspended := []string{"--source", "direct", "--spool", "off", "--level", "best"}
	stop := func(roles ...string) func(*testing.T, *soaked, string) (goOn func()) {
		return func(_ *testing.T, r *soaked, _ string) func() { return r.stop(roles...) }
	}
	freeze := func(t *testing.T, _ *soaked, group string) func() {
		set := func(to string) {
			if err := os.WriteFile(filepath.Join(group, "cgroup.freeze"), []byte(to), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		set("1")
		return func() { set("0") }
	}
	for i, tt := range []struct {
		name   string
		flags  []string
		reason string // of the pause, as libvirt has it
		stop   func(t *testing.T, r *soaked, group string) (goOn func())
	}{
		{"snap, held by a job", byJob, "dump", stop()},
		{"all of its processes, held by a job", byJob, "dump", stop(roleGuardian, roleGate)},
		{"its control group, held by a job", byJob, "dump", freeze},
		{"snap, suspended", suspended, "user", stop()},
		{"its control group, suspended", suspended, "user", freeze},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := upHeldWith(t, lab.Spec{Name: "stopped-" + strconv.Itoa(i), MemoryMiB: 64, CPUs: 1, FillMiB: 8, Seed: 51})
			group, limit := ownCgroup(t), g.fittingPause(t, stopLimit, tt.flags...)
			var h stoppedDump
			for range 5 {
				h = g.stopHeld(t, tt.reason, func() *soaked {
					return g.startIn(t, group, append([]string{"--max-pause", limit.String()}, tt.flags...))
				}, func(r *soaked) func() { return tt.stop(t, r, group) })
				defer h.goOn()
				g.untilLetGo(t, h, limit)
				if time.Since(h.stopped) > limit/2 {
					break
				}
				t.Log("snap was stopped when it had told libvirt to let the guest go")
				h.goOn()
				h.wait(t)
				g.wholeOrNone(t)
			}
			mustRun(t, g.Guest)
			h.goOn()
			ended := h.wait(t).want(t, exitTooLong)
			if !strings.Contains(ended.stderr, "let go in snap's stead") || !strings.Contains(ended.stderr, "\nnext: take the dump again when nothing stops snap") {
				t.Errorf("stderr is %q; want that the guest was let go, and what to look for", ended.stderr)
			}
			g.undone(t, hv.StateRunning, time.Now())
		})
	}
}

// untilLetGo waits until the guest of a stopped dump runs.
func (g *heldGuest) untilLetGo(t *testing.T, h stoppedDump, limit time.Duration) {
	t.Helper()
	var machine pace
	for {
		asked := time.Now()
		s, err := g.vm.State(t.Context())
		if s == hv.StateRunning && err == nil {
			return
		}
		if machine.over(asked, h.stopped, limit+goesOnIn) {
			t.Fatalf("the guest is %s (%v) %v after snap was stopped; want running", s, err, asked.Sub(h.stopped))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stoppedDump is a dump that was stopped while it holds the guest.
type stoppedDump struct {
	*soaked
	stopped time.Time
	goOn    func()
}

// stopHeld stops a dump while the guest is held, for the reason that libvirt has for it.
// A dump that has let the guest go before it could be stopped is over soon, and another
// one is begun: one without a gate has, though libvirt may not have come to it yet.
func (g *heldGuest) stopHeld(t *testing.T, reason string, start func() *soaked, stop func(*soaked) (goOn func())) stoppedDump {
	t.Helper()
	for range 5 {
		r := start()
		r.awaitProcess()
		if g.atPause(r) {
			h := stoppedDump{r, time.Now(), stop(r)}
			time.Sleep(time.Second) // what snap has let go already goes on by then
			state := virsh(t, g.Connection, "domstate", "--reason", g.Name)
			held := reason != "dump" || len(r.processes(roleGate)) > 0
			if held && strings.Contains(state, reason) {
				return h
			}
			h.goOn()
			if held && !strings.HasPrefix(state, "running") {
				t.Fatalf("the guest is %s when snap is stopped; want it paused (%s)", state, reason)
			}
		}
		r.wait(t)
		t.Logf("the guest was let go before snap could be stopped: %s", r.stderr.String())
		g.wholeOrNone(t)
	}
	t.Fatal("no dump could be stopped while it held the guest")
	return stoppedDump{}
}

// startIn begins a dump in a control group.
func (g *heldGuest) startIn(t *testing.T, group string, flags []string) *soaked {
	t.Helper()
	r := g.prepareSoaked(t, soakWay{in: asIs, flags: flags})
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	r.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	r.begin(t)
	return r
}

// TestStoppedSnapshot: a snapshot is ended, and QEMU is as before, while snap is
// stopped.
func TestStoppedSnapshot(t *testing.T) {
	t.Parallel()
	userfaultfd(t, true)
	g := upHeldWith(t, lab.Spec{Name: "stopped-snapshot", NewerQEMU: true, MemoryMiB: 512, CPUs: 1, FillMiB: 48, Seed: 52})
	h := g.stopSaving(t)
	defer h.goOn()
	var machine pace
	for {
		asked := time.Now()
		m, err := g.vm.Marker(t.Context())
		if m == nil && err == nil {
			break
		}
		if machine.over(asked, h.stopped, saveLimit+20*time.Second) {
			t.Fatalf("the guest's mark is %+v (%v) %v after snap was stopped; want it undone", m, err, asked.Sub(h.stopped))
		}
		time.Sleep(10 * time.Millisecond)
	}
	snapshotOff(t, g.Guest)
	mustRun(t, g.Guest)
	h.goOn()
	h.wait(t).want(t, exitTooLong)
	g.undone(t, hv.StateRunning, time.Now())
}

// saveLimit is --timeout of a dump by snapshot that is stopped in the middle.
const saveLimit = 20 * time.Second

// stopSaving stops a dump while QEMU saves, as stopHeld does.
func (g *heldGuest) stopSaving(t *testing.T) stoppedDump {
	t.Helper()
	for range 5 {
		r := g.startSoaked(t, soakWay{flags: []string{"--mode", "snapshot", "--source", "auto", "--timeout", saveLimit.String()}})
		r.awaitProcess()
		if g.atSaving(r) {
			h := stoppedDump{r, time.Now(), r.stop()}
			if g.markedFor(hv.ForSnapshot) {
				return h
			}
			h.goOn()
		}
		r.wait(t)
		t.Logf("the snapshot was over before snap could be stopped: %s", r.stderr.String())
		g.wholeOrNone(t)
	}
	t.Fatal("no dump could be stopped while QEMU saved")
	return stoppedDump{}
}

// TestContainers: where snap's files or processes aren't libvirtd's, the guest is held
// all the same, by a job if libvirtd can be shown the pipe, and only the dump has its
// memory.
func TestContainers(t *testing.T) {
	for i, tt := range []struct {
		name   string
		in     surroundings
		reason string
	}{
		{"mount namespace", ownMounts, "dump"},
		{"PID namespace", ownPIDs, "user"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := upHeldWith(t, lab.Spec{Name: "container-" + tt.reason, MemoryMiB: 64, CPUs: 1, FillMiB: 8, Seed: 530 + uint64(i)}) // the memory of each is nowhere else
			found := g.searchMemory(t, "/run", "/var", "/dev")                                                                      // where snap has its own, and libvirt its
			h := g.stopHeld(t, tt.reason, func() *soaked {
				return g.startSoaked(t, soakWay{in: tt.in, flags: []string{"--source", "peek", "--max-pause", longPause.String()}})
			}, func(r *soaked) func() { return r.stop() })
			h.goOn() // it was only to be looked at
			h.wait(t).want(t, exitOK)
			if c := chainsIn(t, g.Guest, filepath.Join(g.folder, "out.dmp.zst")); !c.OnePoint {
				t.Errorf("pages are from different times, up to %d rounds apart", c.Smear)
			}
			g.wholeOrNone(t)
			g.undone(t, hv.StateRunning, time.Now())
			found(t)
			mustRun(t, g.Guest)
		})
	}
}
