package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"snap/internal/lab/labtest"
)

// marker is what the memory of every Windows guest holds: NtSystemRoot in
// KUSER_SHARED_DATA.
var marker = []byte("C\x00:\x00\\\x00W\x00i\x00n\x00d\x00o\x00w\x00s\x00")

// holdsMarker reports whether the marker is in what is read.
func holdsMarker(t *testing.T, r io.Reader) bool {
	t.Helper()
	buf := make([]byte, 0, 1<<20)
	for {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if bytes.Contains(buf, marker) {
			return true
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
			return false
		}
		buf = append(buf[:0], buf[len(buf)-len(marker):]...) // it may lie across
	}
}

// inClear returns the files below the folders that hold the marker.
func inClear(t *testing.T, dirs ...string) (found []string) {
	t.Helper()
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			if holdsMarker(t, f) {
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// openInClear returns the files that lie on a disk and hold the marker, among those that
// a process has open: they may have no name. written says that one of them in dir, which
// is being written, isn't empty yet.
func openInClear(t *testing.T, pid int, dir string) (found []string, written bool) {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err != nil || !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "/memfd:") || strings.HasPrefix(to, "/proc/") {
			continue
		}
		info, err := os.Stat(fd)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		written = written || strings.HasPrefix(to, dir+"/") && info.Size() > 1<<20
		f, err := os.Open(fd)
		if err != nil {
			continue
		}
		if holdsMarker(t, f) {
			found = append(found, to)
		}
		_ = f.Close()
	}
	return found, written
}

// keyPair has age-keygen make a key, and returns its file and the public key.
func keyPair(t *testing.T) (path, public string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("age-keygen", "-o", path).CombinedOutput(); err != nil {
		t.Fatalf("age-keygen: %v: %s", err, out)
	}
	out, err := exec.Command("age-keygen", "-y", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return path, strings.TrimSpace(string(out))
}

// TestNoClearText: nothing of the guest's memory lies on a disk in clear while an
// encrypted dump is taken, nor afterwards, nor when that was killed in the middle.
func TestNoClearText(t *testing.T) {
	t.Parallel()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	_, public := keyPair(t)
	run := func(out, temp, home string, args ...string) *signalled {
		s := &signalled{cmd: exec.Command(bin, append([]string{"dump", "-c", "lab:///", "-q", "--compress", "none", "win10-22h2", "-o", out}, args...)...), done: make(chan error, 1)}
		s.cmd.Dir, s.cmd.Env = home, append(os.Environ(), "TMPDIR="+temp, "HOME="+home)
		if err := s.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { s.done <- s.cmd.Wait() }()
		t.Cleanup(func() { _ = s.cmd.Process.Kill() })
		return s
	}
	out, temp, home := t.TempDir(), t.TempDir(), t.TempDir()
	if code := run(filepath.Join(out, "a.dmp"), temp, home).ends(t); code != 0 {
		t.Fatalf("the dump in clear ended with %d", code)
	}
	if found := inClear(t, out, temp, home); len(found) != 1 {
		t.Fatalf("the marker is in %v; want it in the dump in clear, or nothing can be told by it", found)
	}
	if err := os.Remove(filepath.Join(out, "a.dmp")); err != nil {
		t.Fatal(err)
	}
	if code := run(filepath.Join(out, "a.dmp.age"), temp, home, "--encrypt-to", public).ends(t); code != 0 {
		t.Fatalf("the encrypted dump ended with %d", code)
	}
	if found := inClear(t, out, temp, home); len(found) > 0 {
		t.Errorf("the marker is in %v after an encrypted dump", found)
	}
	for tries := 0; ; tries++ {
		if tries == 20 {
			t.Fatal("no dump was stopped while it wrote")
		}
		s := run(filepath.Join(out, "b.dmp.age"), temp, home, "--encrypt-to", public, "--force")
		writing := false
		for !writing && len(s.done) == 0 {
			_, writing = openInClear(t, s.cmd.Process.Pid, out)
		}
		if !writing || unix.Kill(s.cmd.Process.Pid, unix.SIGSTOP) != nil {
			s.ends(t)
			continue
		}
		found, _ := openInClear(t, s.cmd.Process.Pid, out)
		if found = append(found, inClear(t, out, temp, home)...); len(found) > 0 {
			t.Errorf("the marker is in %v while a dump is encrypted", found)
		}
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		s.ends(t)
		if found := inClear(t, out, temp, home); len(found) > 0 {
			t.Errorf("the marker is in %v after a dump was killed", found)
		}
		return
	}
}

// TestMustNotSwap: what can't be locked is refused just where encryption is required and
// the host swaps, or nobody tells.
func TestMustNotSwap(t *testing.T) {
	const heading = "Filename\tType\tSize\tUsed\tPriority\n"
	calm := fstest.MapFS{"proc/swaps": {Data: []byte(heading)}}
	swapping := fstest.MapFS{"proc/swaps": {Data: []byte(heading + "/dev/dm-1\tpartition\t8388604\t0\t-2\n")}}
	for _, tt := range []struct {
		required bool
		host     fs.FS
		swaps    bool
		fails    bool
	}{
		{false, swapping, false, false},
		{true, calm, false, false},
		{true, swapping, true, true},
		{true, fstest.MapFS{}, false, true},
	} {
		a := &app{requireEncryption: tt.required}
		if swaps, _ := a.mustNotSwap(tt.host); swaps != tt.swaps {
			t.Errorf("required %v, %v: mustNotSwap = %v; want %v", tt.required, tt.host, swaps, tt.swaps)
		}
		if err := a.mayExpandInMemory(tt.host); errors.Is(err, errSwap) != tt.fails {
			t.Errorf("required %v, %v: mayExpandInMemory = %v; want an error: %v", tt.required, tt.host, err, tt.fails)
		}
	}
}

// lockedMemory returns how many bytes of what a process may write to are locked, and the
// mappings that aren't (proc_pid_smaps(5)).
func lockedMemory(t *testing.T, pid int) (locked uint64, swappable []string) {
	t.Helper()
	smaps, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	var mapping string
	var kib uint64
	for line := range strings.Lines(string(smaps)) {
		name, rest, _ := strings.Cut(line, ":")
		switch {
		case strings.Contains(name, "-"):
			mapping = strings.TrimSpace(line)
		case name == "Rss":
			_, _ = fmt.Sscanf(rest, "%d kB", &kib)
		case name == "VmFlags" && kib > 0 && strings.Contains(rest, " wr "):
			switch {
			case strings.Contains(rest, " lo "):
				locked += kib << 10
			case !strings.Contains(rest, " dp "): // of getrandom(2): dropped, and never swapped
				swappable = append(swappable, mapping+" "+rest)
			}
		}
	}
	return locked, swappable
}

// TestRequireEncryption: where encryption is required, an encrypted dump is taken and
// all of snap's memory is locked meanwhile; where it can't be, there is none.
func TestRequireEncryption(t *testing.T) {
	labtest.NeedsDaemons(t) // no daemon, but the right to lock memory
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	key, public := keyPair(t)
	dir := t.TempDir()
	out := filepath.Join(dir, "a.dmp.zst.age")
	args := []string{"dump", "-c", "lab:///", "--require-encryption", "--encrypt-to", public, "-o", out, "win10-22h2"}

	// Root's rights but that one, which is what a unit of systemd's or a container may have.
	limited := append([]string{"--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "prlimit", "--memlock=65536", bin}, args...)
	text, err := exec.Command("setpriv", limited...).CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != exitDenied || !bytes.Contains(text, []byte("swap disk")) || !bytes.Contains(text, []byte("LimitMEMLOCK=infinity")) {
		t.Errorf("without the right to lock memory: %v: %s; want exit code %d, why, and what to do", err, text, exitDenied)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("%v was written all the same (%v)", left, err)
	}

	full := fullPipe(t)
	s := startSignalled(t, full, nil, "dump", "-c", "lab:///", "--require-encryption", "--encrypt-to", public, "--compress", "none", "-o", "-", "win10-22h2")
	s.catches(t) // it waits for its reader
	locked, swappable := lockedMemory(t, s.cmd.Process.Pid)
	if locked < 1<<20 || len(swappable) > 0 {
		t.Errorf("%d bytes are locked, and these are not: %q; want all", locked, swappable)
	}
	_ = s.cmd.Process.Kill()
	s.ends(t)

	if code := startSignalled(t, nil, nil, args...).ends(t); code != 0 {
		t.Fatalf("the dump ended with %d", code)
	}
	if code := startSignalled(t, nil, nil, "verify", "-q", "--identity", key, out).ends(t); code != 0 {
		t.Errorf("snap verify of it ended with %d", code)
	}
}
