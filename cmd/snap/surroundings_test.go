package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"snap/hv/connect"
	"snap/internal/ntlab"
)

// surroundings are those that snap is started in.
type surroundings int

const (
	asIs      surroundings = iota
	ownMounts              // a mount namespace with folders for temporary files of its own, as a container that is given the host's PID namespace
	ownPIDs                // a PID namespace, in which it isn't the first process
)

// wrap has a command run in s. Only root may.
func (s surroundings) wrap(cmd *exec.Cmd) {
	var with []string
	switch s {
	case asIs:
		return
	case ownMounts:
		with = []string{
			"unshare", "--mount", "--propagation", "private", "sh", "-c",
			`mkdir -p /run/snap && mount -t tmpfs -o mode=0700 none /run/snap && mount -t tmpfs none /var/tmp && exec "$@"`, "sh",
		}
	case ownPIDs:
		// The first process's end is that of all. It gives the guardian its time.
		with = []string{"unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", `"$@"; code=$?; [ $code != 137 ] || sleep 3; exit $code`, "sh"}
	}
	cmd.Args = append(with, cmd.Args...)
	if path, err := exec.LookPath("unshare"); err == nil {
		cmd.Path = path
	} else {
		cmd.Err = err
	}
}

// Roles of a dump's processes: their first argument.
const (
	roleDump     = "dump"
	roleGuardian = guardianCommand
	roleGate     = gateCommand
)

// processes returns a dump's processes in a role, by their numbers here.
func (r *soaked) processes(role string) []int {
	all, _ := filepath.Glob("/proc/[0-9]*")
	var found []int
	for _, dir := range all {
		args, err := os.ReadFile(dir + "/cmdline")
		if err != nil {
			continue
		}
		if a := strings.SplitN(string(args), "\x00", 3); len(a) < 3 || a[1] != role || filepath.Base(a[0]) != "snap" {
			continue
		}
		env, err := os.ReadFile(dir + "/environ")
		if err != nil || !bytes.Contains(env, []byte(r.token)) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			found = append(found, pid)
		}
	}
	return found
}

// signal signals a dump's processes in some roles, all found first.
func (r *soaked) signal(sig unix.Signal, roles ...string) {
	var pids []int
	for _, role := range roles {
		pids = append(pids, r.processes(role)...)
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, sig) // it may have ended
	}
}

// answersIn is how soon libvirt must answer what it has to look at the domain for.
const answersIn = time.Second

// askDaemon asks for the guest's state, again and again: libvirt answers that, and the
// list of all domains (virsh list), when it gets to lock the domain. The list waits for
// those of other tests as well, which are started and stopped. What it returns ends that
// and fails the test if one answer took too long, but for as long as the machine is to
// blame: a new connection, which is about no domain, takes that as well at the same
// time, or took it a moment ago.
func (g *heldGuest) askDaemon(t *testing.T) func(*testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var longest, excess time.Duration
	var others []time.Duration // what the last connections took
	asked := 0
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			var other time.Duration
			var control sync.WaitGroup
			began := time.Now()
			control.Go(func() {
				if c, err := connect.Open(ctx, g.URI); err == nil {
					other = time.Since(began)
					_ = c.Close() // nothing was asked on it
				}
			})
			_, err := g.vm.State(ctx)
			took := time.Since(began)
			control.Wait()
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				t.Errorf("ask for the state: %v", err)
			}
			asked++
			others = append(others, other)[max(0, len(others)-4):]
			longest, excess = max(longest, took), max(excess, took-slices.Max(others))
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	})
	return func(t *testing.T) {
		t.Helper()
		cancel()
		asking.Wait()
		t.Logf("the state was asked for %d times; the longest answer took %v, and at most %v longer than a connection", asked, longest, excess)
		if excess > answersIn {
			t.Errorf("the longest answer about the domain took %v, and one %v longer than a connection; want at most %v", longest, excess, answersIn)
		}
		if asked == 0 {
			t.Error("the state was never asked for")
		}
	}
}

// markerSize is how many bytes tell the guest's memory from other things.
const markerSize = 64

// searchMemory prepares a search for the guest's memory in the files of some folders.
// What it returns fails the test if there is a file that was written to since and has
// it. That it would be found is shown by a dump of libvirt's.
func (g *heldGuest) searchMemory(t *testing.T, dirs ...string) func(*testing.T) {
	t.Helper()
	marker := g.marker(t)
	began := time.Now()
	probe := filepath.Join(g.Dir(), "probe.elf")
	virsh(t, g.Connection, "dump", "--memory-only", g.Name, probe)
	if found := filesWith(t, g.Dir(), marker, began); len(found) != 1 || found[0] != probe {
		t.Fatalf("files with the guest's memory are %v; want %s", found, probe)
	}
	if err := os.Remove(probe); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	return func(t *testing.T) {
		t.Helper()
		for _, dir := range dirs {
			if found := filesWith(t, dir, marker, began); len(found) > 0 {
				t.Errorf("%v have the guest's memory in clear", found)
			}
		}
	}
}

// marker returns bytes of the guest's memory that are nowhere else: guests of another
// seed haven't got them.
func (g *heldGuest) marker(t *testing.T) []byte {
	t.Helper()
	const at = 1024 // in a page
	c := g.Image.Config
	c.Seed++
	other, err := ntlab.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	common := map[[markerSize]byte]bool{}
	for _, p := range other.Pages() {
		common[[markerSize]byte(p[at:])] = true
	}
	for _, p := range g.Image.Pages() {
		b := p[at : at+markerSize]
		if common[[markerSize]byte(b)] {
			continue
		}
		seen := map[byte]bool{}
		for _, c := range b {
			seen[c] = true
		}
		if len(seen) > markerSize*3/4 {
			return bytes.Clone(b)
		}
	}
	t.Fatal("no page of the guest has bytes that are nowhere else")
	return nil
}

// filesWith returns the files below dir that were written to since and have the
// marker in them. The kernel's own file systems are left out.
func filesWith(t *testing.T, dir string, marker []byte, since time.Time) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // it went away
		}
		if d.IsDir() && (path == "/proc" || path == "/sys") {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		info, err := d.Info()
		if err != nil || info.Size() < markerSize || info.ModTime().Before(since) {
			return nil
		}
		if has, err := fileHas(path, marker); err == nil && has {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// fileHas reports whether a file has the marker in it.
func fileHas(path string, marker []byte) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf := make([]byte, 4<<20)
	kept := 0
	for {
		n, err := f.Read(buf[kept:])
		if bytes.Contains(buf[:kept+n], marker) {
			return true, nil
		}
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		rest := min(kept+n, len(marker)-1)
		copy(buf, buf[kept+n-rest:kept+n])
		kept = rest
	}
}

// ownCgroup makes a control group of version 2 for the test's processes, and returns its
// folder.
func ownCgroup(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		left, right, _ := strings.Cut(line, " - ")
		if !strings.HasPrefix(right, "cgroup2 ") {
			continue
		}
		dir, err := os.MkdirTemp(strings.Fields(left)[4], "snap-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0o600)
			for range 200 { // until its processes are gone
				if os.Remove(dir) == nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("%s can't be removed: there are processes in it", dir)
		})
		return dir
	}
	t.Fatal(fmt.Errorf("no control groups of version 2 are mounted: mount -t cgroup2 none /sys/fs/cgroup: %w", fs.ErrNotExist))
	return ""
}
