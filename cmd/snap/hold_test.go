package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv"
	"snap/hv/connect"
	"snap/hv/guardian"
	"snap/internal/lab"
)

// The promise: so long after snap was killed, the guest runs, and nothing is left.
const (
	runsAgainIn = 2 * time.Second
	goneIn      = 10 * time.Second
)

// pace is how fast the machine is while something is waited for that is promised within
// a time: libvirt is asked for it again and again. The promise is for a machine on which
// the exchanges that it takes (connect, look up, resume, unmark and what libvirt does for
// each of them) take no time to speak of; on one that is busy they take what they take.
type pace struct{ longest time.Duration }

// exchanges is about how many such a promise takes.
const exchanges = 20

// over reports whether a promise of something within a time after began was broken when
// it was asked for, which took until now.
func (p *pace) over(asked, began time.Time, within time.Duration) bool {
	p.longest = max(p.longest, time.Since(asked))
	return asked.After(began.Add(within + exchanges*p.longest))
}

// longPause is --max-pause of dumps of which it doesn't matter how long the guest stands
// still. On a machine where ten tasks wait for each processor, snap says that 256 MiB may
// take three minutes.
const longPause = time.Hour

// heldGuest is a guest that dumps are taken of, with a view of its own on it.
type heldGuest struct {
	*lab.Guest
	vm     hv.Guardable
	folder string // that dumps go to
	states string // the folder of locks and state files
}

func upHeld(t *testing.T, name string) *heldGuest {
	t.Helper()
	return upHeldWith(t, lab.Spec{Name: name, MemoryMiB: 256, CPUs: 1, FillMiB: 96, Seed: 11})
}

func upHeldWith(t *testing.T, s lab.Spec) *heldGuest {
	t.Helper()
	return holdable(t, upGuest(t, s))
}

// holdable prepares to hold a guest that is up.
func holdable(t *testing.T, g *lab.Guest) *heldGuest {
	t.Helper()
	h := &heldGuest{Guest: g, folder: filepath.Join(g.Dir(), "dumps"), states: "/run/snap"}
	if err := os.Mkdir(h.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if u := g.User; u != nil {
		h.states = filepath.Join(u.RuntimeDir, "snap")
		if err := os.Chown(h.folder, u.UID, u.GID); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := connect.Open(t.Context(), g.URI)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	vm, err := conn.Lookup(t.Context(), g.Name)
	if err != nil {
		t.Fatal(err)
	}
	var ok bool
	if h.vm, ok = vm.(hv.Guardable); !ok {
		t.Fatalf("%T is no hv.Guardable", vm)
	}
	return h
}

// stateFiles is a pattern for the files that a dump has in the folder of state.
func (g *heldGuest) stateFiles(suffix string) string {
	return filepath.Join(g.states, g.vm.Identity().UUID+"-*"+suffix)
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
	r := g.prepare(t, flags...)
	r.begin(t)
	return r
}

// prepare is start but for its start.
func (g *heldGuest) prepare(t *testing.T, flags ...string) *running {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{ended: make(chan struct{})}
	args := []string{
		"dump", g.Name, "-c", g.URI, "--source", "peek", "--max-pause", longPause.String(),
		"-o", filepath.Join(g.folder, "out.dmp.zst"), "--log-format", "console",
	}
	r.Cmd = g.Command(t.Context(), bin, append(args, flags...)...)
	r.Stderr = &r.stderr
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
		if state.Stopped() {
			return
		}
		select {
		case <-r.ended:
			t.Fatalf("snap ended before it paused the guest: %s", r.stderr.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// until waits until is says so.
func (r *running) until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for !is() {
		select {
		case <-r.ended:
			t.Fatalf("snap ended before %s: %s", what, r.stderr.String())
		case <-time.After(time.Millisecond):
		}
	}
}

// untilKnown waits until the guardian is ready: snap has done nothing yet.
func (g *heldGuest) untilKnown(t *testing.T, r *running) {
	t.Helper()
	r.until(t, "its guardian was ready", func() bool {
		files, _ := filepath.Glob(g.stateFiles(".json"))
		if len(files) == 0 {
			return false
		}
		run, _ := g.runFile(t)
		return run.Guardian.PID != 0
	})
}

// written returns how much of the dump stands in its partial file.
func (g *heldGuest) written() int64 {
	files, _ := filepath.Glob(g.folder + "/*.partial-*")
	if len(files) == 0 {
		return -1
	}
	info, err := os.Stat(files[0])
	if err != nil {
		return -1
	}
	return info.Size()
}

// untilWriting waits until snap writes pages.
func (g *heldGuest) untilWriting(t *testing.T, r *running) {
	t.Helper()
	r.until(t, "it wrote", func() bool { return g.written() > 0 })
}

// untilWritingSpooled waits until snap has let the guest go and writes the copy.
func (g *heldGuest) untilWritingSpooled(t *testing.T, r *running) {
	t.Helper()
	g.untilWriting(t, r)
	r.until(t, "the guest ran", func() bool {
		run, _ := g.runFile(t)
		return !run.Holding
	})
}

// runFile reads what stands in the dump's state file.
func (g *heldGuest) runFile(t *testing.T) (*guardian.Run, string) {
	t.Helper()
	paths, err := filepath.Glob(g.stateFiles(".json"))
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

// guestIs begins the first of what left says where the guest does something else.
const guestIs = "the guest is "

// left says what of a dump is still there; state is what the guest should do.
func (g *heldGuest) left(t *testing.T, state hv.State) []string {
	t.Helper()
	var left []string
	if s, err := g.vm.State(t.Context()); err != nil || s != state {
		left = append(left, fmt.Sprintf("%s%s (%v)", guestIs, s, err))
	}
	if m, err := g.vm.Marker(t.Context()); err != nil || m != nil {
		left = append(left, fmt.Sprintf("it is marked (%v)", err))
	}
	if g.Spec.NewerQEMU && snapshotsOn(t, g.Guest) {
		left = append(left, "QEMU's capability is on")
	}
	for _, glob := range []string{g.folder + "/*", g.stateFiles(".json")} {
		files, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, files...)
	}
	locks, err := filepath.Glob(g.stateFiles(".lock"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range locks {
		f, err := os.Open(l)
		if errors.Is(err, fs.ErrNotExist) {
			continue // its guardian has just removed it
		}
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
	var machine pace
	for {
		asked := time.Now()
		left := g.left(t, state)
		if len(left) == 0 {
			return
		}
		within := goneIn
		if strings.HasPrefix(left[0], guestIs) {
			within = runsAgainIn
		}
		if machine.over(asked, killed, within) {
			t.Fatalf("%v after snap was killed: %q (libvirt took up to %v to answer)", asked.Sub(killed), left, machine.longest)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestTwoDumps: of one domain there is one at a time.
func TestTwoDumps(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
	for _, tt := range []struct {
		end  string
		code int
	}{{"destroy", exitNoDomain}, {"save", exitBusy}} {
		t.Run(tt.end, func(t *testing.T) {
			g := upHeld(t, "ends-"+tt.end)
			r := g.start(t, "--spool", "off")
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
	t.Parallel()
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
	r.Cmd = exec.Command(bin, "dump", g.Name, "-c", g.URI, "--source", "peek", "--max-pause", longPause.String(), "-o", filepath.Join(g.folder, "out"))
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
