package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"snap/internal/lab"
)

// TestFaults runs snap into what goes wrong on a real host: each time with the
// documented exit code, the next step, nothing left behind and the guest
// running.
func TestFaults(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "faults", MemoryMiB: 256, CPUs: 2, FillMiB: 32, Seed: 7})
	domain := g.Name
	off, err := lab.Off(t.Context(), lab.Spec{Name: unique("faults-off"), MemoryMiB: 256})
	endsWithTest(t, off, err)
	linux, err := lab.UpLinux(t.Context(), lab.Spec{Name: unique("faults-linux"), MemoryMiB: 256, CPUs: 1})
	endsWithTest(t, linux, err)
	session, err := lab.Open(t.Context(), lab.Session)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })

	empty := func() string { return t.TempDir() }
	full := filepath.Join(t.TempDir(), "full")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", full, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("mount a small file system (root is needed): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(full, 0); err != nil {
			t.Error(err)
		}
	})

	tests := []struct {
		name   string
		conn   *lab.Connection
		domain string
		folder string
		flags  []string
		code   int
		errors string // in what snap says
		next   string
	}{
		{"no such domain", g.Connection, "snap-lab-nobody", empty(), nil, exitNoDomain, "no such domain", "snap list"},
		{"domain is off", g.Connection, off.Name, empty(), nil, exitNoDomain, "not running", "virsh"},
		{"linux", g.Connection, linux.Name, empty(), nil, exitNotWindows, "find Windows in guest memory", "virsh dump"},
		{"linux by peek", g.Connection, linux.Name, empty(), []string{"--source", "peek"}, exitNotWindows, "find Windows in guest memory", "virsh dump"},
		{"no space", g.Connection, domain, full, nil, exitNoSpace, "no space", "free some space"},
		{"no folder", g.Connection, domain, filepath.Join(t.TempDir(), "nowhere"), nil, exitFailed, "no such file", "mkdir"},
		{"not allowed by libvirt", session, domain, empty(), []string{"--connect", "qemu:///system"}, exitDenied, "", "root"},
		{"timeout", g.Connection, domain, empty(), []string{"--timeout", "1ms"}, exitFailed, "deadline", "--timeout"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{tt.domain, "--log-format", "console", "-o", filepath.Join(tt.folder, "out.dmp.zst")}, tt.flags...)
			r := runSnap(t, tt.conn, "dump", args...).want(t, tt.code)
			if !strings.Contains(r.stderr, tt.errors) {
				t.Errorf("stderr is %q; want %q in it", r.stderr, tt.errors)
			}
			if _, advice, ok := strings.Cut(r.stderr, "\nnext: "); !ok || !strings.Contains(advice, tt.next) {
				t.Errorf("stderr is %q; want a next step with %q", r.stderr, tt.next)
			}
			if left, err := os.ReadDir(tt.folder); err == nil && len(left) > 0 {
				t.Errorf("%v was left behind", left)
			}
			mustRun(t, g)
		})
	}
}

// TestDumpIntoForeignFolder demands that a user who may dump, but not write
// there, is told so, before anything is asked of the guest.
func TestDumpIntoForeignFolder(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "foreign", Connect: lab.Session, MemoryMiB: 256, CPUs: 1, Seed: 8})
	out := filepath.Join(t.TempDir(), "out.dmp.zst")
	r := runSnap(t, g.Connection, "dump", g.Name, "-o", out, "--log-format", "console").want(t, exitDenied)
	if !strings.Contains(r.stderr, "permission denied") || !strings.Contains(r.stderr, "\nnext: ") {
		t.Errorf("stderr is %q; want the permission that is missing and a next step", r.stderr)
	}
	mustRun(t, g)
}

// TestDumpReplacesNothing demands that a file that exists stays as it is, and
// is replaced when asked for.
func TestDumpReplacesNothing(t *testing.T) {
	g := upGuest(t, lab.Spec{Name: "exists", MemoryMiB: 256, CPUs: 1, Seed: 9})
	out := filepath.Join(t.TempDir(), "out.dmp.zst")
	if err := os.WriteFile(out, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	domain := g.Name
	r := runSnap(t, g.Connection, "dump", domain, "-o", out, "--log-format", "console").want(t, exitFailed)
	if !strings.Contains(r.stderr, "--force") {
		t.Errorf("stderr is %q; want --force as the next step", r.stderr)
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "precious" {
		t.Errorf("the existing file now holds %d bytes, error %v", len(b), err)
	}
	runSnap(t, g.Connection, "dump", domain, "-o", out, "--force", "-q").want(t, exitOK)
	runSnap(t, g.Connection, "verify", out).want(t, exitOK)
	mustRun(t, g)
}
