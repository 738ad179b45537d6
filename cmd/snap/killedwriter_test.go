package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestKilledWriter: a command that has no guardian leaves nothing when it is killed in
// the middle of the file that it writes.
func TestKilledWriter(t *testing.T) {
	t.Parallel()
	file := aDump(t)
	for _, args := range [][]string{
		{"convert", file, "--level", "best", "-o"},
		{"expand", file, "-o"},
		{"dump", "-c", "lab:///", "--level", "best", "win10-22h2", "-o"},
	} {
		dir := t.TempDir()
		out := filepath.Join(dir, "out.dmp")
		if args[0] != "expand" {
			out += ".zst"
		}
		killed := 0
		for tries := 0; killed < 3 && tries < 20; tries++ {
			s := startSignalled(t, nil, nil, append(args, out, "--force")...)
			for until := time.Now().Add(endsWithin); !writesIn(s.cmd.Process.Pid, dir) && time.Now().Before(until); {
				if len(s.done) > 0 {
					break
				}
			}
			_ = s.cmd.Process.Kill()
			if code := s.ends(t); code == -1 {
				killed++
			}
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range left {
				if e.Name() != filepath.Base(out) && e.Name() != filepath.Base(out)+".json" { // it was quicker
					t.Errorf("%v left %s behind", args, e.Name())
				}
			}
		}
		if killed == 0 {
			t.Errorf("%v was never killed before its end", args)
		}
	}
}

// writesIn reports whether a process has a file open in dir.
func writesIn(pid int, dir string) bool {
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir+"/") {
			return true
		}
	}
	return false
}
