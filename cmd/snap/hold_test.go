package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/hv/guardian"
	"snap/hv/libvirt"
	"snap/internal/lab"
)

// runsAgainIn is the promise: so long after snap was killed, the guest runs and
// nothing is left.
const runsAgainIn = 2 * time.Second

// heldGuest is a guest that dumps are taken of, with a view of its own on it.
type heldGuest struct {
	*lab.Guest
	vm     *libvirt.Domain
	folder string
}

func upHeld(t *testing.T, name string) *heldGuest {
	t.Helper()
	g := upGuest(t, lab.Spec{Name: name, MemoryMiB: 256, CPUs: 1, FillMiB: 96, Seed: 11})
	return &heldGuest{Guest: g, vm: lookUp(t, g), folder: t.TempDir()}
}

// lookUp gives a view of the guest that is the test's own.
func lookUp(t *testing.T, g *lab.Guest) *libvirt.Domain {
	t.Helper()
	conn, err := libvirt.Connect(t.Context(), g.URI)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	vm, err := conn.Lookup(t.Context(), g.Name)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// running is a snap dump that was started.
type running struct {
	*exec.Cmd
	ended  chan struct{}
	stderr bytes.Buffer
}

// start begins a dump that holds the guest for long, unless flags say otherwise.
func (g *heldGuest) start(t *testing.T, flags ...string) *running {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{ended: make(chan struct{})}
	args := []string{
		"dump", g.Name, "-c", g.URI, "--source", "peek", "--max-pause", "120s",
		"-o", filepath.Join(g.folder, "out.dmp.zst"), "--log-format", "console",
	}
	r.Cmd = g.Command(t.Context(), bin, append(args, flags...)...)
	r.Stderr = &r.stderr
	r.begin(t)
	return r
}

// begin starts the process, which ends with the test.
func (r *running) begin(t *testing.T) {
	t.Helper()
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = r.Wait() // the tests ask for its exit code
		close(r.ended)
	}()
	t.Cleanup(r.kill)
}

func (r *running) kill() {
	_ = r.Process.Kill() // it may have ended
	<-r.ended
}

// wait waits for the dump's end.
func (r *running) wait(t *testing.T) snapRun {
	t.Helper()
	select {
	case <-r.ended:
	case <-t.Context().Done():
		t.Fatal("snap hangs")
	}
	return snapRun{code: r.ProcessState.ExitCode(), stderr: r.stderr.String()}
}

// untilHeld waits until snap has paused the guest.
func (g *heldGuest) untilHeld(t *testing.T, r *running) {
	t.Helper()
	for {
		state, err := g.vm.State(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if state == hv.StatePaused {
			return
		}
		select {
		case <-r.ended:
			t.Fatalf("snap ended before it paused the guest: %s", r.stderr.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// runFile reads what stands in the dump's state file.
func (g *heldGuest) runFile(t *testing.T) (*guardian.Run, string) {
	t.Helper()
	paths, err := filepath.Glob("/run/snap/" + g.vm.Identity().UUID + "-*.json")
	if err != nil || len(paths) != 1 {
		t.Fatalf("state files are %v (%v); want one", paths, err)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	var r guardian.Run
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return &r, paths[0]
}

// left says what of a dump is still there; state is what the guest should do.
func (g *heldGuest) left(t *testing.T, state hv.State) []string {
	t.Helper()
	var left []string
	if s, err := g.vm.State(t.Context()); err != nil || s != state {
		left = append(left, fmt.Sprintf("the guest is %s (%v)", s, err))
	}
	if m, err := g.vm.Marker(t.Context()); err != nil || m != nil {
		left = append(left, fmt.Sprintf("it is marked (%v)", err))
	}
	for _, glob := range []string{g.folder + "/*", "/run/snap/" + g.vm.Identity().UUID + "-*.json"} {
		files, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, files...)
	}
	locks, err := filepath.Glob("/run/snap/" + g.vm.Identity().UUID + "-*.lock")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range locks {
		f, err := os.Open(l)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			left = append(left, "lock "+l)
		}
		f.Close()
	}
	return left
}

// undone waits until nothing is left of a dump that was killed at the given time.
func (g *heldGuest) undone(t *testing.T, state hv.State, killed time.Time) {
	t.Helper()
	for {
		asked := time.Now()
		left := g.left(t, state)
		if len(left) == 0 {
			return
		}
		if asked.After(killed.Add(runsAgainIn)) {
			t.Fatalf("%v after snap was killed: %q", asked.Sub(killed), left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestKilled kills snap at random moments: of a dump that holds the guest for
// long, and of a quick one from its start to its end.
func TestKilled(t *testing.T) {
	g := upHeld(t, "killed")
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for i := range 20 {
		var r *running
		if i%5 < 2 {
			r = g.start(t)
			g.untilHeld(t, r)
			time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
		} else {
			r = g.start(t, "--source", "direct")
			time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
		}
		killed := time.Now()
		r.kill()
		g.wholeOrNone(t)
		g.undone(t, hv.StateRunning, killed)
	}
	takeCore(t, g.Guest, "after.elf")
	runSnap(t, g.Connection, "dump", g.Name, "-o", filepath.Join(g.folder, "after.dmp.zst"), "-q").want(t, exitOK)
	mustRun(t, g.Guest)
}

// wholeOrNone removes the dump that a killed snap had finished already. A file
// that has the final name must be whole.
func (g *heldGuest) wholeOrNone(t *testing.T) {
	t.Helper()
	path := filepath.Join(g.folder, "out.dmp.zst")
	if _, err := os.Stat(path); err != nil {
		return
	}
	runSnap(t, g.Connection, "verify", path).want(t, exitOK)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(path + ".json") // it is written last
}

// TestKilledWithGuardian kills both processes: snap recover undoes the dump, from
// its state file or, if that is lost, from the domain's mark.
func TestKilledWithGuardian(t *testing.T) {
	g := upHeld(t, "killed-both")
	for _, lost := range []bool{false, true} {
		r := g.start(t)
		g.untilHeld(t, r)
		run, path := g.runFile(t)
		if err := unix.Kill(run.Guardian.PID, unix.SIGKILL); err != nil {
			t.Fatalf("kill the guardian: %v", err)
		}
		done := runSnap(t, g.Connection, "recover", g.Name).want(t, exitOK)
		if !strings.Contains(done.stdout, "left alone") {
			t.Errorf("snap recover says %q of a dump that runs; want that it is left alone", done.stdout)
		}
		r.kill()
		if s, err := g.vm.State(t.Context()); s != hv.StatePaused || err != nil {
			t.Fatalf("the guest is %s (%v) with nobody to resume it; want paused", s, err)
		}
		if lost {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			for _, f := range run.Files {
				_ = os.Remove(f) // nothing knows of them any more
			}
		}
		done = runSnap(t, g.Connection, "recover").want(t, exitOK)
		if !strings.Contains(done.stdout, g.Name+": resumed the guest") {
			t.Errorf("snap recover says %q; want that it resumed the guest", done.stdout)
		}
		if left := g.left(t, hv.StateRunning); len(left) > 0 {
			t.Errorf("after snap recover: %q", left)
		}
	}
	runSnap(t, g.Connection, "recover", "snap-lab-nobody").want(t, exitNoDomain)
	mustRun(t, g.Guest)
}

// TestKilledOfPaused: a guest that somebody else paused stays so.
func TestKilledOfPaused(t *testing.T) {
	g := upHeld(t, "killed-paused")
	virsh(t, g.Connection, "suspend", g.Name)
	r := g.start(t)
	for { // until it writes the dump
		if files, _ := filepath.Glob(g.folder + "/*"); len(files) > 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	killed := time.Now()
	r.kill()
	g.undone(t, hv.StatePaused, killed)
	virsh(t, g.Connection, "resume", g.Name)
}

// TestOperatorResumes: a resume in the middle ends the dump, and a pause after it
// is the operator's.
func TestOperatorResumes(t *testing.T) {
	g := upHeld(t, "operator")
	r := g.start(t)
	g.untilHeld(t, r)
	virsh(t, g.Connection, "resume", g.Name)
	if got := r.wait(t).want(t, exitFailed); !strings.Contains(got.stderr, "somebody resumed it") {
		t.Errorf("stderr is %q; want that somebody resumed the guest", got.stderr)
	}
	g.undone(t, hv.StateRunning, time.Now())

	for _, kill := range []bool{false, true} {
		r = g.start(t)
		g.untilHeld(t, r)
		virsh(t, g.Connection, "resume", g.Name)
		virsh(t, g.Connection, "suspend", g.Name)
		killed := time.Now()
		if kill {
			r.kill()
		} else {
			r.wait(t).want(t, exitFailed)
			killed = time.Now()
		}
		g.undone(t, hv.StatePaused, killed)
		virsh(t, g.Connection, "resume", g.Name)
	}
	mustRun(t, g.Guest)
}

// TestTwoDumps: of one domain there is one at a time.
func TestTwoDumps(t *testing.T) {
	g := upHeld(t, "two")
	r := g.start(t)
	g.untilHeld(t, r)
	second := runSnap(t, g.Connection, "dump", g.Name, "--force", "-o", filepath.Join(t.TempDir(), "x"), "--log-format", "console").want(t, exitLocked)
	if want := fmt.Sprintf("process %d ", r.Process.Pid); !strings.Contains(second.stderr, want) {
		t.Errorf("stderr is %q; want %q in it", second.stderr, want)
	}
	killed := time.Now()
	r.kill()
	g.undone(t, hv.StateRunning, killed)
}

// TestDomainEnds: what ends the domain in the middle is why the dump failed.
func TestDomainEnds(t *testing.T) {
	for _, tt := range []struct {
		end  string
		code int
	}{{"destroy", exitNoDomain}, {"save", exitBusy}} {
		t.Run(tt.end, func(t *testing.T) {
			g := upHeld(t, "ends-"+tt.end)
			r := g.start(t)
			g.untilHeld(t, r)
			args := []string{tt.end, g.Name}
			if tt.end == "save" {
				args = append(args, filepath.Join(g.Dir(), "saved"))
			}
			virsh(t, g.Connection, args...)
			r.wait(t).want(t, tt.code)
			if files, _ := filepath.Glob(g.folder + "/*"); len(files) > 0 {
				t.Errorf("%v was left behind", files)
			}
		})
	}
}

// TestTerminal: signals to snap's process group don't reach the guardian, and it
// holds none of the descriptors that snap was started with.
func TestTerminal(t *testing.T) {
	g := upHeld(t, "terminal")
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	r := &running{ended: make(chan struct{})}
	r.Cmd = exec.Command(bin, "dump", g.Name, "-c", g.URI, "--source", "peek", "--max-pause", "120s", "-o", filepath.Join(g.folder, "out"))
	r.Stdout, r.Stderr, r.ExtraFiles = write, write, []*os.File{write}
	r.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	r.begin(t)
	write.Close()
	g.untilHeld(t, r)
	run, _ := g.runFile(t)
	for _, fd := range []string{"0", "1", "2"} {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", run.Guardian.PID, fd)); to != os.DevNull {
			t.Errorf("the guardian's descriptor %s is %s (%v); want %s", fd, to, err, os.DevNull)
		}
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", run.Guardian.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", run.Guardian.PID, fd.Name())); strings.HasPrefix(to, "pipe:") {
			t.Errorf("the guardian holds %s, a pipe that snap was started with", to)
		}
	}
	killed := time.Now()
	if err := unix.Kill(-r.Process.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	g.undone(t, hv.StateRunning, killed)
}
