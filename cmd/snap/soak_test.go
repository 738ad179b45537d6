package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/internal/lab"
)

// soakKills is how many dumps TestSoak kills; make soak has more of them killed.
var soakKills = flag.Int("soak", 60, "how many dumps TestSoak kills, or stops")

// soakPause is --max-pause in a soak: a guest whose snap was stopped runs soon after.
const soakPause = 10 * time.Second

// soakWay is a way to take a dump, and when it is killed.
type soakWay struct {
	name  string
	in    surroundings
	flags []string
	// until waits for when to kill it, soon after, and is false if the dump ended
	// before; nil is at any moment.
	until func(*heldGuest, *soaked) bool
}

// soakGuests are the guests whose dumps are killed, each way on the one that can be
// dumped so, and which of the kills are of each.
var soakGuests = []struct {
	spec  lab.Spec
	share float64
	ways  []soakWay
}{
	{lab.Spec{Name: "soak", MemoryMiB: 64, CPUs: 1, FillMiB: 8}, 0.6, []soakWay{
		{"pause by direct, at the hold's birth", asIs, []string{"--source", "direct"}, (*heldGuest).atBirth},
		{"pause by direct, suspended", asIs, []string{"--source", "direct", "--spool", "off"}, (*heldGuest).atPause},
		{"pause by peek, held", asIs, []string{"--source", "peek"}, (*heldGuest).atPause},
		{"pause by direct", asIs, []string{"--source", "direct"}, nil},
		{"pause by direct, at the hold's birth, in a mount namespace", ownMounts, []string{"--source", "direct"}, (*heldGuest).atBirth},
		{"pause by peek, suspended, in a PID namespace", ownPIDs, []string{"--source", "peek"}, (*heldGuest).atPause},
		{"live", asIs, []string{"--mode", "live", "--source", "direct"}, nil},
	}},
	{lab.Spec{Name: "soak-snapshot", NewerQEMU: true, MemoryMiB: 512, CPUs: 1, FillMiB: 48}, 0.4, []soakWay{
		{"snapshot, saving", asIs, []string{"--mode", "snapshot", "--source", "auto"}, (*heldGuest).atSaving},
		{"pause by direct, at the hold's birth", asIs, []string{"--source", "direct"}, (*heldGuest).atBirth},
		{"snapshot", asIs, []string{"--mode", "snapshot", "--source", "auto"}, nil},
	}},
}

// victims are what is killed, or stopped, of a dump.
var victims = []struct {
	name string
	do   func(g *heldGuest, t *testing.T, r *soaked)
}{
	{"snap", (*heldGuest).killSnap},
	{"snap and guardian", (*heldGuest).killBoth},
	{"snap, stopped", (*heldGuest).stopSnap},
	{"guardian", func(g *heldGuest, t *testing.T, r *soaked) { g.killHelper(t, r, roleGuardian) }},
	{"gate", func(g *heldGuest, t *testing.T, r *soaked) { g.killHelper(t, r, roleGate) }},
}

// TestSoak kills dumps, in every mode, at random moments and at the hold's birth,
// and stops some. After each, the guest runs and nothing is left; libvirt answers all
// the time; and no file but the dump got the guest's memory.
func TestSoak(t *testing.T) {
	userfaultfd(t, true)
	for _, s := range soakGuests {
		t.Run(s.spec.Name, func(t *testing.T) {
			t.Parallel()
			s.spec.Seed = rand.Uint64() // no other guest on the host has its memory
			t.Logf("the guest's seed is %d", s.spec.Seed)
			g := upHeldWith(t, s.spec)
			found := g.searchMemory(t, "/")
			answers := g.askDaemon(t)
			n := int(float64(*soakKills)*s.share + 0.5)
			for i := range n {
				way, victim := s.ways[i%len(s.ways)], victims[i/len(s.ways)%len(victims)]
				t.Run(fmt.Sprintf("%d, %s, %s", i+1, way.name, victim.name), func(t *testing.T) {
					g.endure(t, way, victim.do)
				})
			}
			answers(t)
			found(t)
			g.unharmed(t)
			t.Logf("%d dumps were killed or stopped", n)
		})
	}
}

// endure begins a dump and kills what do kills of it.
func (g *heldGuest) endure(t *testing.T, way soakWay, do func(*heldGuest, *testing.T, *soaked)) {
	t.Helper()
	r := g.startSoaked(t, way)
	if way.until != nil && !way.until(g, r) {
		t.Logf("it ended before: %s", r.stderr.String())
	}
	wait := 2 * time.Second
	if way.until != nil {
		wait = 60 * time.Millisecond
	}
	r.sleep(time.Duration(rand.Int64N(int64(wait))))
	do(g, t, r)
	if r.way.in == ownMounts {
		g.removePartials(t) // who undoes it elsewhere doesn't know of them
	}
}

// soaked is a dump that is to be killed.
type soaked struct {
	*running
	way   soakWay
	token string // in the environment of all its processes
	pid   int    // of its own process, once awaitProcess has seen it
}

// awaitProcess waits until there is the dump's own process.
func (r *soaked) awaitProcess() {
	r.await(func() bool {
		found := r.processes(roleDump)
		if len(found) > 0 {
			r.pid = found[0]
		}
		return r.pid != 0
	})
}

// startSoaked begins a dump in its surroundings.
func (g *heldGuest) startSoaked(t *testing.T, way soakWay) *soaked {
	t.Helper()
	way.flags = append([]string{"--max-pause", soakPause.String(), "--force"}, way.flags...)
	r := g.prepareSoaked(t, way)
	r.begin(t)
	return r
}

// prepareSoaked is startSoaked but for the dump's start, and for what a soak asks of
// every dump.
func (g *heldGuest) prepareSoaked(t *testing.T, way soakWay) *soaked {
	t.Helper()
	r := &soaked{running: g.prepare(t, way.flags...), way: way, token: fmt.Sprintf("SNAP_SOAK=%d-%d", os.Getpid(), rand.Uint64())}
	way.in.wrap(r.Cmd)
	if r.Env == nil {
		r.Env = os.Environ()
	}
	r.Env = append(r.Env, r.token)
	t.Cleanup(func() { r.signal(unix.SIGKILL, roleDump, roleGuardian, roleGate) })
	return r
}

// await waits until is says so, and is false if the dump ended before.
func (r *soaked) await(is func() bool) bool {
	for !is() {
		select {
		case <-r.ended:
			return false
		case <-time.After(time.Millisecond):
		}
	}
	return true
}

// stop stops the dump's own process, and then others of it. It is known by its number
// from its start on: the guest may be held for a moment only.
func (r *soaked) stop(roles ...string) (goOn func()) {
	if r.pid > 0 { // 0 is the test itself
		_ = unix.Kill(r.pid, unix.SIGSTOP) // it may have ended
	}
	r.signal(unix.SIGSTOP, roles...)
	return func() { r.signal(unix.SIGCONT, append(roles, roleDump)...) }
}

// sleep waits, but not for longer than the dump takes.
func (r *soaked) sleep(d time.Duration) {
	select {
	case <-r.ended:
	case <-time.After(d):
	}
}

// atBirth waits until the guest is about to be held by a job.
func (g *heldGuest) atBirth(r *soaked) bool {
	return r.await(func() bool { return g.markedFor(hv.ForJob) })
}

// atPause waits until the guest stands still.
func (g *heldGuest) atPause(r *soaked) bool {
	return r.await(func() bool {
		s, err := g.vm.State(context.Background())
		return err == nil && s.Stopped()
	})
}

// atSaving waits until QEMU saves.
func (g *heldGuest) atSaving(r *soaked) bool {
	return r.await(func() bool { return g.markedFor(hv.ForSnapshot) })
}

// markedFor reports whether the guest bears a mark that says so.
func (g *heldGuest) markedFor(why hv.Reason) bool {
	m, err := g.vm.Marker(context.Background())
	return err == nil && m != nil && m.Why == why
}

// killSnap: its guardian undoes it, in a PID namespace as long as that lasts.
func (g *heldGuest) killSnap(t *testing.T, r *soaked) {
	killed := time.Now()
	r.signal(unix.SIGKILL, roleDump)
	g.wholeOrNone(t)
	g.undone(t, hv.StateRunning, killed)
	<-r.ended
}

// killBoth: a guest that a job holds runs again by itself; one that was suspended,
// and a snapshot, are snap recover's to undo.
func (g *heldGuest) killBoth(t *testing.T, r *soaked) {
	killed := time.Now()
	r.signal(unix.SIGKILL, roleGuardian, roleDump)
	<-r.ended
	var machine pace
	for {
		asked := time.Now()
		state := virsh(t, g.Connection, "domstate", "--reason", g.Name)
		if !strings.Contains(state, "dump") {
			break
		}
		if machine.over(asked, killed, runsAgainIn) {
			t.Fatalf("the guest is %s %v after both were killed; want that no job holds it", state, asked.Sub(killed))
		}
	}
	runSnap(t, g.Connection, "recover", g.Name).want(t, exitOK)
	if r.way.in == ownMounts {
		g.removePartials(t)
	}
	g.wholeOrNone(t)
	g.undone(t, hv.StateRunning, time.Now())
}

// stopSnap: the guest runs soon after the time that was allowed. When snap goes on, a
// dump that it finishes is of one point in time all the same.
func (g *heldGuest) stopSnap(t *testing.T, r *soaked) {
	r.signal(unix.SIGSTOP, roleDump)
	stopped := time.Now()
	var machine pace
	for {
		asked := time.Now()
		s, err := g.vm.State(t.Context())
		if err == nil && s == hv.StateRunning && asked.After(stopped.Add(time.Second)) {
			break
		}
		if machine.over(asked, stopped, soakPause+10*time.Second) {
			t.Fatalf("the guest is %s (%v) %v after snap was stopped; want running", s, err, asked.Sub(stopped))
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.signal(unix.SIGCONT, roleDump)
	ended := r.wait(t)
	if !slices.Contains([]int{exitOK, exitDegraded, exitFailed, exitTooLong}, ended.code) {
		t.Errorf("snap exited with %d after it was stopped: %s", ended.code, ended.stderr)
	}
	g.wholeOrNone(t)
	g.undone(t, hv.StateRunning, time.Now())
}

// killHelper kills another process of a dump's: what it undoes is snap's to undo.
func (g *heldGuest) killHelper(t *testing.T, r *soaked, role string) {
	r.signal(unix.SIGKILL, role)
	ended := r.wait(t)
	if !slices.Contains([]int{exitOK, exitDegraded, exitFailed, exitTooLong, exitUnsupported}, ended.code) {
		t.Errorf("snap exited with %d after its %s was killed: %s", ended.code, role, ended.stderr)
	}
	g.wholeOrNone(t)
	g.undone(t, hv.StateRunning, time.Now())
}

// removePartials removes what only a state file that is lost told of.
func (g *heldGuest) removePartials(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(g.folder, "*.partial-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		_ = os.Remove(f) // its guardian may be faster
	}
}
